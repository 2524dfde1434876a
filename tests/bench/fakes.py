"""Contestants and a clock that cost no time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lib.bench.floor import Rates
from lib.bench.measure import Contestant

RATES = Rates("test device", "a test", bandwidth=1e9, fmas=1e9, products=2e9, exponentials=1e8)


class FakeClock:
    """Time passes only in :meth:`Log.contestant`'s calls, by what they are said to take."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self, work: Callable[[], Any]) -> float:
        before = self.now
        work()
        return self.now - before


class Log:
    """Contestants that note each of their calls and let the clock go on."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.calls: list[str] = []

    def contestant(
        self,
        name: str,
        seconds: float | Sequence[float],
        outputs: Sequence[torch.Tensor] | None = None,
        sets: int = 1,
        **options: Any,
    ) -> Contestant:
        """`seconds` for each call, one number or one a call (the last one stays)."""
        pace = [seconds] if isinstance(seconds, float) else list(seconds)

        def call(index: int) -> Callable[[], None]:
            def run() -> None:
                self.calls.append(f"{name}{index}")
                self.clock.now += pace.pop(0) if len(pace) > 1 else pace[0]

            return run

        shown = [torch.ones(3)] if outputs is None else list(outputs)
        return Contestant(name, tuple(map(call, range(sets))), lambda: shown, **options)
