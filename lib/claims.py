"""Claims with their sources, and the verdicts that our records give on them.

A claims file ``book/claims/<chapter>.yml`` is a list of claims. Each names the cells that test it
(`experiment`, `profile`, `select`), the metric, the published value, our tolerance and its reason.
A claim may be about a region of a map: `select` then takes lists of values, the cells of each seed
are combined first, and mean and interval are over the seeds.

Verdicts:

* **reproduced**: the mean over seeds keeps the rule (within the tolerance of the value, or on the
  right side of it).
* **partly**: the mean does not, but at least one seed does by itself.
* **not reproduced**: neither the mean nor any seed does.
* **protocol unknown**: no run can decide, see `unknown`; our number is shown if there is one.
* **not run**: fewer finished cells than the claim asks for.

``scaled`` marks a verdict from cells that are smaller than the published protocol. Cells of the
quick profile never give a verdict.
"""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from lib.analysis.statistics import mean_interval
from lib.config import from_dict
from lib.evidence import Evidence as Evidence  # callers need it beside judge()
from lib.experiments import find
from lib.store import Record, Store

# libyaml's parser reads the same files eight times faster; not every installation has it
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
EDGE = 1e-9  # of a tolerance, within which a number is still inside
VERDICTS = ("reproduced", "partly", "not reproduced", "protocol unknown", "not run")


class ClaimError(ValueError):
    """A claims file that cannot be used, naming file, claim and field."""


@dataclass(frozen=True)
class Claim:
    """One published sentence with a number.

    Attributes:
        id: unique, ``"achilles.composite.l7-best"``.
        statement: the sentence, in our words.
        source: bibtex key of where it was published; `where`: figure or table there.
        experiment, profile, select: the cells that test it. `select` maps config names to a value,
            or to a list of values of which any will do.
        metric: name in the records' metrics; `minus`: a second metric to subtract.
        against: changes to `select`, naming other cells: the same measure of these, of the same
            seed, is subtracted. For sentences that compare two lengths or two models.
        combine: what becomes of several cells of one seed: their "mean", or the "share above zero"
            (with `minus`: the share of cells in which the first metric is the larger).
        value: the published number.
        quantity: what the numbers are, where the metric is no share of right answers: "exponent of
            the length", "MB".
        rule: "within" tolerance of value, "at least" or "at most" value (less the tolerance).
        tolerance, tolerance_reason: how far off still counts, and why.
        seeds: seeds needed for a verdict, each with every cell finished; None means all seeds
            that `select` finds.
        limits: values that the metric can take, (0, 1) for an accuracy; our interval is cut there.
        unknown: why no run can decide, such as a source that says too little, or models of ours
            that leave an effect no room (verdict "protocol unknown").
        scaled: whether the cells are smaller than the published protocol.
        note: for the reader.
    """

    id: str
    statement: str
    source: str
    where: str
    experiment: str
    profile: str
    metric: str
    value: float
    tolerance: float
    tolerance_reason: str
    select: dict[str, Any] = field(default_factory=dict)
    minus: str | None = None
    against: dict[str, Any] = field(default_factory=dict)
    combine: Literal["mean", "share above zero"] = "mean"
    rule: Literal["within", "at least", "at most"] = "within"
    seeds: int | None = None
    limits: tuple[float, float] | None = None
    unknown: str | None = None
    scaled: bool = False
    note: str | None = None
    quantity: str | None = None

    def __post_init__(self) -> None:
        if self.profile not in ("matched", "paper"):
            raise ValueError(
                f"profile is {self.profile!r}, allowed: matched, paper "
                "(quick runs never give a verdict)"
            )
        if not math.isfinite(self.value):
            raise ValueError(f"value is {self.value}, allowed: a finite number")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance is {self.tolerance}, allowed: 0 or more and finite")
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}, allowed: 1 or more")
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise ValueError(f"limits are {list(self.limits)}, allowed: a lower and a higher one")
        if not self.tolerance_reason.strip():
            raise ValueError("tolerance_reason is empty; a tolerance needs its reason")

    @property
    def chapter(self) -> str:
        """First part of the id."""
        return self.id.split(".", 1)[0]

    @property
    def other(self) -> Claim:
        """The same claim about the cells that it is held `against`."""
        return replace(self, select={**self.select, **self.against}, against={})

    @property
    def shown_quantity(self) -> str | None:
        """`quantity`, or what `combine`, `minus` and `against` make of the metric; None of the
        metric itself."""
        if self.quantity or not (self.minus or self.against):
            return self.quantity
        return "share of cells" if self.combine == "share above zero" else "difference"

    @property
    def rule_text(self) -> str:
        """The rule as readers see it."""
        if self.rule == "within":
            return f"{self.value:g} ± {self.tolerance:g}"
        bound = (
            self.value - self.tolerance if self.rule == "at least" else self.value + self.tolerance
        )
        return f"{'≥' if self.rule == 'at least' else '≤'} {bound:g}"

    @property
    def published(self) -> float | None:
        """The published number; None of a claim that is a direction, whose bound is ours alone."""
        return None if self.rule != "within" and self.tolerance == 0 else self.value

    def distance(self, ours: float) -> float:
        """How far `ours` lies outside what the rule allows; 0 inside, its edges included, of which
        sums of decimal fractions may miss a last digit."""
        below = self.value - self.tolerance - ours
        above = ours - self.value - self.tolerance
        outside = {"at least": below, "at most": above}.get(self.rule, max(below, above))
        return outside if outside > EDGE else 0.0


def load_claims(
    root: Path, evidence: Evidence | None = None, chapter: str | None = None
) -> list[Claim]:
    """Claims of every ``book/claims/*.yml``, or of one `chapter`, checked.

    Raises:
        ClaimError: unreadable file, unknown field, doubled id, unknown experiment or metric filter.
    """
    evidence = evidence or Evidence()
    claims: dict[str, Claim] = {}
    for path in sorted((root / "book" / "claims").glob(f"{chapter or '*'}.yml")):
        try:
            entries = yaml.load(path.read_text(), LOADER) or []
        except yaml.YAMLError as error:
            raise ClaimError(f"{path.name} is not YAML: {error}") from error
        if not isinstance(entries, list):
            raise ClaimError(f"{path.name} must hold a list of claims")
        for number, entry in enumerate(entries, 1):
            where = entry.get("id", f"claim {number}") if isinstance(entry, dict) else number
            try:
                claim = from_dict(Claim, entry, "claim")
                if claim.chapter != path.stem:
                    raise ValueError(f"id is {claim.id!r}, allowed: an id that starts {path.stem}.")
                if claim.id in claims:
                    raise ValueError("this id is used twice")
                evidence.cells(claim)
                evidence.cells(claim.other)
            except ValueError as error:
                raise ClaimError(f"{path.name}, {where}: {error}") from error
            claims[claim.id] = claim
    return list(claims.values())


@dataclass(frozen=True)
class Verdict:
    """What our records say of a claim.

    Attributes:
        verdict: one of :data:`VERDICTS`.
        mean: mean over seeds of the metric, None without a seed that has all its cells.
        interval: 95 % interval of the mean over seeds (Student's t), None below two seeds.
        values: the metric, one a seed that has all its cells.
        done, expected: numbers of such seeds, and of all.
        cells_done, cells_expected: numbers of cells.
        failed: number of cells that failed.
        records: file names of the records behind `values`.
    """

    claim: Claim
    verdict: str
    mean: float | None
    interval: tuple[float, float] | None
    values: tuple[float, ...]
    done: int
    expected: int
    cells_done: int
    cells_expected: int
    failed: int
    records: tuple[str, ...]


def judge(claim: Claim, store: Store, evidence: Evidence | None = None) -> Verdict:
    """The verdict on `claim` from the records in `store` (`evidence`: what was looked up there).
    Finished ones of which none has its metric are a ClaimError."""
    evidence = evidence or Evidence(store)
    found = evidence.records(claim)
    seeds, whole = _by_seed(claim, found)
    used: dict[int, list[str]] = defaultdict(list)
    for cell, record in found.items():
        used[cell.seed] += [record.name] if record else []
    if claim.against:
        others = evidence.records(claim.other)
        more, subtracted = _by_seed(claim, others)
        whole = {seed: whole[seed] - subtracted[seed] for seed in whole if seed in subtracted}
        for seed, cells in more.items():
            seeds[seed] = seeds.get(seed, []) + cells
        for cell, record in others.items():
            used[cell.seed] += [record.name] if record else []
        found = {**found, **others}
    values = tuple(whole.values())
    mean, interval = mean_interval(values) if values else (None, None)
    if interval is not None and claim.limits is not None:
        low, high = claim.limits
        interval = (max(low, interval[0]), min(high, interval[1]))
    needed = claim.seeds if claim.seeds is not None else len(seeds)
    if claim.unknown:
        verdict = "protocol unknown"  # with runs or without
    elif len(values) < needed or mean is None:
        verdict = "not run"
    elif claim.distance(mean) == 0:
        verdict = "reproduced"
    elif any(claim.distance(value) == 0 for value in values):
        verdict = "partly"
    else:
        verdict = "not reproduced"
    return Verdict(
        claim, verdict, mean, interval, values, len(values), len(seeds),
        sum(value is not None for cells in seeds.values() for value in cells), len(found),
        sum(r is not None and r.status == "failed" for r in found.values()),
        tuple(name for seed in whole for name in used[seed]),
    )  # fmt: skip


def _check_metrics(claim: Claim, records: Iterable[Record | None]) -> None:
    """A name that no record has is misspelt: "not run" would hide that for good. Of a claim that no
    run can decide, perhaps none measures it."""
    if claim.unknown:
        return
    done = [record for record in records if record is not None and record.status == "done"]
    for name in filter(None, (claim.metric, claim.minus)):
        if done and not any(name in record.metrics for record in done):
            known = {metric for record in done for metric in record.metrics}
            near = ", ".join(difflib.get_close_matches(name, sorted(known), cutoff=0.0))
            raise ClaimError(f"{claim.id}: metric is {name!r}, allowed: of its records', as {near}")


def _by_seed(
    claim: Claim, found: dict[Any, Record | None]
) -> tuple[dict[int, list[float | None]], dict[int, float]]:
    """The measures of each seed's cells, and of seeds that have all of them the one number."""
    _check_metrics(claim, found.values())
    seeds: dict[int, list[float | None]] = defaultdict(list)
    for cell, record in found.items():
        done = record is not None and record.status == "done"
        seeds[cell.seed].append(_measure(claim, record) if done and record else None)
    whole = {seed: _combine(claim, cells) for seed, cells in seeds.items() if None not in cells}
    return dict(seeds), whole


def _combine(claim: Claim, cells: Sequence[float | None]) -> float:
    """One number for the cells of one seed."""
    values = [float(value) for value in cells if value is not None]
    if claim.combine == "share above zero":
        return sum(value > 0 for value in values) / len(values)
    return sum(values) / len(values)


def _measure(claim: Claim, record: Record) -> float | None:
    value = record.metrics.get(claim.metric)
    if value is None or claim.minus is None:
        return value
    other = record.metrics.get(claim.minus)
    return None if other is None else value - other


def shown_in(claim: Claim, root: Path) -> str:
    """The notebook that shows a claim: that of its name, else that of its experiment."""
    own = f"notebooks/{claim.chapter}/{'/'.join(claim.id.split('.')[1:2])}.ipynb"
    return own if (root / own).is_file() else find(claim.experiment).notebook


def report(
    root: Path, store: Store | None = None, chapter: str | None = None, prefix: str = ""
) -> list[dict[str, Any]]:
    """One row a claim, ready for tables and JSON.

    Args:
        chapter, prefix: only claims of this chapter, and whose id starts so; records of others are
            not read.
    """
    store = store or Store.at(root)
    evidence = Evidence(store)
    rows = []
    for claim in load_claims(root, evidence, chapter):
        if not claim.id.startswith(prefix):
            continue
        verdict = judge(claim, store, evidence)
        rows.append(
            {
                "id": claim.id,
                "chapter": claim.chapter,
                "statement": claim.statement,
                "source": f"{claim.source}, {claim.where}",
                "source_key": claim.source,
                "where": claim.where,
                "paper_value": claim.published,
                "value_text": claim.rule_text,
                "quantity": claim.shown_quantity,
                "our_mean": verdict.mean,
                "interval": list(verdict.interval) if verdict.interval else None,
                "values": list(verdict.values),
                "seeds": verdict.done,
                "failed": verdict.failed,
                "expected_seeds": verdict.expected,
                "cells": verdict.cells_done,
                "expected_cells": verdict.cells_expected,
                "verdict": verdict.verdict,
                "scaled": claim.scaled,
                "tolerance_text": f"{claim.rule_text}: {claim.tolerance_reason}",
                "profile": claim.profile,
                "experiment": claim.experiment,
                "notebook": shown_in(claim, root),
                "records": list(verdict.records),
                "note": claim.unknown or claim.note,
            }
        )
    return rows
