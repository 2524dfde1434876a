"""A language model's state as a code: a frozen encoder, and a decoder that starts from its state.

Hossain et al. 2025 (arXiv 2512.15653; code github.com/dataminr-ai/ouroboros) ask what a Mamba
remembers of a text by training a second Mamba to write the text down again::

    encoder (frozen)    x1 x2 ... xL         -> state after xL, every layer, as it is
    decoder (trained)   BOS x1 ... xL        -> x1 x2 ... xL EOS, started from that state

The decoder has the encoder's architecture and starts as a copy of it; layer i goes on from the
state of layer i, convolution inputs included, with nothing in between. Blocks whose state does not
grow with the text (Mamba-1, -2 and -3, GRU) need nothing else.

Attention keeps every token, so its state is no memory of bounded size. A stack with attention gets
a bottleneck in its place: `slots` vectors, trained with the decoder, are read by the frozen encoder
after xL, and of each attention layer only the keys and values of these slots are handed over (the
"gist tokens" of arXiv 2304.08467, for the same purpose). :func:`slots_for` says how many fit into a
given number of floats, such as a Mamba's :func:`state_floats`.

The slots stand after the text, and the decoder counts positions by what it was handed. Where these
are rotary, the slots' keys are turned back by the length of the text, so that the decoder's first
token follows the last slot at a distance of 1. As they are made, they would lie in its future, at
distances that no pretraining has shown.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.config import require
from lib.models.attention import AttentionState, moved
from lib.models.blocks import AttentionConfig, BlockConfig, counts
from lib.models.config import LanguageModelConfig
from lib.models.initialisation import EMBEDDING_STD
from lib.models.language_model import BlockState, LanguageModel

States = list[BlockState]


@dataclass(frozen=True)
class AutoencoderConfig:
    """How texts go in and come out.

    Attributes:
        length: tokens of a chunk (L); a decoder is trained for one length.
        bos, eos: token before and after the chunk. GPT-NeoX has one for both, its end of text, 0.
        slots: vectors that the encoder reads after a chunk, whose keys and values are all that is
            kept of attention layers; 0 for stacks without attention, and only for those.
        seed: of the slots' first values.
    """

    length: int
    bos: int = 0
    eos: int = 0
    slots: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, "length", counts(self.length), "at least 1, whole")
        for name in ("bos", "eos", "slots"):
            value = getattr(self, name)
            require(self, name, value == 0 or counts(value), "0 or more, whole")


class Decoded(NamedTuple):
    """What a decoder wrote.

    Attributes:
        tokens: (b, limit), the end token from the first one on.
        lengths: (b,), tokens before the end token; `limit` where none was written.
    """

    tokens: Tensor
    lengths: Tensor

    def rows(self) -> list[list[int]]:
        """Each row's tokens without the end token, as plain lists."""
        pairs = zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)
        return [row[:length] for row, length in pairs]

    def present(self) -> Tensor:
        """(b, limit): which tokens stand before the end token."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return places < self.lengths[:, None]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], end: int = 0) -> Decoded:
        """The inverse of :meth:`rows`: texts of any lengths, on the processor, with `end` after
        them."""
        longest = max(map(len, rows), default=0)
        filled = [[*row, *[end] * (longest - len(row))] for row in rows]
        tokens = torch.tensor(filled, dtype=torch.int64).reshape(len(rows), longest)
        return cls(tokens, torch.tensor([len(row) for row in rows]))


class StateAutoencoder(nn.Module):
    """Frozen encoder, state, decoder.

    Args:
        encoder: a language model; its parameters are frozen in place.
        config: see :class:`AutoencoderConfig`.
        start: the language model whose weights the decoder starts from; None for the encoder.

    Raises:
        ValueError: tokens outside the vocabulary; attention without slots, or slots without it; a
            start of another architecture.
    """

    def __init__(
        self, encoder: LanguageModel, config: AutoencoderConfig, start: LanguageModel | None = None
    ) -> None:
        super().__init__()
        vocab = encoder.config.vocab_size
        for name in ("bos", "eos"):
            require(config, name, getattr(config, name) < vocab, f"less than vocab_size {vocab}")
        attends = has_attention(encoder.config)
        wanted = "at least 1 for attention" if attends else "0 without attention"
        require(config, "slots", (config.slots > 0) == attends, wanted)
        self.config = config
        if start is not None and start.config != encoder.config:
            raise ValueError(
                f"start is {start.config}, allowed: {encoder.config}, the encoder's architecture"
            )
        self.decoder = copy.deepcopy(encoder if start is None else start).requires_grad_(True)
        self.encoder = encoder.requires_grad_(False).eval()
        self.slots: nn.Parameter | None = None
        if config.slots:
            weight = encoder.embedding.weight
            generator = torch.Generator().manual_seed(config.seed)
            drawn = torch.randn(config.slots, weight.shape[1], generator=generator)
            self.slots = nn.Parameter((EMBEDDING_STD * drawn).to(weight))

    def train(self, mode: bool = True) -> StateAutoencoder:
        """Training mode for the decoder; the encoder stays in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def encode(self, tokens: Tensor) -> States:
        """Chunks (b, L) to one state a layer; no gradient but that of the slots.

        Raises:
            ValueError: chunks of another length than the config's.
        """
        self._check(tokens)
        with torch.no_grad():
            _, states = self.encoder.hidden(tokens, None, True)
        if self.slots is None:
            return states
        length = tokens.shape[1]
        x = self.slots.expand(len(tokens), -1, -1)
        _, states = self.encoder.run_embedded(x, states, True, length)
        pairs = zip(states, self.encoder.config.blocks, strict=True)
        return [_slots_alone(state, block, length) for state, block in pairs]

    def logits(self, tokens: Tensor, states: States | None = None) -> Tensor:
        """Teacher forcing: chunks (b, L) to logits (b, L + 1, v) of x1 .. xL and the end token.

        `states` are those of `tokens` unless others are given; gradients flow through them.

        Raises:
            ValueError: chunks of another length; states of another architecture or batch.
        """
        self._check(tokens)
        states = self.encode(tokens) if states is None else states
        expect_states(self.decoder, states, len(tokens))
        bos = tokens.new_full((len(tokens), 1), self.config.bos)
        return self.decoder(torch.cat([bos, tokens], 1), states)

    def targets(self, tokens: Tensor) -> Tensor:
        """(b, L + 1): the chunk and the end token."""
        eos = tokens.new_full((len(tokens), 1), self.config.eos)
        return torch.cat([tokens, eos], 1)

    def loss(self, tokens: Tensor, states: States | None = None) -> Tensor:
        """Mean cross-entropy in nats of all L + 1 targets, () in float32 or wider."""
        return decoder_loss(self, tokens, states)[0]

    @torch.no_grad()
    def reconstruct(self, tokens: Tensor, states: States | None = None) -> Decoded:
        """Chunks (b, L), written down from their states alone, in at most L + 1 tokens."""
        self._check(tokens)
        return self.decode(self.encode(tokens) if states is None else states, len(tokens))

    def decode(self, states: States, batch: int, untrained: bool = False) -> Decoded:
        """What the decoder, or with `untrained` the encoder's own weights, write from states."""
        c = self.config
        model = self.encoder if untrained else self.decoder
        return decode_greedily(model, states, batch, bos=c.bos, eos=c.eos, limit=c.length + 1)

    def _check(self, tokens: Tensor) -> None:
        if tokens.dim() != 2 or tokens.shape[1] != self.config.length or not len(tokens):
            raise ValueError(
                f"tokens has shape {tuple(tokens.shape)}, allowed: (b, {self.config.length}), "
                "chunks of the length that this autoencoder is for"
            )


def decoder_loss(
    model: StateAutoencoder, tokens: Tensor, states: States | None = None
) -> tuple[Tensor, Tensor]:
    """Mean loss of all targets, and how many of the chunks' tokens have the largest logit, given
    the true ones before them; for the trainer."""
    logits, targets = model.logits(tokens, states), model.targets(tokens)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    loss = F.cross_entropy(wide.flatten(0, 1), targets.flatten())
    return loss, (logits.detach().argmax(-1) == targets)[:, :-1].sum()


@torch.no_grad()
def decode_greedily(
    model: LanguageModel, states: States, batch: int, *, bos: int, eos: int, limit: int
) -> Decoded:
    """The most likely token at each step, from `states` and the token `bos` on.

    Args:
        limit: tokens to write at most, the end token included.

    Raises:
        ValueError: states of another architecture or batch; a limit below 1.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}, allowed: at least 1")
    expect_states(model, states, batch)
    device = model.embedding.weight.device
    token = torch.full((batch,), bos, device=device)
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    written = torch.full((batch, limit), eos, device=device)
    for position in range(limit):
        logits, states = model.step(token, states, position)
        token = logits.argmax(-1)
        ended = ended | (token == eos)
        token = torch.where(ended, eos, token)
        written[:, position] = token
        if ended.all():
            break
    lengths = (written != eos).long().cumprod(1).sum(1)
    return Decoded(written, lengths)


def has_attention(config: LanguageModelConfig) -> bool:
    """Whether a stack keeps more the more it reads."""
    return any(isinstance(block, AttentionConfig) for block in config.blocks)


def state_floats(states: States, more: int = 0) -> int:
    """Numbers in the states of one sequence, all layers together, and after so many tokens more:
    attention keeps each."""
    held = sum(part[:1].numel() for state in states for part in state)
    each = sum(
        part.shape[1] * part.shape[3]
        for state in states
        if isinstance(state, AttentionState)
        for part in (state.k, state.v)
    )
    return held + more * each


def slots_for(config: LanguageModelConfig, floats: int) -> int:
    """The most slots with which the state of a stack with attention has up to `floats` numbers.

    What the other layers and the attention's convolutions keep counts too.

    Raises:
        ValueError: a stack without attention, or not room for a single slot.
    """
    attention = [block for block in config.blocks if isinstance(block, AttentionConfig)]
    if not attention:
        raise ValueError("the stack has no attention; its state is of fixed size, without slots")
    with torch.device("meta"):
        fixed = state_floats(LanguageModel(config).initial_states(1))
    each = sum(block.n_heads * (block.headdim_qk + block.headdim_v) for block in attention)
    slots = (floats - fixed) // each
    if slots < 1:
        raise ValueError(f"floats is {floats}, allowed: at least {fixed + each}, one slot")
    return slots


def map_states(states: States, change: Any) -> States:
    """States with `change` (a function of a tensor) applied to all their tensors."""
    return [type(state)(*(change(part) for part in state)) for state in states]


def _slots_alone(state: BlockState, block: BlockConfig, length: int) -> BlockState:
    """Of attention the keys and values of what came after the first `length` tokens, as if nothing
    had stood before; any other state as it is."""
    if not isinstance(state, AttentionState):
        return state
    assert isinstance(block, AttentionConfig)
    k, v = state.k[:, :, length:], state.v[:, :, length:]
    if block.rope_theta is not None:
        k = moved(k, -length, block.rope_theta)
    return AttentionState(k, v, state.conv)


def _described(state: Any) -> str:
    """Type and shapes; how many tokens attention holds is left open."""
    if not hasattr(state, "_fields"):
        return type(state).__name__
    grows = isinstance(state, AttentionState)
    sizes = []
    for name, part in zip(state._fields, state, strict=True):
        shape: list[Any] = list(part.shape)
        if grows and name in ("k", "v"):
            shape[2] = "c"
        sizes.append(f"{name} ({', '.join(map(str, shape))})")
    return f"{type(state).__name__} of {', '.join(sizes) or 'nothing'}"


def expect_states(model: LanguageModel, states: States, batch: int) -> None:
    """Check that `states` are such as `model` makes for `batch` sequences.

    Raises:
        ValueError: another number of layers, kind of block, shape or batch; the layer is named.
    """
    # shapes alone: at every step of training, zeros of the states' size would cost memory and time
    nowhere, dtype = torch.device("meta"), model.embedding.weight.dtype
    own = [layer.mixer.initial_state(batch, nowhere, dtype) for layer in model.layers]  # type: ignore[union-attr, operator]
    if len(states) != len(own):
        raise ValueError(f"states has length {len(states)}, allowed: {len(own)}, the decoder's")
    for index, (found, wanted) in enumerate(zip(states, own, strict=True)):
        if _described(found) != _described(wanted):
            raise ValueError(
                f"state of layer {index} is a {_described(found)}; this decoder goes on from a "
                f"{_described(wanted)}: it is of another architecture or batch"
            )
