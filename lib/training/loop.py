"""The training loop: AdamW, warm-up and cosine, clipping, metrics by epoch, exact resume.

One step reads its batch from the device, its learning rate from a table and adds its loss to
device counters, so that a step never waits for the host. On a GPU the whole step (gather,
forward, backward, clipping, AdamW) is captured once as a CUDA graph and replayed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lib import progress
from lib.training.batches import TensorBatches
from lib.training.checkpoints import load_checkpoint, save_checkpoint
from lib.training.config import TrainingConfig
from lib.training.schedules import warmup_cosine

BatchLoss = Callable[..., tuple[Tensor, Tensor]]
NEVER = 2**31 - 1


@dataclass(frozen=True)
class TrainingResult:
    """What training left.

    Attributes:
        status: "done", "failed" (a loss was not finite) or "stopped" (the budget was spent).
        reason: why it failed, naming the step.
        curves: one row an epoch: epoch, step, lr, train_loss, train_accuracy and what
            `evaluate` returned.
        step: optimiser steps taken.
    """

    status: str
    reason: str | None
    curves: pd.DataFrame
    step: int


class Trainer:
    """Trains `model` on `batches`.

    Args:
        model: on its device already.
        batch_loss: ``batch_loss(model, *batch) -> (mean loss, number of right answers)``, both
            0-dim tensors.
        batches: the training data.
        config: see :class:`TrainingConfig`.
        evaluate: called after each epoch with the model in eval mode, without gradients.
        identity: of the cell; a checkpoint of another cell is refused.
        checkpoint: path to resume from and to write to, None for no checkpoints.
        checkpoint_every: seconds between checkpoints.
        deadline: ``time.monotonic()`` value at which to stop with a checkpoint, or None.
        compile: compile the loss with torch.compile (GPU).
        name: shown beside the progress bar.
        origin: what trains now (commit, device ...); checkpoints collect one a session, so that a
            resumed run can name all the code and machines that it ran on.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_loss: BatchLoss,
        batches: TensorBatches,
        config: TrainingConfig,
        *,
        evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
        identity: str = "",
        checkpoint: Path | None = None,
        checkpoint_every: float = 60.0,
        deadline: float | None = None,
        compile: bool = False,
        name: str = "training",
        origin: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.batches, self.config = model, batches, config
        self.evaluate, self.name = evaluate, name
        self.identity, self.checkpoint = identity, checkpoint
        self.checkpoint_every, self.deadline = checkpoint_every, deadline
        self.device = next(model.parameters()).device
        self.cuda = self.device.type == "cuda"
        self.batch_loss = torch.compile(batch_loss, dynamic=False) if compile else batch_loss
        self.total = config.epochs * batches.steps
        self.optimizer = self._optimizer()
        table = warmup_cosine(
            self.total, config.warmup_epochs * batches.steps,
            config.lr_start, config.lr_peak, config.lr_end,
            hold=batches.steps if config.lr_by == "epoch" else 1,
        )  # fmt: skip
        self.lr_table = torch.tensor(table, dtype=torch.float32, device=self.device)
        self.rates = table
        self.step = self.first_step = 0
        self.origin, self.earlier = origin or {}, list[dict[str, Any]]()
        self.rows: list[dict[str, float]] = []
        # counters on the device: loss sum, right answers, rows seen, first step that went wrong
        self.counters = {
            "position": torch.zeros((), dtype=torch.int64, device=self.device),
            "global_step": torch.zeros((), dtype=torch.int64, device=self.device),
            "loss_sum": torch.zeros((), dtype=torch.float64, device=self.device),
            "right": torch.zeros((), dtype=torch.int64, device=self.device),
            "seen": torch.zeros((), dtype=torch.int64, device=self.device),
            "bad_step": torch.full((), NEVER, dtype=torch.int64, device=self.device),
        }
        self.graph: torch.cuda.CUDAGraph | None = None

    def _optimizer(self) -> torch.optim.AdamW:
        config = self.config
        trained = [p for p in self.model.parameters() if p.requires_grad]
        spared = [p for p in trained if config.spare_dynamics and _is_dynamics(p)]
        ids = {id(p) for p in spared}
        groups = [
            {
                "params": [p for p in trained if id(p) not in ids],
                "weight_decay": config.weight_decay,
            },
            {"params": spared, "weight_decay": 0.0},
        ]
        rate: Any = config.lr_start
        if self.cuda:  # a tensor, so that a captured graph reads the rate of its own step
            rate = torch.tensor(rate, dtype=torch.float32, device=self.device)
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=rate, betas=(config.beta1, config.beta2), eps=config.eps,
            fused=True, capturable=self.cuda,
        )  # fmt: skip

    # -- one step --------------------------------------------------------------------------

    def _advance(self, position: Tensor | int) -> None:
        count = self.counters
        if self.cuda:
            # index_select, since indexing with a tensor asks the host for its value
            rate = self.lr_table.index_select(0, count["global_step"].view(1))[0]
            for group in self.optimizer.param_groups:
                group["lr"].copy_(rate)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rates[self.step]
        batch = self.batches.gather(position)
        loss, right = self.batch_loss(self.model, *batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            loss = loss.detach()
            count["loss_sum"] += loss
            count["right"] += right
            count["seen"] += len(batch[0])
            never = torch.full_like(count["global_step"], NEVER)
            wrong = torch.where(torch.isfinite(loss), never, count["global_step"])
            torch.minimum(count["bad_step"], wrong, out=count["bad_step"])
            count["position"] += 1
            count["global_step"] += 1

    def _capture(self) -> None:
        """Capture one step as a CUDA graph; warm-up steps are undone afterwards."""
        before = {name: value.clone() for name, value in self.state().items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._advance(self.counters["position"])
        torch.cuda.current_stream().wait_stream(stream)
        self.load_state(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._advance(self.counters["position"])
        self.load_state(before)
        self.graph = graph

    # -- state -----------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as named tensors (not copies)."""
        out = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                out[f"optimizer.{name}.{key}"] = value
        out.update({f"counter.{name}": value for name, value in self.counters.items()})
        return out

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put a :meth:`state` back, in place."""
        own = self.model.state_dict()
        for name, value in own.items():
            value.copy_(tensors[f"model.{name}"])
        for name, parameter in self.model.named_parameters():
            prefix = f"optimizer.{name}."
            found = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            held = self.optimizer.state[parameter] if parameter.requires_grad else {}
            for key, value in found.items():
                if key in held:
                    held[key].copy_(value)
                else:
                    held[key] = value.to(self.device if self.cuda else "cpu").clone()
            if not found:  # a state from before the first step: moments are zero
                for value in held.values():
                    value.zero_()
        for name, value in self.counters.items():
            value.copy_(tensors[f"counter.{name}"])

    def save(self) -> None:
        """Write the checkpoint, if there is a path for one."""
        if self.checkpoint is not None:
            save_checkpoint(
                self.checkpoint, self.identity, self.state(),
                step=self.step, rows=self.rows, sessions=self.sessions(),
            )  # fmt: skip

    def resume(self) -> bool:
        """Go on from the checkpoint if there is one; False if there is none.

        Raises:
            CheckpointError: it is damaged or of another cell.
        """
        if self.checkpoint is None or not self.checkpoint.exists():
            return False
        tensors, facts = load_checkpoint(self.checkpoint, self.identity)
        self.load_state(tensors)
        self.step, self.rows = facts["step"], facts["rows"]
        self.earlier = facts.get("sessions", [{"steps": self.step, "commit": None}])
        return True

    def sessions(self) -> list[dict[str, Any]]:
        """One entry for each start of this run: its origin and the steps that it took."""
        mine = {**self.origin, "steps": self.step - self.first_step}
        return [*self.earlier, mine] if mine["steps"] else list(self.earlier)

    # -- the loop --------------------------------------------------------------------------

    def run(self) -> TrainingResult:
        """Train to the end, to the deadline or to the first loss that is not finite."""
        self.resume()
        self.first_step = self.step
        steps = self.batches.steps
        saved = time.monotonic()
        bar = progress.bar(self.total, self.name, self.step)
        self.model.train()
        self.batches.begin_epoch(self.step // steps)
        if self.cuda:
            self._capture()
        while self.step < self.total:
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.save()
                bar.close()
                return TrainingResult("stopped", None, pd.DataFrame(self.rows), self.step)
            position = self.step % steps
            if self.graph is not None and (self.batches.even or position < steps - 1):
                self.graph.replay()
            else:  # on the processor, and for an epoch's smaller last batch
                self._advance(position)
            self.step += 1
            bar.update(1)
            if self.step % steps == 0:
                failed = self._end_epoch()
                if failed:
                    bar.close()
                    return TrainingResult("failed", failed, pd.DataFrame(self.rows), self.step)
                self.batches.begin_epoch(self.step // steps)
            if time.monotonic() - saved >= self.checkpoint_every and self.step < self.total:
                self.save()
                saved = time.monotonic()
        bar.close()
        return TrainingResult("done", None, pd.DataFrame(self.rows), self.step)

    def _end_epoch(self) -> str | None:
        count = self.counters
        bad = int(count["bad_step"])
        if bad != NEVER:
            return f"the loss was not finite at step {bad + 1} of {self.total}"
        seen = max(1, int(count["seen"]))
        row: dict[str, float] = {
            "epoch": self.step // self.batches.steps,
            "step": self.step,
            "lr": self.rates[self.step - 1],
            "train_loss": float(count["loss_sum"]) / self.batches.steps,
            "train_accuracy": int(count["right"]) / seen,
        }
        for name in ("position", "loss_sum", "right", "seen"):
            count[name].zero_()
        if self.evaluate is not None:
            self.model.eval()
            with torch.no_grad():
                row.update(self.evaluate(self.model))
            self.model.train()
        self.rows.append(row)
        return None


def _is_dynamics(parameter: Tensor) -> bool:
    return bool(getattr(parameter, "_no_weight_decay", False))
