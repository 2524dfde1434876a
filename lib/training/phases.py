"""Training in phases, one after the other on other data: checkpoints that know their phase.

A phase goes through the one training loop, so it resumes exactly. What it ends with is kept until
the next phase has ended, under the name of its phase: the weights of one phase are never taken for
those of another. What is kept says which weights the phase began with, and is gone on from beside
these alone: others, of a machine that trained the phase before anew, would be another run.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib import progress
from lib.training.batches import StackedBatches, TensorBatches
from lib.training.checkpoints import checkpoint_step, save_checkpoint, take_up
from lib.training.config import TrainingConfig
from lib.training.ensemble import Ensemble, together
from lib.training.loop import BatchLoss, Trainer
from lib.training.runs import Run, TrainingResult


@dataclass(frozen=True)
class PhaseFile:
    """Where one phase of one run is kept.

    Attributes:
        run: identity of the run.
        phase: name of the phase, such as "noisy".
        folder: where files go, None to keep none. stem: their name begins so.
    """

    run: str
    phase: str
    folder: Path | None
    stem: str

    @property
    def identity(self) -> str:
        """Of the run in this phase; a checkpoint of another phase has another."""
        return f"{self.run}, phase {self.phase}"

    @property
    def training(self) -> Path | None:
        """The checkpoint while the phase trains."""
        return (
            None if self.folder is None else self.folder / f"{self.stem}-{self.phase}.safetensors"
        )

    @property
    def ended(self) -> Path | None:
        """The weights that it ended with."""
        return self._path(f"{self.phase}-ended")

    def _path(self, ending: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{self.stem}-{ending}.safetensors"

    def save(self, weights: dict[str, Tensor], **facts: Any) -> None:
        """Keep what the phase ended with; the checkpoint of its training is no longer needed."""
        if self.ended is not None:
            save_checkpoint(self.ended, self.identity, weights, **facts)
        self.forget_training()

    def forget_training(self) -> None:
        """Remove the checkpoint of the training, which is over."""
        if self.training is not None:
            self.training.unlink(missing_ok=True)

    def begin_with(self, begins: str) -> None:
        """Put aside, under a name ending in ``.aside``, what is kept of a phase that began with
        other weights than those of the digest `begins`, or does not say with which, and say so.

        Raises:
            CheckpointError: a file is of another run or phase.
        """
        for path in (self.training, self.ended):
            kept = take_up(path, self.identity)
            if path is not None and kept is not None and kept[1].get("begins") != begins:
                aside = path.with_name(f"{path.name}.aside")
                os.replace(path, aside)
                how = "began with other weights than those here"
                if "begins" not in kept[1]:
                    how = "does not say which weights it began with"
                progress.note(f"{path.name} {how}; it is {aside.name} now, and begun again")

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What the phase ended with; None if it has not ended, or if that file is damaged.

        Raises:
            CheckpointError: the file is of another run or phase.
        """
        return take_up(self.ended, self.identity)

    def origin(self) -> dict[str, Any] | None:
        """Code and machine that ended the phase, as they were given; None if nothing is kept."""
        kept = self.load()
        return None if kept is None else kept[1].get("origin")

    def step(self) -> int:
        """Step at which its training goes on; 0 without a checkpoint that can be read.

        Raises:
            CheckpointError: the file is of another run or phase.
        """
        return checkpoint_step(self.training, self.identity)

    def remove(self) -> None:
        """Delete both files."""
        for path in (self.training, self.ended):
            if path is not None:
                path.unlink(missing_ok=True)


@dataclass
class PhaseRun:
    """A run that is to go through a phase.

    Attributes:
        model: with the weights that it begins with; trained in place.
        batches: its data. `key` is equal for runs that share them.
        file: where it is kept.
        new: whether nothing was trained before: then its identity tells its weights, but for what
            another device draws.
    """

    model: nn.Module
    batches: TensorBatches
    key: Hashable
    file: PhaseFile
    new: bool = False


def train_phase(
    runs: Sequence[PhaseRun],
    loss: BatchLoss,
    config: TrainingConfig,
    *,
    most: int | None = None,
    deadline: float | None = None,
    whole: bool = False,
    checkpoint_every: float = 60.0,
    compile: bool = False,
    name: str = "phase",
    origin: dict[str, Any] | None = None,
) -> list[TrainingResult]:
    """Take `runs` through a phase together, at most `most` at once; a result each, in their order.

    Runs that have ended it already are not trained again: they get the weights they ended with.
    After a run that stopped (the deadline; `whole` as of ``Trainer``) no other begins. Of one that
    failed nothing is kept.
    """
    results: dict[int, TrainingResult] = {}
    waiting = []
    begins = [None if run.new else weights_digest(run.model) for run in runs]
    for number, run in enumerate(runs):
        if (digest := begins[number]) is not None:
            run.file.begin_with(digest)
        kept = run.file.load()
        if kept is None:
            waiting.append(number)
        else:
            run.model.load_state_dict(kept[0])
            results[number] = _ended(kept[1])
    groups = together(waiting, lambda n: runs[n].file.step(), lambda _: most or max(1, len(runs)))
    why = None  # the first that stopped did
    for group in groups:
        if why is not None:
            results |= {number: _stopped(why) for number in group}
            continue
        found = _train([runs[number] for number in group], [begins[number] for number in group],
                       loss, config, deadline=deadline, whole=whole,
                       checkpoint_every=checkpoint_every, compile=compile, name=name,
                       origin=origin)  # fmt: skip
        results |= dict(zip(group, found, strict=True))
        why = next((result.reason for result in found if result.status == "stopped"), None)
    return [results[number] for number in range(len(runs))]


def _train(
    runs: Sequence[PhaseRun], begins: Sequence[str | None], loss: BatchLoss,
    config: TrainingConfig, **options: Any,
) -> list[TrainingResult]:  # fmt: skip
    model: nn.Module = runs[0].model
    batches = runs[0].batches
    if len(runs) > 1:
        keys = list(dict.fromkeys(run.key for run in runs))
        which = [keys.index(run.key) for run in runs]
        batches = StackedBatches([runs[which.index(k)].batches for k in range(len(keys))], which)
        model = Ensemble([run.model for run in runs])
    names = [
        Run(run.file.identity, run.file.training, {"begins": digest})
        for run, digest in zip(runs, begins, strict=True)
    ]
    results = Trainer(model, loss, batches, config, runs=names, **options).train()
    for number, (run, result) in enumerate(zip(runs, results, strict=True)):
        if isinstance(model, Ensemble):
            run.model.load_state_dict(model.weights(number))
        run.model.eval()
        if result.status == "done":
            run.file.save(
                run.model.state_dict(), step=result.step, rows=result.curves.to_dict("records"),
                origin=options.get("origin"), sessions=result.sessions, begins=begins[number],
            )  # fmt: skip
        elif result.status == "failed":  # the next try must not begin with what is no number
            run.file.forget_training()
    return results


def weights_digest(model: nn.Module) -> str:
    """Of a model's names and weights, bit by bit: 16 hex digits."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def _ended(facts: dict[str, Any]) -> TrainingResult:
    import pandas as pd

    rows, sessions = pd.DataFrame(facts["rows"]), facts.get("sessions", [])
    return TrainingResult("done", None, rows, int(facts["step"]), sessions)


def _stopped(why: str) -> TrainingResult:
    import pandas as pd

    return TrainingResult("stopped", f"not begun; others: {why}", pd.DataFrame(), 0)


def twin(model: nn.Module) -> nn.Module:
    """A copy of `model` with the marks of its parameters (such as those spared from decay), which
    ``copy.deepcopy`` loses."""
    other = copy.deepcopy(model)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        vars(theirs).update(vars(mine))
    return other


def to_precision(model: nn.Module, weights: str) -> nn.Module:
    """`model` with its weights in float32, or all of them in bfloat16 (no master copy), in place.

    Raises:
        ValueError: another name.
    """
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if weights not in kinds:
        raise ValueError(f"weights is {weights!r}, allowed: {', '.join(kinds)}")
    return model.to(kinds[weights])
