"""What phases of several cells have in common: weights trained once, and where it was.

What is trained once for many cells (pretraining, phase 1) is kept by its own identity beside the
local runs, so that another noise, or a run that was killed, begins with the very same weights. Of
two processes one trains it, and the other waits.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib import locks, progress, provenance
from lib.experiments import Context
from lib.experiments._noise_world import base_identity
from lib.models.config import LanguageModelConfig
from lib.tasks.language import LanguageTask
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lib.training.phases import PhaseFile, PhaseRun
    from lib.training.runs import TrainingResult


def text_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of the next token for rows kept in a small integer type."""
    from lib.analysis.language import next_token_loss

    return next_token_loss(model, inputs.long(), targets.long())


def train_once(
    file: PhaseFile, context: Context, train: Callable[[], TrainingResult]
) -> TrainingResult:
    """``train()`` of a phase that many cells share, unless another process is at it: then once that
    has ended, with what it left in the phase's `file`; stopped if the budget is spent first. The
    result says how long that took."""
    from lib.training.runs import TrainingResult

    if file.folder is None:
        return train()
    lock, what = locks.lock_of(file.folder.parent, file.stem), f"{file.stem}, phase {file.phase}"
    if not locks.taken(lock):
        progress.note(f"another process trains {what}; waiting for it")
    begun = time.perf_counter()
    if not locks.wait_for(lock, lambda: context.late):
        reason = f"budget spent waiting for {what}, which another process trains"
        return TrainingResult("stopped", reason, pd.DataFrame(), 0)
    waited = time.perf_counter() - begun
    try:
        return dataclasses.replace(train(), waited=waited)
    finally:
        lock.release()


def shared_folder(context: Context) -> Path | None:
    """Where weights lie that several experiments begin with: beside the folders of all of them."""
    folder = context.checkpoints
    if folder is None or folder.name != "checkpoints":
        return folder
    return folder.parent.parent / "noise-shared"


def base_run(
    base: LanguageTask, config: LanguageModelConfig, pretraining: TrainingConfig, seed: int,
    context: Context, kind: str,
) -> tuple[PhaseRun, dict[str, list[str]]]:  # fmt: skip
    """A new model and the text that it is to be pretrained on, kept by its identity; and which
    backends serve it. `kind` is the beginning of the file's name."""
    import torch

    from lib.experiments._language import open_data
    from lib.models.language_model import build_language_model
    from lib.ops import backends
    from lib.training.batches import TensorBatches, narrow
    from lib.training.gradients import autocast
    from lib.training.phases import PhaseFile, PhaseRun

    device = torch.device(context.device)
    model = build_language_model(config, seed=seed, device=device, backend=context.backend)
    tokens = narrow(open_data(base).train.tensor()).to(device)
    rows = TensorBatches((tokens[:, :-1], tokens[:, 1:]), pretraining.batch_size, seed)
    with torch.no_grad(), backends.recording() as used, autocast(pretraining, device):
        model(tokens[:2, :-1].long(), last_token_only=True)
    identity = base_identity(base, config, pretraining, seed)
    file = PhaseFile(identity, "base", shared_folder(context), f"shared-{kind}-{identity}")
    return PhaseRun(model, rows, 0, file, new=True), {
        op: list(served) for op, served in used.items()
    }


def phase_origin(device: torch.device | str, started: str) -> dict[str, Any]:
    """What trains a phase now: code, machine, and when the run of all phases was started."""
    machine = provenance.machine(device)
    return {**provenance.code(), "device_name": machine["device_name"], "started": started}


def phase_sessions(phase: str, result: TrainingResult) -> list[dict[str, Any]]:
    """A phase's sessions as a record lists them, see :mod:`lib.sessions`."""
    shared = {"shared": True} if phase in ("base", "clean") else {}
    return [{**session, "phase": phase, **shared} for session in result.sessions]
