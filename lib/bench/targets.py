"""What the book's code has to reach, and how far it is: each target beside its record.

The time of the whole phase diagram is reckoned from times of a step; what its published runs took,
evaluations included, stands in a row of its own below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lib import provenance, sessions
from lib.bench import table as tables
from lib.bench.config import Bench, CpuBench, StepBench, SweepBench
from lib.bench.recorded import Recorded, recorded
from lib.experiments import cells_of, find
from lib.experiments.foundations import PREFIX
from lib.store import Store

GPU, PROCESSOR = "H100", "processor, two cores"  # what targets were set for
SWEPT = "achilles.phase_diagram"  # the runs whose time the sweep's benchmark reckons


@dataclass(frozen=True)
class Target:
    """One row of the table of targets.

    Attributes:
        work: what is measured, for people.
        kind: the benchmark's subcommand.
        cell: the benchmark whose record has the number.
        metric: name of the number in it; `scale` turns it into `unit`.
        unit: for people; "" for a ratio, which is shown as "times".
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

    @property
    def set_for(self) -> str:
        """The device that the target was set for."""
        return PROCESSOR if isinstance(self.cell, CpuBench) else f"{GPU} 80 GB"

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
    then those of a processor, on two cores."""
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
        Target("The phase diagram, Mamba-2: 72 configurations, 3 seeds, 25,830 steps; "
               "extrapolated: the time of a step times steps, no evaluations",
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
    """One row a target: work, device that it was set for, floor, must reach, aim, measured, how
    far, device and day of the record, record.

    A target without a record says so and how to run it. Where all runs of the phase diagram have
    records, their own time is a row below the target's.
    """
    out = []
    for target in targets():
        experiment = find(PREFIX + target.kind)
        (record,) = store.records(experiment.name, experiment.protocol, [target.cell])
        value = None if record is None else record.metrics.get(target.metric)
        row = {
            "work": target.work,
            "set for": target.set_for,
            "floor": "",
            "must reach": _with_unit(target.reach, target),
            "aim": "" if target.aim is None else _with_unit(target.aim, target),
        }
        if record is None or value is None:
            state = "not run yet" if record is None else f"no number ({record.reason})"
            row |= {"measured": state, "reached": "", "device": "", "day": "",
                    "record": f"python -m lib bench {target.kind}"}  # fmt: skip
        else:
            value *= target.scale
            share = target.reached(value)
            row["floor"] = _floor(target, record.metrics)
            reached = f"{share:.2f} times"
            peer = target.metric.removeprefix("ratio.")
            if f"{target.metric}.low" in record.metrics and tables.is_even(record.metrics, peer):
                reached += f", {tables.EVEN}"
            row |= {"measured": _with_unit(value, target), "reached": reached,
                    "device": record.provenance.get("device_name", ""),
                    "day": record.started[:10], "record": record.name}  # fmt: skip
        out.append(row)
        if isinstance(target.cell, SweepBench):
            out += _real_runs(target, row, store)
    return out


def _real_runs(target: Target, row: dict[str, str], store: Store) -> list[dict[str, str]]:
    """The row of what the runs themselves took, if all of them have a record."""
    found = recorded(SWEPT, store=store)
    if not found.whole:
        return []
    devices = {name: None for facts in found.facts for name in sessions.devices(facts)}
    days = sorted({str(facts.get("started", ""))[:10] for facts in found.facts})
    minutes = found.minutes
    work = "The same, as its runs took it, evaluations included"
    if found.certainty:
        work += f"; {_reckoned(found)}"
    return [{
        **row, "work": work, "floor": "",
        "measured": f"{found.certainty}{_with_unit(minutes, target)}",
        "reached": f"{found.certainty}{target.reached(minutes):.2f} times",
        "device": next(iter(devices)) if len(devices) == 1 else
        ", ".join(map(provenance.short_device, devices)),
        "day": " to ".join(dict.fromkeys([days[0], days[-1]])),
        "record": f"{SWEPT}, {len(found.facts)} records",
    }]  # fmt: skip


def _reckoned(found: Recorded) -> str:
    """Why a time is not known exactly."""
    if found.certainty == sessions.AT_MOST:
        return "some of them count the whole of a time that they shared"
    rest = {
        sessions.ABOUT: "the rest reckoned from the pace of parts",
        sessions.AT_LEAST: "some of the rest not counted",
    }[found.certainty]
    return f"{found.timed:.1f} min of it timed, {rest}"


def _floor(target: Target, metrics: dict[str, float]) -> str:
    name = "floor_minutes" if isinstance(target.cell, SweepBench) else "floor_ms"
    if target.unit == "" or name not in metrics:
        return ""
    return _with_unit(metrics[name] * target.scale, target)


def _with_unit(value: float, target: Target) -> str:
    return f"{value:.3g} {target.unit or 'times'}"
