"""Groups of a few runs beside each other on a device, and the same groups one after the other.

Both train: an epoch of every group is one call, with the measuring at its end, in the turns that
:mod:`lib.training.abreast` and the trainer take for real runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from lib.bench.compare import compare
from lib.bench.config import BesideBench
from lib.bench.floor import Work
from lib.bench.measure import Contestant, CpuClock
from lib.bench.step import steps_of, trainer_of
from lib.bench.works import step_work
from lib.experiments import Outcome
from lib.ops.block import OP
from lib.training.abreast import Awaited, Turns, abreast, by_itself

# of training losses; of each weight's change, in which the optimiser magnifies rounding where
# gradients are small. These are the same kernels: in one queue nothing differs
TOLERANCE = (1e-5, 1e-3)
SPARE = 8  # epochs beyond the timed ones: the check, warm-up, the choice of laps


def run(bench: BesideBench) -> Outcome:
    """Time an epoch of all groups, beside each other and in turn."""
    torch._dynamo.reset()
    builders: dict[str, Callable[[], Contestant]] = {
        "beside": lambda: contestant(bench, "beside"),
        "in_turn": lambda: contestant(bench, "in_turn"),
    }
    work = Work()
    for one in steps_of(bench):
        work += bench.runs * bench.steps * step_work(one.model, bench.batch, bench.length)
    return compare(
        bench, builders, ours="beside", work=work, tolerance=TOLERANCE, op=OP, capture=False,
        clock=HostClock(torch.device(bench.device)),
    )  # fmt: skip


@dataclass(frozen=True)
class HostClock:
    """The host's clock, from an idle device to an idle device: work lies on several streams."""

    device: torch.device

    def time(self, work: Callable[[], object]) -> float:
        """Seconds that `work` took, all of it finished."""

        def whole() -> None:
            work()
            self._wait()

        self._wait()
        return CpuClock().time(whole)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def contestant(bench: BesideBench, name: str) -> Contestant:
    """An epoch of every group, "beside" each other or "in_turn", ready to be timed.

    It is checked by the training losses of every run's first epoch, and by how far that epoch has
    moved each of the groups' weights.
    """
    device = torch.device(bench.device)
    epochs = bench.repeats + SPARE
    backend = "fused" if device.type == "cuda" else "quadratic"
    trainers = [
        trainer_of(one, backend, False, epochs=epochs, steps=bench.steps) for one in steps_of(bench)
    ]
    starts = [[p.detach().clone() for p in trainer.parameters] for trainer in trainers]
    trainings = [trainer.turns() for trainer in trainers]

    def epoch() -> None:
        # each step is a turn, and so is what waits for the epoch's measuring
        parts = [_first(turns, bench.steps + 1) for turns in trainings]
        if name == "beside":
            list(abreast(((1, part) for part in parts), len(parts), device))
        else:
            for part in parts:
                by_itself(part)

    def outputs() -> Sequence[Tensor]:
        epoch()
        losses = [run[0]["train_loss"] for trainer in trainers for run in trainer.rows]
        changes = [
            weight.detach() - before
            for trainer, start in zip(trainers, starts, strict=True)
            for weight, before in zip(trainer.parameters, start, strict=True)
        ]
        return (torch.tensor(losses), *changes)

    return Contestant(name, (epoch,), outputs, most_laps=1)


def _first(turns: Iterator[Awaited | None], count: int) -> Turns[None]:
    """The next `count` turns of a training as one of their own."""
    yield from islice(turns, count)
