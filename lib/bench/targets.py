"""What the book's code has to reach, and how far it is: each target beside its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lib.bench.config import Bench, StepBench, SweepBench
from lib.experiments import cells_of, find
from lib.experiments.foundations import PREFIX
from lib.store import Store


@dataclass(frozen=True)
class Target:
    """One row of the table of targets.

    Attributes:
        work: what is measured, for people.
        kind: the benchmark's subcommand.
        cell: the benchmark whose record has the number.
        metric: name of the number in it; `scale` turns it into `unit`.
        unit: for people; "" for a ratio.
        reach: what must be reached; `aim`: what we go on to try, None for nothing more.
        better: whether "less" or "more" of it is better.
    """

    work: str
    kind: str
    cell: Bench
    metric: str
    unit: str
    reach: float
    aim: float | None
    better: Literal["less", "more"] = "less"
    scale: float = 1.0

    def reached(self, value: float) -> float:
        """How far `value` is, from 1 on for reached: reach / value, or value / reach."""
        return self.reach / value if self.better == "less" else value / self.reach


def _cell(kind: str, **wanted: Any) -> Any:
    """The one full benchmark of a kind with these fields; `n_layers` and `block` are a model's."""
    found = []
    for cell in cells_of(find(PREFIX + kind), "paper"):
        fields = dict(vars(cell))
        if isinstance(cell, StepBench):
            fields["n_layers"] = cell.model.n_layers
            fields["block"] = cell.model.pattern[0].kind
        if all(fields[name] == value for name, value in wanted.items()):
            found.append(cell)
    if len(found) != 1:
        raise ValueError(f"{len(found)} benchmarks of {kind} have {wanted}, allowed: one")
    return found[0]


def targets() -> list[Target]:
    """All targets, as the issue that asked for them sets them: an H100 80 GB, float32 unless said;
    processor targets on two cores."""
    scan = _cell("scan", batch=2048, length=8, direction="both")
    mamba1 = _cell("step", block="mamba1", n_layers=7)
    mamba2 = _cell("step", block="mamba2", n_layers=7, runs=36)
    rows = [
        Target("Mamba-1 scan, batch 2048, 64 channels, length 8, state 128, forward and backward",
               "scan", scan, "fused.ms", "ms", 0.6, 0.25),
        Target("One training step, 7 layers, batch 2048, Mamba-1",
               "step", mamba1, "fused.ms", "ms", 6.0, 3.0),
        Target("One training step, 7 layers, batch 2048, Mamba-2, per run of 36 at once",
               "step", mamba2, "fused.ms", "ms", 0.9, 0.3, scale=1 / mamba2.runs),
        Target("The phase diagram, Mamba-2: 72 configurations, 3 seeds, 25,830 steps",
               "sweep", _cell("sweep"), "minutes", "min", 60.0, 20.0),
        Target("Mamba-1 language model of 130M, batch 32 x 512, bfloat16: speed over mamba_ssm's",
               "language", _cell("language"), "ratio.mamba_ssm", "", 1.0, 1.3, "more"),
    ]  # fmt: skip
    for threads in (1, 2):
        for direction, text in (("forward", "forward"), ("both", "forward and backward")):
            cell = _cell("cpu", threads=threads, direction=direction)
            for peer, name in (("transformers", "transformers' slow path"), ("mambapy", "mambapy")):
                work = f"Mamba-1 on a processor, {threads} thread{'s'[: threads - 1]}, {text}: "
                rows.append(
                    Target(work + f"speed over {name}", "cpu", cell, f"ratio.{peer}", "", 1.0,
                           None, "more")
                )  # fmt: skip
    return rows


def table(store: Store) -> list[dict[str, str]]:
    """One row a target: work, floor, must reach, aim, measured, how far, device, record.

    A target without a record says so and how to run it.
    """
    out = []
    for target in targets():
        experiment = find(PREFIX + target.kind)
        (record,) = store.records(experiment.name, experiment.protocol, [target.cell])
        value = None if record is None else record.metrics.get(target.metric)
        row = {
            "work": target.work,
            "floor": "",
            "must reach": _with_unit(target.reach, target),
            "aim": "" if target.aim is None else _with_unit(target.aim, target),
        }
        if record is None or value is None:
            state = "not run yet" if record is None else f"no number ({record.reason})"
            row |= {"measured": state, "reached": "", "device": "",
                    "record": f"python -m lib bench {target.kind}"}  # fmt: skip
        else:
            value *= target.scale
            share = target.reached(value)
            row["floor"] = _floor(target, record.metrics)
            row |= {"measured": _with_unit(value, target), "reached": f"{share:.2f} times",
                    "device": record.provenance.get("device_name", ""),
                    "record": record.name}  # fmt: skip
        out.append(row)
    return out


def _floor(target: Target, metrics: dict[str, float]) -> str:
    name = "floor_minutes" if isinstance(target.cell, SweepBench) else "floor_ms"
    if target.unit == "" or name not in metrics:
        return ""
    return _with_unit(metrics[name] * target.scale, target)


def _with_unit(value: float, target: Target) -> str:
    return f"{value:.3g} {target.unit}".strip()
