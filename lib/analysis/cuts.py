"""Cutting what tokens of a sequence tell later ones, inside the blocks of a model.

A *cut* is a mask of (i, j): token i is not to hear of the earlier token j. What i says of itself is
never cut. Three paths lead from j to i in a Mamba block:

state   j's input dt_j B_j x_j, kept in the state and read by i: the entry S_ij, which arXiv
        2509.17514 sets to zero. Mamba-2 forms S; for Mamba-1 it is written out, one S a channel
        (:mod:`lib.ops.scan_matrix`), and i's output is made anew without the entries that are cut.
conv    the taps of the convolution through which i's x (and B and C of Mamba-2) hold j.
decay   dt_j, which sets how much i still finds of all tokens *before* j. With S_ij and the taps
        gone, i still hears of j through this; blocking is complete only without it.

With all three cut from j to every later token, in every layer, nothing that another token computes
depends on j. A token j that answers itself, being the last, of course still does.

In attention the state is the weight S_ij after the softmax, conv the taps on queries, keys and
values where it has them, and decay what j takes from the other weights of i, which sum to 1. Other
blocks that show an S, such as Mamba-3, can be cut there alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.analysis.activations import replace_activations
from lib.models.attention import AttentionMixer
from lib.models.feedforward import FeedForwardMixer
from lib.models.language_model import LanguageModel
from lib.models.layers import CausalConv
from lib.models.mamba1 import Mamba1Mixer
from lib.models.mamba2 import Mamba2Mixer
from lib.models.moe import MoEMixer
from lib.ops.checks import compute_dtype
from lib.ops.scan_matrix import apply_scan_matrix, scan_matrix

PATHS = ("state", "conv", "decay")
KEY_AND_PAIR = (0, 1, 2)  # the key and both anchors, counted from the key
TOKENWISE = (
    FeedForwardMixer,
    MoEMixer,
)  # look at each token alone: nothing passes that could be cut

Edit = Callable[[Tensor], Tensor | None]


def source_cut(
    index: Tensor, length: int, sources: Sequence[int] = KEY_AND_PAIR, within_pair: bool = True,
    targets: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """Cut (b, l, l) from the key and its pair to later tokens.

    Args:
        index: (b,), where the key stands.
        sources: which tokens are cut off, counted from the key: 0 the key, 1 and 2 the anchors;
            below 0 the noise before it, above 2 the tokens behind the pair, of those there are.
        within_pair: whether "later tokens" includes the anchors, which come after the key and after
            each other; if not, only tokens after the pair are cut off. The paper does not say.
        targets: to which of the later tokens, counted as `sources` are; None for all of them.

    Raises:
        ValueError: a source or target that can be in no sequence of that length.
    """
    places = torch.arange(length, device=index.device)
    offset = places - index[:, None]

    def among(name: str, chosen: Sequence[int]) -> Tensor:
        if not set(chosen) <= set(range(1 - length, length)):
            allowed = f"{1 - length}..{length - 1}"
            raise ValueError(f"{name} is {tuple(chosen)}, allowed: some of {allowed}")
        return torch.isin(offset, torch.tensor(chosen, device=index.device, dtype=offset.dtype))

    cut = among("sources", sources)[:, None, :] & (places[:, None] > places)
    if targets is not None:
        cut &= among("targets", targets)[:, :, None]
    return cut if within_pair else cut & (offset > max(KEY_AND_PAIR))[:, :, None]


def edge_cut(length: int, edges: Iterable[tuple[int, int]]) -> Tensor:
    """Cut (l, l) of single edges (i, j): from token j to the later token i, counted from 0.

    Raises:
        ValueError: an edge that does not lead from a token to a later one.
    """
    cut = torch.zeros(length, length, dtype=torch.bool)
    for i, j in edges:
        if not 0 <= j < i < length:
            raise ValueError(f"edge is {(i, j)}, allowed: (i, j) with 0 <= j < i < {length}")
        cut[i, j] = True
    return cut


@contextmanager
def cut_edges(
    model: LanguageModel,
    cut: Tensor,
    layers: Sequence[int] | None = None,
    paths: Sequence[str] = ("state",),
) -> Iterator[None]:
    """During the block, tokens do not hear of others.

    Meant for whole sequences: calls that go on from states are not served. A cut without a single
    edge changes nothing, to the bit. For another cut in another layer, enter one within the other.

    Args:
        cut: (l, l), or (b, l, l) with a cut for each sequence of the batch; True is cut.
        layers: counted from 0; if None all that mix tokens, so no feed-forward one.
        paths: some of "state", "conv", "decay".

    Raises:
        ValueError: a layer, path or shape that does not fit, or a token cut off from itself.
        TypeError: a block of another kind than Mamba-1, Mamba-2 and attention has no S or needs
            another path; a feed-forward layer was named.
        RuntimeError: from the model's call, a block that does not form S at this length (Mamba-2
            beyond one chunk), or whose activations are no longer those that the cut was made from.
    """
    if not set(paths) <= set(PATHS):
        raise ValueError(f"paths is {tuple(paths)}, allowed: some of {', '.join(PATHS)}")
    if cut.dim() not in (2, 3) or cut.shape[-1] != cut.shape[-2] or cut.dtype != torch.bool:
        shape = tuple(cut.shape)
        raise ValueError(f"cut is {cut.dtype} {shape}, allowed: torch.bool (l, l) or (b, l, l)")
    if cut.triu().any():
        raise ValueError("cut has an edge from a token to itself or back, allowed: to later ones")
    chosen = layer_numbers(model, layers)
    edits: dict[str, Any] = {}
    if cut.any():
        masks = cut if cut.dim() == 3 else cut[None]
        for number in chosen:
            mixer = cast(Any, model.layers[number]).mixer
            for name, edit in _edits(mixer, masks, paths).items():
                edits[f"layers.{number}.mixer.{name}"] = edit
    with replace_activations(model, edits):
        yield


def layer_numbers(model: LanguageModel, layers: Sequence[int] | None) -> list[int]:
    """`layers`, counted from 0, or all that mix tokens.

    Raises:
        ValueError: a layer that the model lacks.
    """
    count = len(model.layers)
    if layers is None:
        mixers = [cast(Any, layer).mixer for layer in model.layers]
        return [n for n, mixer in enumerate(mixers) if not isinstance(mixer, TOKENWISE)]
    chosen = list(layers)
    if not set(chosen) <= set(range(count)):
        raise ValueError(f"layers is {tuple(chosen)}, allowed: some of 0..{count - 1}")
    return chosen


class _Cut:
    """The edits of one block's activations, as functions of what a call computes."""

    def __init__(self, mixer: Any, cut: Tensor, paths: Sequence[str]) -> None:
        self.mixer, self.cut, self.paths = mixer, cut, paths
        self.seen: dict[str, Tensor] = {}

    def edits(self) -> dict[str, Edit]:
        """Name of an activation to what is done with it."""
        edits: dict[str, Edit] = {}
        if {"state", "decay"} & set(self.paths) and isinstance(self.mixer, AttentionMixer):
            edits = {"S": self._weights}
        elif {"state", "decay"} & set(self.paths):
            edits = {name: partial(self._look, name) for name in ("post_conv", "dt", "B", "C")}
            mamba2 = isinstance(self.mixer, Mamba2Mixer)
            edits |= {"S": self._entries} if mamba2 else {"y": self._output}
        conv = self.mixer.conv  # None in attention without one
        if "conv" in self.paths and conv is not None and conv.kind != "none":
            edits |= {"pre_conv": partial(self._look, "pre_conv"), "post_conv": self._convolved}
        return edits

    def _look(self, name: str, value: Tensor) -> None:
        self.seen[name] = value

    def _mask(self, value: Tensor, length: int) -> Tensor:
        return _fitting(self.cut, len(value), length).to(value.device)

    def _matrix(self, keep: Tensor | None = None) -> Tensor:
        """S (b, d, l, l), or (b, h, l, l) of Mamba-2, from dt, B and C."""
        kind = compute_dtype(self.seen["dt"])
        A = -torch.exp(self.mixer.A_log.to(kind))
        if isinstance(self.mixer, Mamba2Mixer):
            A = A[:, None].expand(-1, self.mixer.config.d_state)
        dt, B, C = (self.seen[name].movedim(1, -1) for name in ("dt", "B", "C"))
        return scan_matrix(dt, A, B, C, keep)

    def _blocked(self, S: Tensor, mask: Tensor) -> Tensor:
        if "decay" in self.paths:
            S = self._matrix(keep=~mask).to(S.dtype)
        return S.masked_fill(mask[:, None], 0) if "state" in self.paths else S

    def _entries(self, S: Tensor) -> Tensor:
        mask = self._mask(S, S.shape[-1])
        if "decay" in self.paths:  # else S is the model's own, to the bit
            _expect_same("S", S, self._matrix())
        return self._blocked(S, mask)

    def _weights(self, S: Tensor) -> Tensor:
        """Of attention: what is not cut sums to 1 if decay is cut, else it stays as it is."""
        mask = self._mask(S, S.shape[-1])[:, None]
        if "decay" in self.paths:
            left = S.masked_fill(mask, 0).sum(-1, keepdim=True)
            tiny = torch.finfo(S.dtype).tiny
            S = torch.where(mask, S, S / left.clamp(min=tiny))
        return S.masked_fill(mask, 0) if "state" in self.paths else S

    def _output(self, y: Tensor) -> Tensor:
        mask = self._mask(y, y.shape[1])
        u, dt = (self.seen[name].transpose(1, 2) for name in ("post_conv", "dt"))
        D = self.mixer.D
        S = self._matrix()
        _expect_same("y", y, apply_scan_matrix(S, u, dt, D).transpose(1, 2))
        return apply_scan_matrix(self._blocked(S, mask), u, dt, D).transpose(1, 2).to(y.dtype)

    def _convolved(self, own: Tensor) -> Tensor:
        x, conv = self.seen["pre_conv"], self.mixer.conv
        mask = self._mask(own, own.shape[1])
        _expect_same("post_conv", own, _conv_without(conv, x, torch.zeros_like(mask)))
        self.seen["post_conv"] = _conv_without(conv, x, mask)
        return self.seen["post_conv"]


def _edits(mixer: Any, cut: Tensor, paths: Sequence[str]) -> dict[str, Edit]:
    if isinstance(mixer, Mamba1Mixer | Mamba2Mixer | AttentionMixer):
        return _Cut(mixer, cut, paths).edits()
    if isinstance(mixer, TOKENWISE):
        kind = type(mixer).__name__
        raise TypeError(f"a {kind} block has nothing to cut, allowed: layers that mix tokens")
    if set(paths) != {"state"} or not hasattr(mixer, "act_S"):
        given = f"paths {tuple(paths)} of a {type(mixer).__name__} block"
        raise TypeError(f"{given} cannot be cut, allowed: state alone, and only where it has S")

    def entries(S: Tensor) -> Tensor:
        mask = _fitting(cut, len(S), S.shape[-1]).to(S.device)
        return S.masked_fill(mask[:, None], 0)

    return {"S": entries}


def _fitting(cut: Tensor, b: int, length: int) -> Tensor:
    """A cut (1 or b, l, l) that fits a batch.

    Raises:
        ValueError: it does not.
    """
    if cut.shape[0] not in (1, b) or cut.shape[1] != length:
        raise ValueError(f"cut has shape {tuple(cut.shape)}, allowed: (1 or b={b}, l={length}, l)")
    return cut


def _expect_same(name: str, own: Tensor, again: Tensor) -> None:
    """What a cut is made from must be what the block used: another cut of the same block, a
    replacement set later or a state from before would be lost without a word."""
    allowed = 1e-3 if own.dtype in (torch.float32, torch.float64) else 3e-2
    gap = (own.double() - again.double()).norm() / again.double().norm().clamp(min=1e-30)
    if gap > allowed:
        raise RuntimeError(
            f"{name} is not what this block makes of its inputs (off by {float(gap):.1%}): it is "
            "cut already, something was replaced after the cut was set, or a state came in"
        )


def _conv_without(conv: CausalConv, x: Tensor, cut: Tensor) -> Tensor:
    """What the convolution makes of x (b, l, d) without the taps from j to i that are cut."""
    wide = compute_dtype(x)
    length = x.shape[1]
    weight = conv.kernel().to(wide)
    out = torch.zeros_like(x, dtype=wide)
    for back in range(min(conv.taps, length)):
        kept = ~cut.diagonal(-back, 1, 2)[..., None]  # of the edges (i, i - back)
        out[:, back:] += x[:, : length - back].to(wide) * kept * weight[:, conv.taps - 1 - back]
    if conv.bias is not None:
        out = out + conv.bias.to(wide)
    return conv.activated(F.silu(out).to(x.dtype), x)
