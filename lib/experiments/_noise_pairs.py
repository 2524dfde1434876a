"""Architectures compared fact by fact: with one seed they have one world and the same questions.

The unit is a fact, since its questions go together; facts of several seeds are facts of different
worlds. A chance of few in a hundred speaks of other facts; how far it would be so in other training
runs, the count of seeds with the same sign says, as far as so few can.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from lib.experiments._noise_world import PHASES
from lib.store import Record

# measure and phase that are compared
COMPARED = (("content", "noisy"), ("content", "again"), ("noise", "again"))
COLUMNS = ["noise", "models", "measure", "phase", "difference", "p", "seeds", "same sign"]


def for_readers(table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """:func:`pairs` with a row for each noise and pair of models and a column a measure, such as
    ``+9.9 (3 of 3, p 0.001)``: points, seeds with that sign, chance."""
    if not len(table):
        return table
    said = []
    for row in table.rename(columns={"same sign": "same"}).itertuples():
        points = f"{row.difference:+.{1 if abs(row.difference) >= 0.05 else 2}f}"
        tail = f" ({row.same} of {row.seeds}, p {max(row.p, 0.001):.2g})"
        said.append(points + tail if row.difference else "0")
    names = {
        ("content", "noisy"): "known in 2", ("content", "again"): "known after 3",
        ("noise", "again"): "noisy after 3",
    }  # fmt: skip
    column = [names[pair] for pair in zip(table["measure"], table["phase"], strict=True)]
    made = table[["noise", "models"]].assign(column=column, said=said)
    made["noise"] = made["noise"].map(lambda name: titles.get(name, name))
    wide = made.pivot(index=["noise", "models"], columns="column", values="said")
    order = pd.MultiIndex.from_frame(made[["noise", "models"]].drop_duplicates())
    return wide.reindex(order)[list(names.values())].rename_axis(columns=None).reset_index()


def by_fact(record: Record, measure: str, phase: str) -> pd.Series:
    """A measure after a phase, averaged over the questions of each fact."""
    curves = record.read_curves()
    part = curves[curves["phase"] == PHASES.index(phase)]
    return part.groupby("fact")[measure].mean()


def pairs(
    records: Sequence[Record], describe: Callable[[Record], tuple[str, str, int]]
) -> pd.DataFrame:
    """A row for each noise, pair of models and COMPARED measure, over the seeds that both have.

    Args:
        records: one for each model, noise and seed.
        describe: a record to its model (as readers see it), noise and seed.

    Returns:
        COLUMNS: ``difference``, first less second model, in points; ``p`` of a sign test of facts
        in pairs; ``same sign``: seeds in which the difference has the sign of all together.
    """
    from lib.analysis.statistics import paired_test

    known = {describe(record): record for record in records}
    models = list(dict.fromkeys(model for model, _, _ in known))
    noises = list(dict.fromkeys(noise for _, noise, _ in known))
    seeds = list(dict.fromkeys(seed for _, _, seed in known))
    rows = []
    for noise, (first, second) in itertools.product(noises, itertools.combinations(models, 2)):
        both = [s for s in seeds if (first, noise, s) in known and (second, noise, s) in known]
        if not both:
            continue
        for measure, phase in COMPARED:
            a, b = (
                [by_fact(known[model, noise, seed], measure, phase) for seed in both]
                for model in (first, second)
            )
            each = [float((x - y).mean()) for x, y in zip(a, b, strict=True)]
            whole, chance = paired_test(
                np.concatenate(a).tolist(), np.concatenate(b).tolist(), samples=2000
            )
            same = sum(np.sign(one) == np.sign(whole) for one in each)
            rows.append((noise, f"{first} – {second}", measure, phase, 100 * whole, chance,
                         len(both), int(same)))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)
