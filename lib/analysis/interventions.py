"""The paper's two interventions on the composite task (arXiv 2509.17514, section 4.1 and Fig. 6).

*Blocking*: if later tokens cannot hear of the key and its pair through the SSM, is the answer the
same? *Substitution*: if later tokens hold what the convolutions of another sequence gave, is the
answer that of the other sequence? Both compare one model's answers; neither looks at labels. What
the paper leaves open (layers, which tokens count) is a parameter here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from lib.analysis.activations import record_activations, replace_activations
from lib.analysis.composite import answers
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
    targets: Sequence[int] | None = None,
    paths: Sequence[str] = ("state",),
) -> Tensor:
    """Answers (count,) when later tokens cannot hear of the key and its pair.

    The defaults are the paper's words, "blocking all information flow from the key and both anchors
    to the downstream tokens" by "zeroing out the specific entries in S", read as widely as they
    go: in all layers, and to every later token, the anchors among them. Arguments as in
    :func:`source_cut` and :func:`cut_edges`.
    """

    def part(some: Split) -> Tensor:
        cut = source_cut(some.index, some.tokens.shape[1], sources, within_pair, targets)
        with cut_edges(model, cut, layers, paths):
            return answers(model, some.tokens)

    return _in_parts(part, split)


def combined_answers(model: LanguageModel, split: Split, at: int = 2) -> Tensor:
    """Answers (count,) when key and first anchor are heard of through the second anchor alone, and
    by it through its convolution alone: S and decay of both are cut to every later token, and what
    the convolution carries of them to tokens behind the second anchor. An answer that stays was
    combined by the convolution of the second anchor.

    Args:
        at: the place, counted from the key, of the token that is heard of in the second anchor's
            stead; from the key on all tokens before it are cut off, as those two are.
    """

    def part(some: Split) -> Tensor:
        length = some.tokens.shape[1]
        cut = partial(source_cut, some.index, length, range(at))
        with (
            # S is made of what the convolution wrote, so this one is the outer
            cut_edges(model, cut(targets=range(at + 1, length)), paths=("conv",)),
            cut_edges(model, cut(), paths=("state", "decay")),
        ):
            return answers(model, some.tokens)

    return _in_parts(part, split)


@contextmanager
def substitution(
    model: LanguageModel,
    split: Split,
    twins: Split,
    layers: Sequence[int] | None = None,
    *,
    include_pair: bool = False,
) -> Iterator[None]:
    """During the block, calls for the sequences of `split`, in their order and all of them, hold in
    downstream tokens what the twins' convolutions gave.

    The twins run once, untouched; then, in each of `layers` (all that mix tokens if None), the
    output of the convolution at every token after the pair is replaced by the twin's. In Mamba-1
    that is x, from which dt, B and C follow; in Mamba-2 it is x, B and C, not dt; in attention
    queries, keys and values. The gate z and the residual stream stay the sequence's own. A pair at
    the very end has no token after it, and then nothing is replaced.

    Args:
        twins: the same sequences with another pair (:func:`lib.tasks.interventions.twin`).
        include_pair: replace at both anchors as well. The paper does not say.

    Raises:
        ValueError: twins that differ in more than the pair, a layer that does not exist or one
            without a convolution.
    """
    chosen = layer_numbers(model, layers)
    for number in chosen:
        mixer = cast(Any, model.layers[number]).mixer
        if not hasattr(mixer, "act_post_conv"):
            kind = type(mixer).__name__
            raise ValueError(f"layer {number} is a {kind}, allowed: layers with a convolution")
    downstream = replaced_tokens(split, include_pair)
    if not (torch.equal(split.index, twins.index) and _alike(split, twins)):
        raise ValueError("twins differ from split in more than the pair")
    if not chosen:
        yield
        return
    with record_activations(model, "mixer.post_conv") as found:
        answers(model, twins.tokens)

    def put(name: str, own: Tensor) -> Tensor:
        return torch.where(downstream[..., None], found[name], own)

    names = [f"layers.{number}.mixer.post_conv" for number in chosen]
    with replace_activations(model, {name: partial(put, name) for name in names}):
        yield


def replaced_tokens(split: Split, include_pair: bool = False) -> Tensor:
    """Which tokens (count, l) get their twin's states under :func:`substitution`: those after the
    pair, or after the key."""
    return _offsets(split) > (0 if include_pair else max(KEY_AND_PAIR))


def _offsets(split: Split) -> Tensor:
    """Places (count, l) counted from the key."""
    length = split.tokens.shape[1]
    return torch.arange(length, device=split.index.device) - split.index[:, None]


def _alike(split: Split, twins: Split) -> bool:
    """Whether all tokens but the anchors are the same."""
    offset = _offsets(split)
    same = (split.tokens == twins.tokens) | (offset == 1) | (offset == 2)
    return bool(same.all())


def substituted_answers(
    model: LanguageModel,
    split: Split,
    twins: Split,
    layers: Sequence[int] | None = None,
    *,
    include_pair: bool = False,
) -> Tensor:
    """Answers (count,) when downstream tokens hold what the twins' convolutions gave; arguments and
    errors as in :func:`substitution`."""

    def part(some: Split, theirs: Split) -> Tensor:
        with substitution(model, some, theirs, layers, include_pair=include_pair):
            return answers(model, some.tokens)

    return _in_parts(part, split, twins)


def agreement_by_pair(split: Split, given: Tensor, others: Tensor) -> dict[int, float]:
    """For each pair, written as 43, the share of sequences with equal answers (count,)."""
    same = given == others
    pairs = split.pairs.unique().tolist()
    return {pair: float(same[split.where(pair)].double().mean()) for pair in pairs}


def _in_parts(part: Callable[..., Tensor], *splits: Split) -> Tensor:
    """What `part` gives for the same ROWS rows of each split, a part after the other."""
    rows = [slice(start, start + ROWS) for start in range(0, len(splits[0]), ROWS)]
    return torch.cat([part(*(split.take(some) for split in splits)) for some in rows])
