"""How omission goes with a token's place and frequency and with a chunk's perplexity, in numbers.

Input are the token tables of :func:`lib.analysis.forgetting.token_table`. Omission is a share, 0 to
1; correlations are Spearman's rho, and None where there is nothing to correlate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.analysis import omission
from lib.analysis.statistics import spearman

LEAST = 20  # occurrences of a token, or of a word class, that count

Metrics = dict[str, float | None]


def positions(items: pd.DataFrame) -> Metrics:
    """Omission in the first and the last quarter of a chunk, in the first and the last of the
    paper's bins, and its slope over the whole.

    The paper's rule has the first *the* of a text found if one *the* came back, the second if two
    did: what is lost of a repeated token then counts as lost late, wherever it was lost. So the
    quarters are given ``_even`` too, with what came back shared among all places of the token.
    """
    length = int(items["position"].max()) + 1
    place = items["position"] / length
    lost = 1.0 - items["found"]
    even = 1.0 - items.groupby(["chunk", "token"])["found"].transform("mean")
    bins = omission.position_bins(items["position"], length)
    slope = float(np.polyfit(place, lost, 1)[0])
    return {
        "omission_first_quarter": float(lost[place < 0.25].mean()),
        "omission_last_quarter": float(lost[place >= 0.75].mean()),
        "omission_first_quarter_even": float(even[place < 0.25].mean()),
        "omission_last_quarter_even": float(even[place >= 0.75].mean()),
        "omission_first_bin": float(lost[bins == bins.min()].mean()),
        "omission_last_bin": float(lost[bins == bins.max()].mean()),
        "omission_slope": slope,
    }


def prevalence(items: pd.DataFrame, perplexity: list[float] | None) -> Metrics:
    """Spearman's rho of omission with how often a token stands in the pretraining text, over
    different tokens, and with the perplexity of a chunk, over chunks; both over all categories
    together and within categories (mean).

    Tokens count that stand at least LEAST times in the chunks. ``rho_frequency_types`` says how
    many different ones those are, ``rho_frequency_within_types`` how many of a category (mean of
    the categories that have a rho): with few, rho says little.
    """
    rho, count = _rho(items)
    inside = [_rho(own) for _, own in items.groupby("category")]
    known = [(value, types) for value, types in inside if value is not None]
    out: Metrics = {
        "rho_frequency": rho,
        "rho_frequency_types": float(count),
        "rho_frequency_within": _mean([value for value, _ in known]),
        "rho_frequency_within_types": _mean([types for _, types in known]),
    }
    if perplexity is None:
        return out | {"rho_perplexity": None, "rho_perplexity_within": None}
    by_chunk = items.groupby("chunk").agg(category=("category", "first"), found=("found", "mean"))
    by_chunk["perplexity"] = perplexity
    within = [_rho_perplexity(own) for _, own in by_chunk.groupby("category")]
    out["rho_perplexity"] = _rho_perplexity(by_chunk)
    out["rho_perplexity_within"] = _mean([value for value in within if value is not None])
    return out


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _rho_perplexity(by_chunk: pd.DataFrame) -> float | None:
    return spearman(by_chunk["perplexity"], 1 - by_chunk["found"])


def _rho(items: pd.DataFrame) -> tuple[float | None, int]:
    """Of frequency and omission, and over how many different tokens."""
    kinds = items.groupby("token").agg(
        frequency=("frequency", "first"), found=("found", "mean"), count=("found", "size")
    )
    kinds = kinds[kinds["count"] >= LEAST]
    return spearman(kinds["frequency"], 1 - kinds["found"]), len(kinds)
