"""Learning-rate schedules as tables: one float a step, made before training starts."""

from __future__ import annotations

import math


def warmup_cosine(
    steps: int, warmup_steps: int, start: float, peak: float, end: float, hold: int = 1
) -> list[float]:
    """Linear warm-up from `start` to `peak`, then a cosine to `end` (arXiv 2509.17514, App. D).

    Args:
        steps: length of the table, warm-up included.
        warmup_steps: steps of the linear part, 0..steps.
        start, peak, end: learning rates; `end` is approached at the last step.
        hold: the rate changes only every `hold` steps (steps of an epoch, to step by epoch).

    Raises:
        ValueError: `steps`, `warmup_steps` or `hold` out of range.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, allowed: at least 1")
    if not 0 <= warmup_steps <= steps:
        raise ValueError(f"warmup_steps is {warmup_steps}, allowed: 0..{steps}")
    if hold < 1:
        raise ValueError(f"hold is {hold}, allowed: at least 1")
    table = []
    for step in range(steps):
        at = step // hold * hold
        if at < warmup_steps:
            table.append(start + (peak - start) * at / warmup_steps)
        else:
            # max(): a table that is all warm-up has no cosine to divide by
            progress = (at - warmup_steps) / max(1, steps - warmup_steps)
            table.append(end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress)))
    return table
