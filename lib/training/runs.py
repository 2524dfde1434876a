"""A run: where it is kept while it trains, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class TrainingResult:
    """What training left of one run.

    Attributes:
        status: "done", "failed" (a loss was not finite) or "stopped" (the budget was
            spent, or the run given up).
        reason: why it failed, or where it was stopped, naming the step.
        curves: one row an epoch: epoch, step, lr, train_loss, train_accuracy and what
            `evaluate` returned.
        step: optimiser steps taken; a failed run ends with the epoch of its failure.
        sessions: see ``Trainer.sessions``.
        waited: seconds before that, in which another process trained the same.
    """

    status: str
    reason: str | None
    curves: pd.DataFrame
    step: int
    sessions: list[dict[str, Any]] = field(default_factory=list)
    waited: float = 0.0


@dataclass(frozen=True)
class Run:
    """Where one run is kept while it trains.

    Attributes:
        identity: of its cell; a checkpoint of another cell is refused.
        checkpoint: path to resume from and to write to, None for no checkpoints.
        facts: what else a checkpoint says of the run.
    """

    identity: str = ""
    checkpoint: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
