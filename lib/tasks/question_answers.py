"""Questions with answers as rows of tokens, padded on the right, with the targets that are scored.

A row is a prompt, the answer and the end of text; then ends of text fill it up. A causal model
reads nothing to the right of a token, so padding on the right reaches no state and no score; on the
left it would run through a recurrent state. Which targets are scored is kept as two numbers a row:
from `first` up to, but without, `last`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Scored = Literal["answer", "whole"]
TooLong = Literal["refuse", "drop", "cut"]


class Codes(Protocol):
    """What packing needs of a tokenizer (see :class:`lib.tasks.tokenizers.Tokenizer`)."""

    vocab_size: int
    eos: int

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Any]:
        """Tokens of each text, without an end of text."""

    def decode(self, tokens: Any) -> str:
        """The text of tokens, without ends of text."""


class TransformersCodes:
    """A tokenizer of transformers as :class:`Codes`.

    Raises:
        ValueError: one without an end of text.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end of text, allowed: one with an eos_token")
        self.tokenizer, self.vocab_size = tokenizer, len(tokenizer)
        self.eos = int(tokenizer.eos_token_id)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, none that stand for no text."""
        return [
            list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False).input_ids
        ]

    def decode(self, tokens: Any) -> str:
        """The text of tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


@dataclass(frozen=True)
class Rows:
    """Rows of a data set.

    Attributes:
        tokens: (n, length + 1) int64; inputs are all but the last, targets all but the first.
        first, last: (n,) int64; of a row's targets number first .. last - 1 are scored.
        kept: for each row its number among the pairs that were packed.
    """

    tokens: Tensor
    first: Tensor
    last: Tensor
    kept: tuple[int, ...]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """What batches are made of; `last` comes last, so that a trainer counts rows as answers."""
        return self.tokens, self.first, self.last

    def __len__(self) -> int:
        return len(self.kept)


def pack(
    prompts: Sequence[str],
    answers: Sequence[str],
    tokenizer: Codes,
    length: int | None = None,
    scored: Scored = "answer",
    too_long: TooLong = "refuse",
) -> Rows:
    """Rows of `prompts` with their `answers`.

    Prompt and answer are encoded apart, so that the tokens of a prompt are the same with any
    answer, as they are when a model is asked.

    Args:
        length: targets in a row; None for as many as the longest pair needs.
        scored: "answer": its tokens and the end of text. "whole": those of the prompt too, but for
            the first, which nothing predicts (arXiv 2407.00996's trainer does that).
        too_long: pairs with more than `length` targets are refused, left out, or cut at their end.

    Raises:
        ValueError: no pairs, unequal numbers, an empty prompt or answer, a pair that is too long,
            an option that is none.
    """
    _check(prompts, answers, length, scored, too_long)
    asked, said = tokenizer.encode_batch(prompts), tokenizer.encode_batch(answers)
    whole: list[list[int]] = []
    ends: list[int] = []
    for prompt, answer in zip(asked, said, strict=True):
        whole.append([*map(int, prompt), *map(int, answer), tokenizer.eos])
        ends.append(len(prompt))
    length = max(map(len, whole)) - 1 if length is None else length
    kept = []
    for number, row in enumerate(whole):
        if len(row) <= length + 1:
            kept.append(number)
        elif too_long == "refuse":
            raise ValueError(
                f"pair {number} has {len(row) - 1} targets, allowed: up to length {length}; "
                "too_long='drop' or 'cut' takes care of such pairs"
            )
        elif too_long == "cut" and ends[number] <= length:  # else none of its answer would be left
            kept.append(number)
    if not kept:
        raise ValueError(f"length is {length}, allowed: at least the targets of one pair")
    tokens = torch.full((len(kept), length + 1), tokenizer.eos, dtype=torch.int64)
    for line, number in enumerate(kept):
        cut = torch.tensor(whole[number][: length + 1])
        tokens[line, : len(cut)] = cut
    first = [ends[number] - 1 if scored == "answer" else 0 for number in kept]
    last = [min(len(whole[number]) - 1, length) for number in kept]
    return Rows(tokens, torch.tensor(first), torch.tensor(last), tuple(kept))


def _check(
    prompts: Sequence[str], answers: Sequence[str], length: int | None, scored: str, too_long: str
) -> None:
    if len(prompts) != len(answers) or not len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts and {len(answers)} answers, allowed: equally many, at least 1"
        )
    for name, texts in (("prompt", prompts), ("answer", answers)):
        for number, text in enumerate(texts):
            if not text:
                raise ValueError(f"{name} {number} is empty, allowed: at least one character")
    if length is not None and length < 1:
        raise ValueError(f"length is {length}, allowed: at least 1, or None")
    if scored not in ("answer", "whole"):
        raise ValueError(f"scored is {scored!r}, allowed: answer, whole")
    if too_long not in ("refuse", "drop", "cut"):
        raise ValueError(f"too_long is {too_long!r}, allowed: refuse, drop, cut")


def longest(prompts: Sequence[str], answer_sets: Sequence[Sequence[str]], tokenizer: Codes) -> int:
    """Targets of the longest row that any of several sets of answers makes: a length for all."""
    asked = [len(tokens) for tokens in tokenizer.encode_batch(prompts)]
    most = 0
    for answers in answer_sets:
        said = [len(tokens) for tokens in tokenizer.encode_batch(answers)]
        most = max(most, *(a + b for a, b in zip(asked, said, strict=True)))
    return most  # prompt + answer + end of text, less the first token, which is no target


def on_device(rows: Rows, device: torch.device | str) -> tuple[Tensor, ...]:
    """The tensors of `rows` on a device."""
    return tuple(tensor.to(device) for tensor in rows.tensors)
