"""Text from a language model, ours or one of transformers, a token at a time.

No batch is ever padded. Prompts of unequal length are read in groups of equal length; models whose
state has one size whatever it has read (Mamba) go on in one batch from there, others group by
group. So nothing that is not of a prompt can reach its state.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lib.models.config import AttentionConfig
from lib.models.language_model import LanguageModel
from lib.models.sampling import Sampler, SamplingConfig

GREEDY = SamplingConfig()


class Decoder(Protocol):
    """What generation needs of a model.

    Attributes:
        vocab_size: tokens that it knows (v).
        limit: positions that it has, None for no limit.
        joins: whether states after prompts of different lengths can be one batch.
        device: where its tokens go.
    """

    vocab_size: int
    limit: int | None
    joins: bool
    device: torch.device

    def prefill(self, tokens: Tensor) -> tuple[Tensor, Any]:
        """tokens (b, l) to the next token's logits (b, v) and the states after them."""

    def step(self, tokens: Tensor, states: Any, position: int) -> tuple[Tensor, Any]:
        """tokens (b,) at `position` to logits (b, v) and the next states."""

    def join(self, states: list[Any]) -> Any:
        """States of several batches as those of one, in this order."""


class OwnDecoder:
    """Our models: through the states of their blocks, whose size for Mamba no prompt changes."""

    def __init__(self, model: LanguageModel) -> None:
        config = model.config
        self.model, self.vocab_size = model, config.vocab_size
        placed = config.positional_encoding != "none"
        self.limit = config.max_length if placed else None
        attends = any(isinstance(block, AttentionConfig) for block in config.blocks)
        self.joins = not placed and not attends
        self.device = model.embedding.weight.device

    def prefill(self, tokens: Tensor) -> tuple[Tensor, Any]:
        """See :class:`Decoder`."""
        return self.model(tokens, last_token_only=True, return_states=True)

    def step(self, tokens: Tensor, states: Any, position: int) -> tuple[Tensor, Any]:
        """See :class:`Decoder`."""
        return self.model.step(tokens, states, position)

    def join(self, states: list[Any]) -> Any:
        """See :class:`Decoder`; every entry of every block's state has the batch in front."""
        return [
            type(layer[0])(*(torch.cat(parts) for parts in zip(*layer, strict=True)))
            for layer in zip(*states, strict=True)
        ]


class TransformersDecoder:
    """Any causal language model of transformers, through its own cache.

    Raises:
        TypeError: a model without a cache to go on from.
        ValueError: a model in training mode, whose dropout would act.
    """

    joins = False  # what a cache of theirs holds is their affair

    def __init__(self, model: Any) -> None:
        known = inspect.signature(model.forward).parameters
        names = [name for name in ("past_key_values", "cache_params") if name in known]
        if not names:
            raise TypeError(f"{type(model).__name__} takes no cache, so it cannot decode in steps")
        if model.training:
            raise ValueError(f"{type(model).__name__} is in training mode; call its eval() first")
        self.model, self.cache = model, names[0]
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        self.vocab_size = model.config.vocab_size
        self.limit = getattr(model.config, "max_position_embeddings", None)
        self.device = model.device

    def _run(self, tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        out = self.model(tokens, use_cache=True, **{self.cache: cache}, **self.options)
        return out.logits[:, -1], out[self.cache]

    def prefill(self, tokens: Tensor) -> tuple[Tensor, Any]:
        """See :class:`Decoder`."""
        return self._run(tokens, None)

    def step(self, tokens: Tensor, states: Any, position: int) -> tuple[Tensor, Any]:
        """See :class:`Decoder`; their cache counts positions itself."""
        return self._run(tokens[:, None], states)

    def join(self, states: list[Any]) -> Any:
        """See :class:`Decoder`; of one batch only."""
        (only,) = states
        return only


def decoder_of(model: Any) -> Decoder:
    """`model` as a :class:`Decoder`: one of ours, of transformers, or a decoder already.

    Raises:
        TypeError: anything else.
    """
    if isinstance(model, LanguageModel):
        return OwnDecoder(model)
    if isinstance(model, torch.nn.Module) and hasattr(model, "config"):
        return TransformersDecoder(model)
    if all(hasattr(model, name) for name in ("prefill", "step", "join", "joins", "limit")):
        return model
    raise TypeError(f"model is a {type(model).__name__}, which cannot generate")


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig = GREEDY,
    stop: Sequence[int] = (),
) -> list[list[int]]:
    """New tokens for each prompt, as if it were alone (row r draws from `sampling.seed` + r).

    Args:
        model: see :func:`decoder_of`.
        prompts: tokens, of any lengths from 1 on.
        max_new_tokens: at most so many each.
        sampling: how tokens are chosen.
        stop: tokens that end a text; they are not part of it, so a text with fewer than
            `max_new_tokens` tokens was ended by one.

    Raises:
        ValueError: no prompts, an empty one, unknown tokens, or more positions than the model has.
    """
    decoder = decoder_of(model)
    known = [list(prompt) for prompt in prompts]
    _check(decoder, known, max_new_tokens)
    lengths = sorted({len(prompt) for prompt in known})
    groups = [[row for row, prompt in enumerate(known) if len(prompt) == n] for n in lengths]
    texts: list[list[int]] = [[] for _ in known]
    for batch in [groups] if decoder.joins else [[group] for group in groups]:
        members = [row for group in batch for row in group]
        for tokens in _run(decoder, known, batch, max_new_tokens, sampling, stop):
            for row, token in zip(members, tokens, strict=True):
                if token is not None:
                    texts[row].append(token)
    return texts


def stream(
    model: Any,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig = GREEDY,
    stop: Sequence[int] = (),
) -> Iterator[int]:
    """The tokens of :func:`generate` for one prompt, each as soon as it is made.

    Nothing but the model's state is kept between tokens: for Mamba it never grows.

    Raises:
        ValueError: as :func:`generate`, before the first token.
    """
    decoder, prompts = decoder_of(model), [list(prompt)]
    _check(decoder, prompts, max_new_tokens)
    steps = _run(decoder, prompts, [[0]], max_new_tokens, sampling, stop)
    return (token for (token,) in steps if token is not None)


@torch.no_grad()
def _run(
    decoder: Decoder, prompts: list[list[int]], groups: list[list[int]], count: int,
    sampling: SamplingConfig, stop: Sequence[int],
) -> Iterator[list[int | None]]:  # fmt: skip
    """One list a step: the new token of each row of `groups`, None for a text that has ended.

    Args:
        groups: rows of equal length each; all go on in one batch.
    """
    read = [
        decoder.prefill(torch.tensor([prompts[row] for row in group], device=decoder.device))
        for group in groups
    ]
    logits = torch.cat([part for part, _ in read])
    states = decoder.join([state for _, state in read])
    del read  # a joined batch is a copy, of which one is enough
    sampler = Sampler(sampling, [row for group in groups for row in group])
    # only asked for where all rows are at one position: see Decoder.joins
    position = len(prompts[groups[0][0]])
    ended = [False] * len(logits)
    for made in range(1, count + 1):
        tokens = sampler(logits)
        values = tokens.tolist()
        ended = [was or value in stop for was, value in zip(ended, values, strict=True)]
        yield [None if over else value for over, value in zip(ended, values, strict=True)]
        if all(ended) or made == count:
            return
        # an ended row goes on unread until all have ended: rows never meet
        logits, states = decoder.step(tokens, states, position)
        position += 1


def _check(decoder: Decoder, prompts: list[list[int]], count: int) -> None:
    if not prompts:
        raise ValueError("prompts is empty, allowed: at least one")
    if count < 1:
        raise ValueError(f"max_new_tokens is {count}, allowed: at least 1")
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {row} has no tokens, allowed: at least one")
        low, high = min(prompt), max(prompt)
        if low < 0 or high >= decoder.vocab_size:
            wrong = low if low < 0 else high
            raise ValueError(
                f"prompt {row} has token {wrong}, allowed: 0..{decoder.vocab_size - 1}"
            )
        if decoder.limit is None:
            continue
        if len(prompt) > decoder.limit:
            raise ValueError(
                f"prompt {row} has {len(prompt)} tokens, allowed: up to {decoder.limit}, the "
                "positions that this model has"
            )
        room = decoder.limit - len(prompt) + 1  # the last new token is never read
        if count > room:
            raise ValueError(
                f"max_new_tokens is {count}, allowed: up to {room} after the {len(prompt)} tokens "
                f"of prompt {row}; this model has {decoder.limit} positions"
            )


def state_bytes(states: Any) -> int:
    """Bytes that our model's states take: what decoding keeps between tokens."""
    if isinstance(states, Tensor):
        return states.numel() * states.element_size()
    return sum(state_bytes(part) for part in states)
