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
    nats, counted, most_likely = _targets(model, tokens, first, last)
    loss = (nats * counted).sum() / counted.sum().clamp(min=1)
    return loss, (most_likely | ~counted).all(-1).sum()


def _targets(
    model: Any, tokens: Tensor, first: Tensor, last: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each target of a batch (b, l): cross-entropy in nats, whether it is scored, and whether it
    is most likely to the model."""
    tokens = tokens.long()
    logits = logits_of(model, tokens[:, :-1]).float()  # the softmax of bfloat16 loses small odds
    targets = tokens[:, 1:, None]
    place = torch.arange(logits.shape[1], device=tokens.device)
    counted = (place >= first[:, None]) & (place < last[:, None])
    nats = logits.logsumexp(-1) - logits.gather(-1, targets)[..., 0]
    return nats, counted, logits.argmax(-1) == targets[..., 0]


@torch.no_grad()
def answer_nats(model: nn.Module, rows: Rows, at_once: int = 512) -> tuple[float, float]:
    """How far given answers are from what `model` would say: mean cross-entropy in nats of the
    scored targets of all `rows`, and of each row's first alone, with which the answer begins.

    Args:
        at_once: rows in a batch.
    """
    device = next(model.parameters()).device
    nats = begun = 0.0
    for start in range(0, len(rows), at_once):
        tokens, first, last = (t[start : start + at_once].to(device) for t in rows.tensors)
        each, counted, _ = _targets(model, tokens, first, last)
        nats += float((each * counted).sum(dtype=torch.float64))
        begun += float(each.gather(1, first[:, None]).sum(dtype=torch.float64))
    return nats / float((rows.last - rows.first).sum()), begun / len(rows)


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
