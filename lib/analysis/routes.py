"""From which tokens trained models read what they know of the pair.

Two interventions of arXiv 2509.17514 (Fig. 6) together tell it. A model to which what the
convolution wrote into the tokens behind the pair is enough keeps its answer when S is cut from key
and anchors to those tokens, and answers as the twin does when they carry the twin's convolved
states. A model that reads the pair's own tokens through S does neither. That says nothing of where
key and anchors are put together: the second anchor's convolution sees all three.

Both tests are of models that have learnt the pairs, so that a sequence and its twin are answered
differently. A model before training passes either: it keeps its answer since nothing of the pair
reaches it, and answers as the twin since it did so before. So the same models before training stand
beside the trained ones.

A *frame* here has one row a run, with the metrics of ``lib.experiments.interventions.inspect``.
"""

from __future__ import annotations

import pandas as pd

from lib.analysis.statistics import rank_correlation

# Where a group ends. Chosen after the values were seen; they name groups and decide no verdict.
MOST, LEAST = 0.95, 0.05
# blocks in the words of readers, the paper's first; layers of models whose name does not say
NAMES, USUAL = {"mamba2": "Mamba-2", "mamba1": "Mamba-1"}, 2
BEHIND, PAIR, BOTH = "the tokens behind the pair", "the pair's own tokens", "both"
KEPT, GIVEN = "blocking_inner_mean_after_pair", "substitution_inner_mean"
CONTROLS = {
    "blocking_inner_mean_untrained": "kept_untrained",
    "substitution_inner_mean_untrained": "given_untrained",
}


def model_name(block: str, n_layers: float) -> str:
    """A model for readers; its depth only where it is not that of most."""
    return NAMES[block] if n_layers == USUAL else f"{NAMES[block]}, {n_layers:g} layers"


def routes(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a run that was looked into.

    Returns:
        Columns block, n_layers, gamma, model (all three, for readers), seed; kept (share of
        sequences whose answer stays when S is cut behind the pair, the pair never last); given
        (share answered as the twin after substitution); kept_untrained and given_untrained (the
        same model before training; kept there with the anchors among the later tokens);
        best_composite, final_composite; and route: BEHIND where kept and given are at least
        MOST, PAIR where both are at most LEAST, else BOTH.
    """
    names = {KEPT: "kept", GIVEN: "given", **CONTROLS}
    columns = ["block", "n_layers", "gamma", "seed", *names, "best_composite", "final_composite"]
    table = frame.reindex(columns=columns).rename(columns=names)
    table = table.dropna(subset=["kept", "given"]).reset_index(drop=True)
    pair = table[["kept", "given"]]
    kinds = zip(table["block"], table["n_layers"], table["gamma"], strict=True)
    table["model"] = [f"{model_name(block, n)}, γ {gamma:g}" for block, n, gamma in kinds]
    table["route"] = BOTH
    table.loc[(pair >= MOST).all(axis=1), "route"] = BEHIND
    table.loc[(pair <= LEAST).all(axis=1), "route"] = PAIR
    return table


def routes_sentence(table: pd.DataFrame) -> str:
    """How many models go which way, how well each kind composes, and what the control says, as
    Markdown.

    Args:
        table: of :func:`routes`, not empty.

    Raises:
        ValueError: no run.
    """
    if not len(table):
        raise ValueError("table has no run, allowed: at least one")
    parts = []
    for route in (BEHIND, PAIR, BOTH):
        rows = table[table["route"] == route]
        if len(rows):
            best = rows["best_composite"]
            parts.append(
                f"**{len(rows)}** from {route} (best composite accuracy "
                f"{best.min():.2f} to {best.max():.2f})"
            )
    text = (
        f"Of {len(table)} trained models, what tells of the pair is read, in the sense above, in "
    )
    text += ", in ".join(parts) + ". "
    kept, given = (table[name] for name in CONTROLS.values())
    both = (table[list(CONTROLS.values())] >= MOST).all(axis=1).sum()
    text += (
        f"Before training the same cut left {kept.min():.0%} to {kept.max():.0%} of the answers as "
        f"they were, and after the exchange {given.min():.0%} to {given.max():.0%} were the "
        f"twin's: {both} of {len(table)} pass both tests before they have learnt anything. "
    )
    found = {
        when: rank_correlation(table["kept"].to_list(), table[f"{name}_composite"].to_list())
        for when, name in (("best", "best"), ("last", "final"))
    }
    texts = [
        f"{rank:.2f} [{interval[0]:.2f}, {interval[1]:.2f}] at the {when} epoch"
        for when, (rank, interval) in found.items()
        if rank is not None and interval is not None
    ]
    if texts:
        text += (
            "Rank correlation over the models between the share of answers kept under the cut and "
            f"the composite accuracy: {', '.join(texts)}."
        )
    return text.strip()
