"""The paper's two interventions on the composite task (arXiv 2509.17514, section 4.1 and Fig. 6).

*Blocking*: if later tokens cannot hear of the key and its pair through the SSM, is the answer the
same? *Substitution*: if later tokens hold what the convolutions of another sequence gave, is the
answer that of the other sequence? Both compare one model's answers; neither looks at labels. What
the paper leaves open (layers, which tokens count) is a parameter here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lib.analysis.activations import record_activations, replace_activations
from lib.analysis.composite import answer_probabilities, answers
from lib.analysis.cuts import KEY_AND_PAIR, cut_edges, layer_numbers, source_cut
from lib.models.language_model import LanguageModel
from lib.tasks.composite import Split

# Mamba-1's matrix is made a column at a time: (rows, d, l, n) floats, 70 MB at d 64, l 8, n 128
ROWS = 256


def blocked_answers(
    model: LanguageModel,
    split: Split,
    sources: Sequence[int] = KEY_AND_PAIR,
    layers: Sequence[int] | None = None,
    *,
    within_pair: bool = True,
    paths: Sequence[str] = ("state",),
) -> Tensor:
    """Answers (count,) when later tokens cannot hear of the key and its pair.

    The defaults are the paper's words, "blocking all information flow from the key and both anchors
    to the downstream tokens" by "zeroing out the specific entries in S", read as widely as they
    go: in all layers, and to every later token, the anchors among them. Arguments as in
    :func:`source_cut` and :func:`cut_edges`.
    """

    def part(some: Split) -> Tensor:
        cut = source_cut(some.index, some.tokens.shape[1], sources, within_pair)
        with cut_edges(model, cut, layers, paths):
            return answers(model, some.tokens)

    return torch.cat([part(split.take(rows)) for rows in _parts(split)])


def substituted_answers(
    model: LanguageModel,
    split: Split,
    twins: Split,
    layers: Sequence[int] | None = None,
    *,
    include_pair: bool = False,
) -> Tensor:
    """Answers (count,) when downstream tokens hold what the twins' convolutions gave.

    The twins run once, untouched; then, in each of `layers` (all if None), the output of the
    convolution at every token after the pair is replaced by the twin's. In Mamba-1 that is x, from
    which dt, B and C follow; in Mamba-2 it is x, B and C, not dt. The gate z and the residual
    stream stay the sequence's own in both. A pair at the very end has no token after it, and then
    nothing is replaced.

    Args:
        twins: the same sequences with another pair (:func:`lib.tasks.interventions.twin`).
        include_pair: replace at both anchors as well. The paper does not say.

    Raises:
        ValueError: twins that differ in more than the pair, a layer that does not exist or one
            without a convolution.
    """
    names = [f"layers.{number}.mixer.post_conv" for number in layer_numbers(model, layers)]
    length = split.tokens.shape[1]
    offset = torch.arange(length, device=split.index.device) - split.index[:, None]
    same = (split.tokens == twins.tokens) | (offset == 1) | (offset == 2)
    if not (torch.equal(split.index, twins.index) and same.all()):
        raise ValueError("twins differ from split in more than the pair")

    def part(rows: slice) -> Tensor:
        downstream = offset[rows] > (0 if include_pair else max(KEY_AND_PAIR))
        with record_activations(model, "mixer.post_conv") as found:
            answers(model, twins.tokens[rows])

        def put(name: str, own: Tensor) -> Tensor:
            return torch.where(downstream[..., None], found[name], own)

        with replace_activations(model, {name: partial(put, name) for name in names}):
            return answers(model, split.tokens[rows])

    return torch.cat([part(rows) for rows in _parts(split)])


def agreement_by_pair(split: Split, given: Tensor, others: Tensor) -> dict[int, float]:
    """For each pair, written as 43, the share of sequences with equal answers (count,)."""
    same = given == others
    pairs = split.pairs.unique().tolist()
    return {pair: float(same[split.where(pair)].double().mean()) for pair in pairs}


def answer_change(
    model: LanguageModel,
    tokens: Tensor,
    cut: Tensor,
    layers: Sequence[int] | None = None,
    paths: Sequence[str] = ("state",),
) -> tuple[list[float], list[float]]:
    """Probabilities of every answer to one sequence (l,), before a cut (l, l) and with it; other
    arguments as in :func:`cut_edges`. Drawn by ``lib.figures.achilles_flow.answer_change``."""
    before = answer_probabilities(model, tokens)
    with cut_edges(model, cut, layers, paths):
        return before, answer_probabilities(model, tokens)


def _parts(split: Split) -> list[slice]:
    return [slice(start, start + ROWS) for start in range(0, len(split), ROWS)]
