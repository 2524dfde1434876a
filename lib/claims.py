"""Claims with their sources, and the verdicts that our records give on them.

A claims file ``book/claims/<chapter>.yml`` is a list of claims. Each names the cells that test it
(`experiment`, `profile`, `select`), the metric, the published value, our tolerance and its reason.

Verdicts:

* **reproduced**: the mean over seeds keeps the rule (within the tolerance of the value, or on the
  right side of it).
* **partly**: the mean does not, but at least one seed does by itself.
* **not reproduced**: neither the mean nor any seed does.
* **protocol unknown**: the source says too little for any run to decide; our number is shown.
* **not run**: fewer finished cells than the claim asks for.

``scaled`` marks a verdict from cells that are smaller than the published protocol. Cells of the
quick profile never give a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from lib.analysis.statistics import mean_interval
from lib.config import flatten, from_dict, lookup, to_dict
from lib.experiments import cells_of, find
from lib.store import Record, Store

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
        experiment, profile, select: the cells that test it. `select` maps config names to values.
        metric: name in the records' metrics; `minus`: a second metric to subtract.
        value: the published number.
        rule: "within" tolerance of value, "at least" or "at most" value (less the tolerance).
        tolerance, tolerance_reason: how far off still counts, and why.
        seeds: finished cells needed for a verdict; None means all that `select` finds.
        limits: values that the metric can take, (0, 1) for an accuracy; our interval is cut there.
        unknown: if set, why no run can decide (verdict "protocol unknown").
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
    rule: Literal["within", "at least", "at most"] = "within"
    seeds: int | None = None
    limits: tuple[float, float] | None = None
    unknown: str | None = None
    scaled: bool = False
    note: str | None = None

    def __post_init__(self) -> None:
        if self.profile not in ("matched", "paper"):
            raise ValueError(
                f"profile is {self.profile!r}, allowed: matched, paper "
                "(quick runs never give a verdict)"
            )
        if self.tolerance < 0:
            raise ValueError(f"tolerance is {self.tolerance}, allowed: 0 or more")
        if not self.tolerance_reason.strip():
            raise ValueError("tolerance_reason is empty; a tolerance needs its reason")

    @property
    def chapter(self) -> str:
        """First part of the id."""
        return self.id.split(".", 1)[0]

    @property
    def rule_text(self) -> str:
        """The rule as readers see it."""
        if self.rule == "within":
            return f"{self.value:g} ± {self.tolerance:g}"
        bound = (
            self.value - self.tolerance if self.rule == "at least" else self.value + self.tolerance
        )
        return f"{'≥' if self.rule == 'at least' else '≤'} {bound:g}"

    def distance(self, ours: float) -> float:
        """How far `ours` lies outside what the rule allows; 0 inside."""
        below = self.value - self.tolerance - ours
        above = ours - self.value - self.tolerance
        if self.rule == "at least":
            return max(0.0, below)
        if self.rule == "at most":
            return max(0.0, above)
        return max(0.0, below, above)


def load_claims(root: Path) -> list[Claim]:
    """Claims of every ``book/claims/*.yml``, checked.

    Raises:
        ClaimError: unreadable file, unknown field, doubled id, unknown experiment or metric filter.
    """
    claims: dict[str, Claim] = {}
    for path in sorted((root / "book" / "claims").glob("*.yml")):
        try:
            entries = yaml.safe_load(path.read_text()) or []
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
                cells_for(claim)
            except ValueError as error:
                raise ClaimError(f"{path.name}, {where}: {error}") from error
            claims[claim.id] = claim
    return list(claims.values())


def cells_for(claim: Claim) -> list[Any]:
    """The cells that test `claim`.

    Raises:
        ValueError: unknown experiment or name in `select`, or no cell fits.
    """
    cells = []
    for cell in cells_of(find(claim.experiment), claim.profile):
        flat = flatten(to_dict(cell))
        if all(flat[lookup(flat, name)] == value for name, value in claim.select.items()):
            cells.append(cell)
    if not cells:
        raise ValueError(f"select {claim.select} fits no cell of {claim.experiment}")
    return cells


@dataclass(frozen=True)
class Verdict:
    """What our records say of a claim.

    Attributes:
        verdict: one of :data:`VERDICTS`.
        mean: mean over seeds of the metric, None without a finished cell.
        interval: 95 % interval of the mean over seeds (Student's t), None below two seeds.
        values: the metric, one a finished cell.
        done, failed, expected: numbers of cells.
        records: file names of the records used.
    """

    claim: Claim
    verdict: str
    mean: float | None
    interval: tuple[float, float] | None
    values: tuple[float, ...]
    done: int
    failed: int
    expected: int
    records: tuple[str, ...]


def judge(claim: Claim, store: Store) -> Verdict:
    """The verdict on `claim` from the records in `store`."""
    cells = cells_for(claim)
    protocol = find(claim.experiment).protocol
    found = [r for r in store.records(claim.experiment, protocol, cells) if r is not None]
    usable = [r for r in found if r.status == "done" and _measure(claim, r) is not None]
    values = tuple(float(_measure(claim, r) or 0.0) for r in usable)
    mean, interval = mean_interval(values) if values else (None, None)
    if interval is not None and claim.limits is not None:
        low, high = claim.limits
        interval = (max(low, interval[0]), min(high, interval[1]))
    needed = claim.seeds if claim.seeds is not None else len(cells)
    if len(values) < needed or mean is None:
        verdict = "not run"
    elif claim.unknown:
        verdict = "protocol unknown"
    elif claim.distance(mean) == 0:
        verdict = "reproduced"
    elif any(claim.distance(value) == 0 for value in values):
        verdict = "partly"
    else:
        verdict = "not reproduced"
    return Verdict(
        claim, verdict, mean, interval, values, len(values),
        sum(r.status == "failed" for r in found), len(cells), tuple(r.name for r in usable),
    )  # fmt: skip


def _measure(claim: Claim, record: Record) -> float | None:
    value = record.metrics.get(claim.metric)
    if value is None or claim.minus is None:
        return value
    other = record.metrics.get(claim.minus)
    return None if other is None else value - other


def report(root: Path, store: Store | None = None) -> list[dict[str, Any]]:
    """One row a claim, ready for tables and JSON."""
    store = store or Store.at(root)
    rows = []
    for claim in load_claims(root):
        verdict = judge(claim, store)
        rows.append(
            {
                "id": claim.id,
                "chapter": claim.chapter,
                "statement": claim.statement,
                "source": f"{claim.source}, {claim.where}",
                "source_key": claim.source,
                "where": claim.where,
                "paper_value": claim.value,
                "value_text": claim.rule_text,
                "our_mean": verdict.mean,
                "interval": list(verdict.interval) if verdict.interval else None,
                "values": list(verdict.values),
                "seeds": verdict.done,
                "failed": verdict.failed,
                "expected_seeds": verdict.expected,
                "verdict": verdict.verdict,
                "scaled": claim.scaled,
                "tolerance_text": f"{claim.rule_text}: {claim.tolerance_reason}",
                "profile": claim.profile,
                "experiment": claim.experiment,
                "notebook": find(claim.experiment).notebook,
                "records": list(verdict.records),
                "note": claim.unknown or claim.note,
            }
        )
    return rows
