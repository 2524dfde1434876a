"""A slow function over many items, on all processors, results in order."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
WORTH = 20_000  # items from which starting processes, a second or two, pays
AHEAD = 4  # chunks in work for each process


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[Item], Result], items: Sequence[Item], chunk: int = 500,
    workers: int | None = None,
) -> Iterator[Result]:  # fmt: skip
    """``map(function, items)``; in several processes if there are WORTH items and more.

    Args:
        function: of a module, so that another process can import it; ``functools.partial`` of one
            too. Its results must not hang on the order of calls.
        chunk: items that travel together.
        workers: processes; by default one for each processor, in any case this one alone where
            there is a single processor.
    """
    count = processors() if workers is None else workers
    if count < 2 or (workers is None and len(items) < WORTH):
        yield from map(function, items)
        return
    # spawned, not forked: a fork of a process with threads or a GPU may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        chunks = _chunks(items, chunk)
        waiting: deque[Future[list[Result]]] = deque()
        work = partial(_all, function)
        for part in itertools.islice(chunks, count * AHEAD):
            waiting.append(pool.submit(work, part))
        while waiting:
            found = waiting.popleft().result()
            waiting.extend(pool.submit(work, part) for part in itertools.islice(chunks, 1))
            yield from found


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _all(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    return [function(item) for item in items]
