"""AdamW as a config asks for it, on a processor or inside a CUDA graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lib.training.config import TrainingConfig


def adamw(parameters: Sequence[nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    """Fused AdamW on `parameters`, elementwise, so runs stacked in one parameter stay apart.

    With ``config.spare_dynamics`` parameters that carry ``_no_weight_decay`` (A_log, D and the dt
    bias, as in mamba_ssm) do not decay.
    """
    spared = [p for p in parameters if config.spare_dynamics and _is_dynamics(p)]
    ids = {id(p) for p in spared}
    groups = [
        {
            "params": [p for p in parameters if id(p) not in ids],
            "weight_decay": config.weight_decay,
        },
        {"params": spared, "weight_decay": 0.0},
    ]
    device = parameters[0].device
    rate: Any = config.lr_start
    if device.type == "cuda":  # a tensor, so that a captured graph reads the rate of its own step
        rate = torch.tensor(rate, dtype=torch.float32, device=device)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=rate, betas=(config.beta1, config.beta2), eps=config.eps,
        fused=True, capturable=device.type == "cuda",
    )  # fmt: skip


def _is_dynamics(parameter: torch.Tensor) -> bool:
    return bool(getattr(parameter, "_no_weight_decay", False))
