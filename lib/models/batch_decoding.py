"""Greedy answers to thousands of prompts in one batch, without padding and without waiting.

All rows read their first token at one time, their second at one time, and so on; a row whose prompt
has ended reads what it has said itself. So every row stands at the same position, nothing that is
not its own reaches its state, and attention needs no mask. What all prompts have in common in
length, at least one token each, is read at once. The device is asked only now and then whether all
rows have ended.

:func:`lib.models.generation.generate` does the same for any model and any choice of tokens; there
a step waits for the host, and a Transformer's prompts go on group by group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.models.language_model import LanguageModel

ASK_EVERY = 8


@torch.no_grad()
def decode_batch(
    model: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: int
) -> list[list[int]]:
    """The likeliest tokens after each prompt, one after the other, up to (without) `stop`.

    Raises:
        ValueError: no prompts, an empty one, or max_new_tokens below 1.
    """
    if not len(prompts) or not all(map(len, prompts)):
        raise ValueError("prompts is empty or has an empty one, allowed: at least one token each")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, allowed: at least 1")
    device = model.embedding.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    shortest, longest = min(map(len, prompts)), max(map(len, prompts))
    total = longest + max_new_tokens
    # what is read, column by column: prompts, then what is said
    text = torch.full((len(prompts), total), stop, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        text[row, : len(prompt)] = torch.tensor(list(prompt))
    text = text.to(device)
    logits, states = model(text[:, :shortest], last_token_only=True, return_states=True)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for place in range(shortest, total):
        ended = _write(text, logits.argmax(-1), place, lengths, max_new_tokens, stop, ended)
        if place + 1 == total or (place % ASK_EVERY == 0 and bool(ended.all())):
            break
        logits, states = model.step(text[:, place], states, place)
    return _cut(text.tolist(), lengths.tolist(), max_new_tokens, stop)


def _write(
    text: Tensor, said: Tensor, place: int, lengths: Tensor, most: int, stop: int, ended: Tensor
) -> Tensor:
    """Put what was said into column `place` of the rows that are past their prompt; which rows have
    ended now. An ended row goes on saying `stop`."""
    own = place >= lengths
    said = torch.where(ended, stop, said)
    text[:, place] = torch.where(own, said, text[:, place])
    return ended | (own & (said == stop)) | (place + 1 - lengths >= most)


def _cut(rows: list[list[int]], lengths: list[int], most: int, stop: int) -> list[list[int]]:
    found = []
    for row, length in zip(rows, lengths, strict=True):
        new = row[length : length + most]
        found.append(new[: new.index(stop)] if stop in new else new)
    return found
