"""Gradients of one step: in parts where a batch is too large, in the precision asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib.training.config import TrainingConfig


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """The context in which models are called: bfloat16 products if the config says so."""
    narrow = config.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=narrow)


def backward(
    loss: Callable[..., tuple[Tensor, Tensor]],
    batch: Sequence[Tensor],
    config: TrainingConfig,
    axis: int,
) -> tuple[Tensor, Tensor]:
    """Add the gradients of a batch's mean loss, summed over runs, to the parameters.

    Args:
        loss: a part of the batch to (mean loss, number of right answers), each () or (runs,).
        batch: tensors with `axis` axes of runs, then rows.

    Returns:
        The batch's mean loss and number of right answers, detached, () or (runs,).
    """
    rows = batch[0].shape[axis]
    losses, rights = [], []
    for part in zip(*(tensor.chunk(config.accumulate, axis) for tensor in batch), strict=True):
        # entered anew for each part, so that no cast weight outlives the step of a captured graph
        with autocast(config, batch[0].device):
            value, right = loss(*part)
        if part[0].shape[axis] < rows:  # the last part of an epoch's last batch may be smaller
            value = value * (part[0].shape[axis] / rows)
        value.sum().backward()
        losses.append(value.detach())
        rights.append(right)
    if len(losses) == 1:
        return losses[0], rights[0]
    return torch.stack(losses).sum(0), torch.stack(rights).sum(0)
