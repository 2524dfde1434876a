"""What flows where in a model: predictions by layer, S of every block, the convolutions' kernels.

For one sequence of tokens; the pictures are in ``lib.figures.achilles_flow``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.analysis.activations import record_activations
from lib.analysis.cuts import TOKENWISE
from lib.models.attention import AttentionMixer
from lib.models.language_model import LanguageModel
from lib.models.mamba1 import Mamba1Mixer
from lib.models.mamba2 import Mamba2Mixer
from lib.ops.scan_matrix import scan_matrix
from lib.ops.ssd import ssd_matrix


@dataclass(frozen=True)
class Lens:
    """What the head reads in the residual stream: after the embedding, then after each layer.

    Attributes:
        tokens: (1 + layers, l) int64, the most likely token at each position.
        probabilities: (1 + layers, l), its probability.
    """

    tokens: Tensor
    probabilities: Tensor


def logit_lens(model: LanguageModel, tokens: Tensor) -> Lens:
    """The residual stream of one sequence (l,) through the final norm and the head, at each depth.

    The last row is the model's own prediction. This is what arXiv 2509.17514, Fig. 5, writes into
    its nodes ("the outputs of each layer through the model's final linear layer and then arg-max");
    the final norm is ours, where the model has one.
    """
    with torch.no_grad(), record_activations(model) as found:
        model(tokens[None])
        depths = ["embed", *(f"layers.{number}.resid" for number in range(len(model.layers)))]
        stream = torch.cat([found[name] for name in depths])  # (1 + layers, l, m)
        odds = model.head(model.final_norm(stream)).softmax(-1)
    best = odds.max(-1)
    return Lens(best.indices, best.values)


def flow(model: LanguageModel, tokens: Tensor, head: int = 0) -> Tensor:
    """S of every layer (layers, l, l) for one sequence (l,): row i reads column j.

    Mamba-2: S_ij of one `head`, with its sign, at any length. Mamba-1 has an S for every channel:
    their root mean square, so never negative. Feed-forward: the identity, since each token reads
    itself alone. Any other block: its activation S, of one `head`. dt_j, which scales what j gives,
    is no part of S in the paper and is none here.

    Raises:
        ValueError: a head that a block lacks.
        TypeError: a block without S.
    """
    with torch.no_grad(), record_activations(model) as found:
        model(tokens[None])
        return torch.stack([
            _matrix(cast(Any, layer).mixer, f"layers.{number}.mixer", found, head)
            for number, layer in enumerate(model.layers)
        ])  # fmt: skip


def _matrix(mixer: Any, name: str, found: dict[str, Tensor], head: int) -> Tensor:
    if isinstance(mixer, Mamba1Mixer):
        dt, B, C = (found[f"{name}.{part}"].transpose(1, 2) for part in ("dt", "B", "C"))
        S = scan_matrix(dt, -torch.exp(mixer.A_log.to(dt.dtype)), B, C)[0]
        return S.square().mean(0).sqrt()
    if isinstance(mixer, Mamba2Mixer):  # not the activation: long sequences never compute it
        dt, B, C = (found[f"{name}.{part}"] for part in ("dt", "B", "C"))
        S = ssd_matrix(dt, -torch.exp(mixer.A_log.to(dt.dtype)), B, C)
    elif isinstance(mixer, TOKENWISE):
        stream = found["embed"]
        return torch.eye(stream.shape[1], dtype=stream.dtype, device=stream.device)
    elif f"{name}.S" in found:
        S = found[f"{name}.S"]
    else:
        raise TypeError(f"{name} is a {type(mixer).__name__}, which has no S")
    if not 0 <= head < S.shape[1]:
        raise ValueError(f"head is {head}, allowed: 0..{S.shape[1] - 1}")
    return S[0, head]


def read_later(S: Tensor, places: Sequence[int]) -> Tensor:
    """How much wider lines from `places` to later positions are than the others that end there:
    mean |S_ij| over j in `places` and i behind them all, divided by that over all other j <= i.

    Args:
        S: (layers, l, l), as of :func:`flow`.
        places: columns, before the last one.

    Returns:
        (layers,), 1 where they are as wide as the others.

    Raises:
        ValueError: no places, or none behind them.
    """
    length, wanted = S.shape[-1], sorted(set(places))
    if not wanted or not 0 <= wanted[0] <= wanted[-1] < length - 1:
        raise ValueError(f"places are {wanted}, allowed: of 0..{length - 2}, at least one")
    later = torch.zeros(length, length, dtype=torch.bool, device=S.device)
    later[wanted[-1] + 1 :] = True
    chosen = torch.zeros_like(later)
    chosen[:, wanted] = True
    others = later & ~chosen & torch.ones_like(later).tril()
    widths = S.abs()
    return widths[:, later & chosen].mean(-1) / widths[:, others].mean(-1)


def kernel_cosines(model: LanguageModel, part: str | None = None) -> list[Tensor]:
    """Cosines between the taps of each layer's convolution (k, k); 1 on the diagonal. Feed-forward
    layers, which mix no tokens, are left out.

    A tap is a vector over channels, a column of the kernel (d, k): c_1 meets the oldest input, c_k
    the token's own (arXiv 2509.17514, section 4.2 and Fig. 12, where "largely orthogonal" taps are
    what makes order matter). Equal taps, as in an all-one kernel, have cosine 1.

    Args:
        part: channels of "x", "B" or "C" alone ("q", "k" or "v" of attention); None for all that
            the convolution covers, which for Mamba-2 are mostly B and C (256 of 320 at d_model 32).
            The paper does not say which.

    Raises:
        ValueError: a layer without a kernel, or a part that it does not cover.
    """
    return [
        _cosines(mixer, number, part)
        for number, layer in enumerate(model.layers)
        if not isinstance(mixer := cast(Any, layer).mixer, TOKENWISE)
    ]


def cosine_by_chance(channels: int, taps: int = 4, draws: int = 1000) -> float:
    """Largest absolute cosine between two of `taps` random vectors, as convolutions start with
    (uniform around 0), mean over draws: what untrained taps have."""
    draw = torch.Generator().manual_seed(0)
    vectors = torch.rand(draws, taps, channels, generator=draw) - 0.5
    vectors = torch.nn.functional.normalize(vectors, dim=2)
    return float((vectors @ vectors.mT).abs().triu(1).amax((1, 2)).mean())


def _cosines(mixer: Any, number: int, part: str | None) -> Tensor:
    conv = getattr(mixer, "conv", None)
    if conv is None or conv.kind == "none":
        raise ValueError(f"layer {number} has no kernel, allowed: layers with a convolution")
    c = mixer.config
    parts: dict[str | None, slice] = {None: slice(None)}
    if isinstance(mixer, AttentionMixer):
        size = c.n_heads * c.headdim_qk
        parts |= {"q": slice(size), "k": slice(size, 2 * size), "v": slice(2 * size, None)}
    else:
        size = c.conv_dim - c.d_inner  # of B and C together
        parts["x"] = slice(c.d_inner)
        if size:
            parts["B"] = slice(c.d_inner, c.d_inner + size // 2)
            parts["C"] = slice(c.d_inner + size // 2, None)
    if part not in parts:
        raise ValueError(
            f"part is {part!r}, allowed in layer {number}: {', '.join(map(str, parts))}"
        )
    taps = F.normalize(conv.kernel().detach()[parts[part]].double(), dim=0)
    return taps.T @ taps
