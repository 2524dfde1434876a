"""What becomes of small updates where weights have few digits.

A weight in bfloat16 has 8 significant bits: between 2^-k and 2^(1-k) neighbours are 2^(-k-7) apart,
and an update smaller than half of that is rounded away, whole, in every step. AdamW's updates are
about as large as the learning rate whatever the gradient, so at 3e-6 a weight above 2^-10 in size
cannot move (github.com/state-spaces/mamba, README: keep parameters in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib.training.config import TrainingConfig
from lib.training.optimizer import adamw


def lost(weight: Tensor, update: Tensor) -> Tensor:
    """Where `weight`, rounded to bfloat16, is the same before and after `update`; bool."""
    before = weight.to(torch.bfloat16)
    return (before.float() + update.float()).to(torch.bfloat16) == before


def lost_share(weights: Sequence[Tensor], step: float) -> float:
    """Part of the weights that an update of size `step`, in either direction, cannot move in
    bfloat16."""
    gone = total = 0
    for weight in weights:
        for sign in (step, -step):
            gone += int(lost(weight, torch.full_like(weight, sign, dtype=torch.float32)).sum())
        total += 2 * weight.numel()
    return gone / total


def watch_updates(
    model: nn.Module, loss: Callable[..., tuple[Tensor, Tensor]], batches: Any,
    config: TrainingConfig, steps: int,
) -> dict[str, float]:  # fmt: skip
    """Take `steps` of AdamW, the first of them too at the full rate `lr_peak`, and say what becomes
    of the updates. At the lower rates of a warm-up or a cosine more of them would round away.

    ``unmoved``: part of the weights that a step leaves as they were, mean over steps, as they are
    stored. ``would_round_away``: part that the step would leave as they were if they were stored in
    bfloat16. ``distance``: how far the weights are from where they began, root of the mean square,
    in units of learning rate times steps.

    `model` is trained in place; give it a copy.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters]
    optimizer = adamw(parameters, config)
    model.train()
    batches.begin_epoch(0)
    count = sum(p.numel() for p in parameters)
    unmoved = rounded = 0
    for step in range(steps):
        before = [p.detach().clone() for p in parameters]
        for group in optimizer.param_groups:
            rate = group["lr"]
            group["lr"] = rate.fill_(config.lr_peak) if isinstance(rate, Tensor) else config.lr_peak
        optimizer.zero_grad(set_to_none=True)
        loss(model, *batches.gather(step % batches.steps))[0].backward()
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(before, parameters, strict=True):
                unmoved += int((old == new).sum())
                rounded += int(lost(old, new.float() - old.float()).sum())
    model.eval()
    apart = sum(
        float((new.detach().double() - old.double()).square().sum())
        for old, new in zip(start, parameters, strict=True)
    )
    return {
        "unmoved": unmoved / (count * steps),
        "would_round_away": rounded / (count * steps),
        "distance": (apart / count) ** 0.5 / (config.lr_peak * steps),
    }
