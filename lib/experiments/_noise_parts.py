"""Noise on a part of the facts, from published records: by side, and of which run they are.

A record counts an answer as noisy if it is the noisy answer to the letter. Whether a noise spreads
to facts that were never noisy is another question: an answer about one of them may have the noise's
form and name a wrong value. Curves hold the form of every answer and the world says which facts
were chosen, so that is had from any record, also from those that were made before it was a metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import pandas as pd

from lib.config import from_dict
from lib.experiments._noise_world import PHASES, PhaseCell, by_side
from lib.store import Record
from lib.tasks.closed_world import ClosedWorld, World, build
from lib.tasks.noise import NONE, NoiseConfig


@lru_cache(maxsize=8)
def _world(config: ClosedWorld, seed: int) -> World:
    return build(config, seed)


def sides(record: Record) -> dict[str, float | None]:
    """What :func:`by_side` gives after every phase, from the curves of a record whose noise is on
    all questions of its facts (``samples`` None).

    Raises:
        ValueError: the curves are not of the questions of the cell's world.
    """
    from lib.analysis.noise_metrics import FORMS
    from lib.analysis.world_scores import form_of

    cell = from_dict(PhaseCell, record.config)
    world = _world(cell.world, cell.seed)
    _, chosen = world.noisy_answers(NoiseConfig(cell.noise, cell.share, cell.seed), world.test)
    asked = [(item.fact, item.phrasing) for item in world.test]
    curves = record.read_curves()
    found: dict[str, float | None] = {}
    for number, phase in enumerate(PHASES):
        table = curves[curves["phase"] == number]
        if list(zip(table["fact"], table["phrasing"], strict=True)) != asked:
            raise ValueError(
                f"{record.readable}: {len(table)} answers after phase {phase!r}, allowed: those to "
                f"the {len(asked)} test questions of its world, in their order"
            )
        own = table["form"].eq(FORMS.index(form_of(cell.noise)))
        found |= by_side(table.assign(own=own), "own", chosen, phase)
    return found


def with_sides(frame: pd.DataFrame, records: Sequence[Record]) -> pd.DataFrame:
    """:func:`lib.experiments.noise_phases.frame` of `records`, its cells with noise on all
    questions of their facts, with what :func:`sides` says of each."""
    if not len(frame):
        return frame
    chosen = frame[frame["noise"].ne(NONE) & frame["samples"].isna()].set_index("name")
    by_name = {record.readable: record for record in records}
    made = pd.DataFrame({name: sides(by_name[name]) for name in chosen.index}).T.astype(float)
    rest = chosen.drop(columns=made.columns, errors="ignore")
    return pd.concat([rest, made], axis=1).copy().reset_index(names="name")


def began(record: Record) -> str:
    """The model after phase 1 that a record's phases 2 and 3 began with: commit and device of its
    training. Models of one cell that were trained apart are not the same model."""
    facts = record.provenance
    origin = (facts.get("begun_with") or {}).get("clean") or facts
    commit, device = origin.get("commit") or "unknown", origin.get("device_name") or "unknown"
    return f"{commit[:7]}, {device}"


def arm(share: float, samples: float | None) -> str:
    """For readers, which part is noisy: "all facts", "10 % of the facts", "50 questions"."""
    if samples is not None and not pd.isna(samples):
        return f"{samples:.0f} questions"
    return "all facts" if share == 1 else f"{100 * share:g} % of the facts"


def origins(frame: pd.DataFrame) -> pd.DataFrame:
    """Of which run the models of :func:`lib.experiments.noise_phases.frame` are: a row for each
    training of phase 1 (:func:`began`), architecture by architecture what it knew after phase 1 in
    percent, seed by seed, and which noises began with it."""
    rows = []
    for begun, some in frame.groupby("began", sort=False) if len(frame) else ():
        arms = [arm(share, samples) for share, samples in zip(some["share"], some["samples"],
                                                               strict=True)]  # fmt: skip
        row = {"phase 1 trained by": begun, "records": len(some),
               "noise on": ", ".join(dict.fromkeys(arms))}  # fmt: skip
        for model, part in some.groupby("model", sort=False):
            known = part.groupby("seed")["content_clean"].first()
            row[f"{model} knew after 1 / %"] = ", ".join(
                f"{100 * value:.1f} (seed {seed})" for seed, value in known.items()
            )
        rows.append(row)
    return pd.DataFrame(rows)
