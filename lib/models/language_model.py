"""A stack of blocks as a language model, with decoding one token at a time."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.attention import AttentionMixer, AttentionState
from lib.models.config import (
    AttentionConfig,
    BlockConfig,
    FeedForwardConfig,
    GRUConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
    Mamba3Config,
    MoEConfig,
)
from lib.models.feedforward import FeedForwardMixer, FeedForwardState
from lib.models.gru import GRUMixer, GRUState
from lib.models.initialisation import initialise
from lib.models.layers import (
    NORMS,
    Activation,
    Embedding,
    Linear,
    PositionalEncoding,
    watched,
)
from lib.models.mamba1 import Mamba1Mixer, MixerState
from lib.models.mamba2 import Mamba2Mixer
from lib.models.mamba3 import Mamba3Mixer
from lib.models.moe import MoEMixer
from lib.ops.checks import compute_dtype
from lib.ops.linear import SLICES
from lib.ops.lookup import lookup
from lib.ops.mamba3 import Mamba3State

MIXERS: dict[type, type[nn.Module]] = {
    Mamba1Config: Mamba1Mixer,
    Mamba2Config: Mamba2Mixer,
    Mamba3Config: Mamba3Mixer,
    AttentionConfig: AttentionMixer,
    FeedForwardConfig: FeedForwardMixer,
    MoEConfig: MoEMixer,
    GRUConfig: GRUMixer,
}
# what the first layer makes of each token before it mixes any is made once for each, if that is so
# many times fewer rows, of so many channels that products cost more than moving rows does
FEWER, LEAST_CHANNELS = 4, 64
# what a block keeps between tokens
BlockState = MixerState | Mamba3State | AttentionState | FeedForwardState | GRUState


def _norm(config: LanguageModelConfig) -> nn.Module:
    return NORMS[config.norm_kind](config.d_model, config.norm_eps)


class Layer(nn.Module):
    """x + mixer(norm(x)), or norm(x + mixer(x)); without a norm, x + mixer(x)."""

    def __init__(self, block: BlockConfig, config: LanguageModelConfig, backend: str) -> None:
        super().__init__()
        self.norm = _norm(config) if config.pre_norm else nn.Identity()
        self.norm_first = config.norm_place == "before"
        self.mixer: Any = MIXERS[type(block)](block, backend=backend, norm_eps=config.norm_eps)
        self.act_resid = Activation()

    def forward(
        self, x: Tensor, state: BlockState | None, return_state: bool, last_only: bool = False,
        projected: tuple[Tensor, ...] | None = None,
    ) -> tuple[Tensor, BlockState | None]:  # fmt: skip
        """x (b, l, m) to the residual stream after this block, and the block's state.

        `last_only` says that nobody will read but the last position; what is returned may then
        have length 1. `projected` is what the mixer would make of each position of norm(x).
        """
        if projected is not None:
            return self.act_resid(self._after(x + self.mixer.mix(*projected))), None
        own = cast("MixerState | None", state)
        norm = self.norm if self.norm_first else None
        if isinstance(self.mixer, Mamba2Mixer) and self.mixer.fuses(x, own, return_state, norm):
            return self.act_resid(self._after(self.mixer.fused(x, norm, last_only))), None
        alone = state is None and not return_state and hasattr(self.mixer, "last")
        if last_only and alone:
            y = self.mixer.last(self._before(x))
            return self.act_resid(self._after(x[:, -1:] + y)), None
        out = self.mixer(self._before(x), state, return_state)
        y, state = out if return_state else (out, None)
        return self.act_resid(self._after(x + y)), state

    def by_token(self, x: Tensor) -> bool:
        """Whether a call for x (b, l, m), without states, may be given what is projected of it."""
        mixer = self.mixer
        if not self.norm_first or not isinstance(mixer, Mamba2Mixer) or x.is_meta:
            return False
        # a table's gradient, a sum of thousands, had better not be in half precision
        if compute_dtype(x) != x.dtype or torch.is_autocast_enabled(x.device.type):
            return False
        if watched(self.norm, mixer, mixer.in_proj):
            return False
        return not mixer.fuses(x, None, False, self.norm)

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the mixer makes of norm(x), x (n, m), of each row by itself."""
        parts: tuple[Tensor, ...] = self.mixer.project(self._before(x))
        return parts

    def step(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """One token: x (b, m)."""
        y, state = self.mixer.step(self._before(x), state)
        return self._after(x + y), state

    def _before(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.norm_first else x

    def _after(self, x: Tensor) -> Tensor:
        return x if self.norm_first else self.norm(x)


class LanguageModel(nn.Module):
    """Embedding, blocks, norm, head. Build it with :func:`build_language_model`."""

    def __init__(self, config: LanguageModelConfig, backend: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.positions: PositionalEncoding | None
        self.embedding = Embedding(config.vocab_size, config.d_model)
        self.positions = None
        if config.positional_encoding != "none":
            self.positions = PositionalEncoding(
                config.positional_encoding, config.max_length or 0, config.d_model
            )
        self.layers = nn.ModuleList(Layer(block, config, backend) for block in config.blocks)
        self.final_norm = _norm(config) if config.final_norm else nn.Identity()
        self.head = Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        self.act_embed = Activation()

    def hidden(
        self,
        tokens: Tensor,
        states: list[BlockState] | None = None,
        return_states: bool = False,
        start: int = 0,
        last_only: bool = False,
    ) -> tuple[Tensor, list[BlockState]]:
        """tokens (b, l) to the normed residual stream (b, l, m), and the blocks' states.

        With `last_only` nobody will read but the last position: the stream may have length 1.
        """
        x = self.embedding(tokens)
        return self._run(x, tokens, states, return_states, start, last_only)

    def run_embedded(
        self,
        x: Tensor,
        states: list[BlockState] | None = None,
        return_states: bool = False,
        start: int = 0,
        last_only: bool = False,
    ) -> tuple[Tensor, list[BlockState]]:
        """The same as :meth:`hidden` for vectors (b, l, m) in place of tokens, such as trained
        ones that stand for no word."""
        return self._run(x, None, states, return_states, start, last_only)

    def _run(
        self, x: Tensor, tokens: Tensor | None, states: list[BlockState] | None,
        return_states: bool, start: int, last_only: bool,
    ) -> tuple[Tensor, list[BlockState]]:  # fmt: skip
        self._check_states(states)
        if self.positions is not None:
            x = self.positions(x, start)
        x = self.act_embed(x)
        kept: list[Any] = []
        first = self._first_of_one_position() if last_only else len(self.layers)
        for index, layer in enumerate(self.layers):
            only = index >= first
            made = None
            if index == 0 and tokens is not None and not (states or return_states or only):
                made = self._projected(x, tokens, start)
            x, state = layer(x, states[index] if states else None, return_states, only, made)
            kept.append(state)
        return self.final_norm(x), kept

    def _projected(self, x: Tensor, tokens: Tensor, start: int) -> tuple[Tensor, ...] | None:
        """What the first layer makes of each position of x (b, l, m) by itself, looked up in tables
        of all tokens, or of all at all positions; None where that does not pay, or somebody watches
        what it is made of."""
        layer, weight = cast(Layer, self.layers[0]), self.embedding.weight
        length, places = tokens.shape[1], 1 if self.positions is None else tokens.shape[1]
        # rows as linear() cuts them into equal parts
        rows = SLICES * -(-len(weight) // SLICES)
        if x.shape[-1] < LEAST_CHANNELS or FEWER * rows * places > tokens.numel():
            return None
        places_too = [] if self.positions is None else [self.positions]
        if watched(self.embedding, self.act_embed, layer, *places_too) or not layer.by_token(x):
            return None
        table = F.pad(weight, (0, 0, 0, rows - len(weight)))[:, None]
        if self.positions is not None:
            table = self.positions(table.expand(-1, length, -1), start)
            tokens = tokens * length + torch.arange(length, device=tokens.device)
        return tuple(lookup(part, tokens) for part in layer.projected(table.flatten(0, 1)))

    def forward(
        self,
        tokens: Tensor,
        states: list[BlockState] | None = None,
        *,
        last_token_only: bool = False,
        return_states: bool = False,
        start: int = 0,
    ) -> Any:
        """Logits of the next token.

        Args:
            tokens: (b, l), integers in [0, vocab_size).
            states: from an earlier call with `return_states`, to go on from there.
            last_token_only: logits of the last position alone.
            return_states: also return the states after the last token.
            start: position of the first token, for positional encodings.

        Returns:
            (b, l, v), or (b, v) with `last_token_only`; with `return_states` a pair.

        Raises:
            ValueError: positions outside [0, max_length) of the encoding; not one state a layer.
        """
        x, kept = self.hidden(tokens, states, return_states, start, last_token_only)
        logits = self.head(x[:, -1] if last_token_only else x)
        return (logits, kept) if return_states else logits

    def step(
        self, tokens: Tensor, states: list[BlockState], position: int = 0
    ) -> tuple[Tensor, list[BlockState]]:
        """Decode one token: tokens (b,) at `position` to logits (b, v) and the next states.

        Raises:
            ValueError: a position outside [0, max_length) of the encoding; not one state a layer.
        """
        self._check_states(states)
        x = self.embedding(tokens)
        if self.positions is not None:
            x = self.positions(x[:, None], position)[:, 0]
        kept = []
        for layer, state in zip(self.layers, states, strict=True):
            x, state = cast(Layer, layer).step(x, state)
            kept.append(state)
        return self.head(self.final_norm(x)), kept

    def _first_of_one_position(self) -> int:
        """From which layer on the last position is enough, if only that is read: the last one that
        mixes positions, unless somebody watches what flows through it or those after it."""
        first = len(self.layers) - 1
        while first > 0 and isinstance(self.layers[first].mixer, FeedForwardMixer):
            first -= 1
        late = [module for layer in self.layers[first:] for module in layer.modules()]
        return len(self.layers) if watched(*late) else first

    def _check_states(self, states: list[BlockState] | None) -> None:
        if states is not None and len(states) != len(self.layers):
            raise ValueError(f"states has length {len(states)}, allowed: {len(self.layers)}")

    def initial_states(self, batch: int) -> list[BlockState]:
        """One state a layer before the first token, on the model's device."""
        weight = self.embedding.weight
        return [
            cast(Layer, layer).mixer.initial_state(batch, weight.device, weight.dtype)
            for layer in self.layers
        ]


def build_language_model(
    config: LanguageModelConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    backend: str = "auto",
) -> LanguageModel:
    """A model with weights drawn from `seed`, the same on every device."""
    model = LanguageModel(config, backend)
    initialise(model, config, torch.Generator().manual_seed(seed))
    return model.to(device)
