"""Prompts to tokens and a stream of tokens to text, with a transformers tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lib.models.generation import GREEDY, stream
from lib.models.sampling import SamplingConfig

UNFINISHED = "�"  # what a decoder writes for bytes that are no whole character yet


def pieces(tokens: Iterable[int], tokenizer: Any) -> Iterator[str]:
    """The text of `tokens`, in pieces of whole characters, as they come in.

    A character may need several tokens, and a token's text may depend on the one before it (a
    space, a joined accent): so each piece is what a token adds to the text of a few before it.
    """
    shown: list[int] = []  # tokens of the last piece, the context of the next
    waiting: list[int] = []
    for token in tokens:
        waiting.append(token)
        text = _added(tokenizer, shown, waiting)
        if text and not text.endswith(UNFINISHED):
            yield text
            shown, waiting = waiting, []
    if waiting and (text := _added(tokenizer, shown, waiting)):
        yield text


def _added(tokenizer: Any, shown: list[int], waiting: list[int]) -> str:
    def decode(tokens: list[int]) -> str:
        # clean-up would move spaces that are on the page already
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(tokenizer.decode(tokens, **options))

    return decode(shown + waiting)[len(decode(shown)) :]


def encode(prompt: str, tokenizer: Any) -> list[int]:
    """Tokens of `prompt`; of an empty one the token that begins a text.

    Raises:
        ValueError: an empty prompt, and a tokenizer without such a token.
    """
    tokens = [int(token) for token in tokenizer(prompt)["input_ids"]]
    if not tokens and tokenizer.bos_token_id is not None:
        return [int(tokenizer.bos_token_id)]
    if not tokens:
        raise ValueError("the prompt is empty and the tokenizer has no token to begin with")
    return tokens


def stream_text(
    model: Any,
    tokenizer: Any,
    prompt: str,
    *,
    max_new_tokens: int,
    sampling: SamplingConfig = GREEDY,
    stop: Iterable[int] = (),
) -> Iterator[str]:
    """What `model` writes after `prompt`, piece by piece; see :func:`lib.models.generation.stream`.

    The tokenizer's end of text ends it, and so do the tokens `stop`.
    """
    ends = {*stop, tokenizer.eos_token_id} - {None}
    tokens = stream(
        model, encode(prompt, tokenizer), max_new_tokens=max_new_tokens, sampling=sampling,
        stop=sorted(ends),
    )  # fmt: skip
    return pieces(tokens, tokenizer)
