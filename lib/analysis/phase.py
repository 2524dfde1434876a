"""Phase diagrams: maps over layers and gamma, beside published ones, and how far they agree.

A *frame* here has one row a run (``Experiment.frame``): n_layers, gamma, seed, status and metrics.
A *map* has one row a number of layers, deepest first as the paper draws them, and one column a
gamma; a cell without a number is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.analysis.statistics import rank_correlation

RESAMPLES = 2_000


@dataclass(frozen=True)
class Map:
    """One metric over layers and gamma, from our runs.

    Attributes:
        mean, low, high: over the finished seeds of a cell; NaN without one.
        done, failed: number of finished and of failed runs in a cell.
        seeds: seeds that a cell has when it is complete.
    """

    mean: pd.DataFrame
    low: pd.DataFrame
    high: pd.DataFrame
    done: pd.DataFrame
    failed: pd.DataFrame
    seeds: int

    @property
    def spread(self) -> pd.DataFrame:
        """Largest minus smallest seed, NaN below two seeds."""
        return (self.high - self.low).where(self.done > 1)


@dataclass(frozen=True)
class Diagram:
    """Runs over layers and gamma, complete or not.

    Attributes:
        frame: one row a run; failed runs may lack metrics.
        layers, gammas: the axes, whatever has run.
        seeds: seeds of a complete cell.
    """

    frame: pd.DataFrame
    layers: Sequence[int]
    gammas: Sequence[float]
    seeds: int

    def __len__(self) -> int:
        """Number of runs, failed ones among them."""
        return len(self.frame)

    def map(self, metric: str, minus: str | None = None) -> Map:
        """A metric (less the metric `minus`), run by run and then over the seeds of each cell.

        Failed runs are counted and give no number. Cells without a run stay empty.
        """
        return _map(self, metric, minus)


def _map(diagram: Diagram, metric: str, minus: str | None) -> Map:
    metrics = [metric] if minus is None else [metric, minus]
    rows = diagram.frame.reindex(columns=["n_layers", "gamma", "status", *metrics])
    done = rows[rows["status"] == "done"].dropna(subset=metrics)
    values = done[metric] if minus is None else done[metric] - done[minus]
    by_cell = done.assign(value=values.astype(float)).groupby(["n_layers", "gamma"])["value"]
    order = pd.Index(sorted(diagram.layers, reverse=True), name="n_layers")
    columns = pd.Index([float(gamma) for gamma in diagram.gammas], name="gamma")

    def grid(found: pd.Series, empty: float) -> pd.DataFrame:
        cells = pd.MultiIndex.from_product([order, columns])
        filled = found.reindex(cells, fill_value=empty).to_numpy().reshape(len(order), -1)
        return pd.DataFrame(filled, index=order, columns=columns)

    broken = rows[rows["status"] == "failed"].groupby(["n_layers", "gamma"]).size()
    nan = float("nan")
    return Map(
        grid(by_cell.mean(), nan), grid(by_cell.min(), nan), grid(by_cell.max(), nan),
        grid(by_cell.count(), 0), grid(broken, 0), diagram.seeds,
    )  # fmt: skip


def beside(ours: Map, published: pd.DataFrame) -> pd.DataFrame:
    """One row a cell that both have, with columns n_layers, gamma, seeds, ours, low, high,
    published, difference, and `inside`: whether the published number lies between our lowest and
    our highest seed, these rounded to two decimals as the paper prints."""
    names = ["seeds", "ours", "low", "high", "published"]
    stacked = [t.stack() for t in (ours.done, ours.mean, ours.low, ours.high, published)]
    table = pd.concat(stacked, axis=1, keys=names).dropna()
    table["difference"] = table["ours"] - table["published"]
    above = table["low"].round(2) <= table["published"]
    table["inside"] = above & (table["published"] <= table["high"].round(2))
    return table.reset_index()


@dataclass(frozen=True)
class Agreement:
    """How far a map of ours agrees with a published one.

    Attributes:
        cells: number of cells compared.
        inside: share of them whose range of seeds holds the published number; None if no cell has
            more than one seed.
        error: mean absolute difference; `bias`: mean difference, ours less published.
        rank: Spearman's rank correlation over cells; None below three cells or for a flat map.
        interval: 95 % interval of `rank`, cells drawn anew with replacement.
    """

    cells: int
    inside: float | None
    error: float
    bias: float
    rank: float | None
    interval: tuple[float, float] | None

    def sentence(self, what: str, where: str) -> str:
        """The numbers in words: "`what`: over 72 cells ... those of `where`"."""
        lead = "higher" if self.bias > 0 else "lower"
        level = f"ours {lead} by {abs(self.bias):.2f}" if abs(self.bias) >= 0.005 else "equal"
        text = (
            f"{what}: over {self.cells} cells ours differ from those of {where} by "
            f"{self.error:.2f} on average ({level} in the mean)"
        )
        if self.inside is not None:
            text += (
                f"; in {self.inside:.0%} of the cells the published number lies between our lowest "
                "and our highest seed"
            )
        if self.rank is not None:
            text += f"; rank correlation over cells {round(self.rank, 2) + 0.0:.2f}"  # no -0.00
        if self.interval is not None:
            text += " [{:.2f}, {:.2f}]".format(*self.interval)
        return text + "."


def agreement(table: pd.DataFrame, seed: int = 0) -> Agreement:
    """Numbers for a table of :func:`beside`.

    Raises:
        ValueError: the table has no cell.
    """
    if not len(table):
        raise ValueError("table has no cell, allowed: at least one that both maps have")
    ours, published = table["ours"].to_numpy(), table["published"].to_numpy()
    rank, interval = rank_correlation(ours, published, RESAMPLES, seed)
    gaps = table["difference"]
    inside = float(table["inside"].mean()) if table["seeds"].max() > 1 else None
    return Agreement(
        len(table), inside, float(gaps.abs().mean()), float(gaps.mean()),
        rank, interval,
    )  # fmt: skip


def furthest(table: pd.DataFrame, count: int = 4) -> str:
    """The cells of a table of :func:`beside` that differ most, in words."""
    order = table["difference"].abs().sort_values(ascending=False).index[:count]
    return "; ".join(
        f"{row.n_layers} layers, gamma {row.gamma:g} (ours {row.ours:.2f}, "
        f"published {row.published:.2f})"
        for row in table.loc[order].itertuples()
    )


def impossible_sums(frame: pd.DataFrame) -> pd.DataFrame:
    """How often a run's best composite and best symmetric accuracy add up to more than 1.

    No epoch can do that: both labels differ on every sequence. Returns one row a number of layers,
    deepest first, with columns layers, runs, "above 1" (how many of them) and "largest sum".
    """
    done = frame[frame["status"] == "done"]
    totals = (done["best_composite"] + done["best_symmetric"]).groupby(done["n_layers"])
    above = totals.agg(lambda total: int((total > 1).sum()))
    columns = {"runs": totals.count(), "above 1": above, "largest sum": totals.max()}
    return pd.DataFrame(columns)[::-1].rename_axis("layers").reset_index()


def sums_sentence(sums: pd.DataFrame, published: Mapping[str, pd.DataFrame]) -> str:
    """:func:`impossible_sums` in words, beside the cells of published maps that do the same."""
    total = published["best_composite"] + published["best_symmetric"]
    return (
        f"Best composite plus best symmetric is above 1 in {int((total > 1).sum().sum())} of the "
        f"{int(total.count().sum())} published cells, and in {sums['above 1'].sum()} of our "
        f"{sums['runs'].sum()} runs:"
    )


def thinned(curves: pd.DataFrame, points: int = 70) -> pd.DataFrame:
    """At most about `points` epochs of learning curves: evenly spaced, first and last kept.

    The epochs are the same for every run, so that mean and range over seeds are of single epochs.
    """
    epochs = np.sort(curves["epoch"].unique())
    kept = epochs[np.unique(np.linspace(0, len(epochs) - 1, points).round().astype(int))]
    return curves[curves["epoch"].isin(kept)]
