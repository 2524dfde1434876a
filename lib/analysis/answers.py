"""The loss of answers, and the answers that a model gives: for our models and for transformers'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib.models.batch_decoding import decode_batch
from lib.models.language_model import LanguageModel
from lib.tasks.question_answers import Codes, Rows


def logits_of(model: Any, tokens: Tensor) -> Tensor:
    """(b, l) tokens to logits (b, l, v); the model is ours or one of transformers."""
    out = model(tokens)
    return out if isinstance(out, Tensor) else out.logits


def answer_loss(model: Any, tokens: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over the scored targets of a batch, in nats, and the number of rows of
    which every scored target is most likely to the model.

    Args:
        tokens: (b, l + 1). first, last: (b,); see :class:`lib.tasks.question_answers.Rows`.
    """
    tokens = tokens.long()
    logits = logits_of(model, tokens[:, :-1]).float()  # the softmax of bfloat16 loses small odds
    targets = tokens[:, 1:, None]
    place = torch.arange(logits.shape[1], device=tokens.device)
    counted = (place >= first[:, None]) & (place < last[:, None])
    nats = logits.logsumexp(-1) - logits.gather(-1, targets)[..., 0]
    loss = (nats * counted).sum() / counted.sum().clamp(min=1)
    wrong = (logits.argmax(-1) != targets[..., 0]) & counted
    return loss, (~wrong.any(-1)).sum()


@torch.no_grad()
def answer_nats(model: nn.Module, rows: Rows, at_once: int = 512, beginning: bool = False) -> float:
    """Mean cross-entropy of the scored targets of all `rows`, in nats: how far given answers are
    from what `model` would say.

    Args:
        at_once: rows in a batch.
        beginning: of each row's first target alone: how far `model` is from beginning so.
    """
    device = next(model.parameters()).device
    last = rows.first + 1 if beginning else rows.last
    nats = scored = 0.0
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        batch = [t[part].to(device) for t in (rows.tokens, rows.first, last)]
        count = float((last - rows.first)[part].sum())
        nats += float(answer_loss(model, *batch)[0]) * count
        scored += count
    return nats / scored


@torch.no_grad()
def respond(
    model: nn.Module, tokenizer: Codes, prompts: Sequence[str], max_new_tokens: int,
    rows: int = 4096,
) -> list[str]:  # fmt: skip
    """What `model` answers to each prompt, greedily, up to the end of text.

    Args:
        rows: prompts at a time.
    """
    asked = [list(map(int, tokens)) for tokens in tokenizer.encode_batch(prompts)]
    said: list[str] = []
    for start in range(0, len(asked), rows):
        part = asked[start : start + rows]
        if isinstance(model, LanguageModel):
            new = decode_batch(model, part, max_new_tokens, tokenizer.eos)
        else:
            from lib.models.generation import generate

            new = generate(model, part, max_new_tokens=max_new_tokens, stop=[tokenizer.eos])
        said += [tokenizer.decode(tokens) for tokens in new]
    return said
