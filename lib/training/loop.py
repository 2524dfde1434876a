"""The training loop: AdamW, warm-up and cosine, clipping, metrics by epoch, exact resume.

One run, or an ensemble of runs along a leading axis, goes through the same loop. One step reads its
batch from the device, its learning rate from a table and adds its loss to device counters, so that
a step never waits for the host. On a GPU the whole step (gather, forward, backward, clipping,
AdamW) is captured once as a CUDA graph and replayed, and so are the step of an epoch's smaller last
batch and what is measured after an epoch.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lib import progress
from lib.training.abreast import Awaited, clock
from lib.training.batches import TensorBatches
from lib.training.checkpoints import save_checkpoint, take_up
from lib.training.config import TrainingConfig
from lib.training.ensemble import Ensemble, clip_by_run, join_runs, losses_of, on_host, split_runs
from lib.training.gradients import autocast, backward
from lib.training.graphs import Graphs, capture
from lib.training.optimizer import adamw
from lib.training.pace import Limit
from lib.training.runs import Run, TrainingResult
from lib.training.schedules import warmup_cosine

BatchLoss = Callable[..., tuple[Tensor, Tensor]]
NEVER = 2**31 - 1
AHEAD = 3  # steps that lie in a device's queue: enough for it to have work, while others add theirs
WRITERS = 8  # checkpoints written at once: each waits for its disk


class Trainer:
    """Trains `model`, or every run of an :class:`Ensemble`, on `batches`.

    A run whose loss is not finite has failed; the other runs of its ensemble go on unharmed, since
    no run reads another's numbers.

    Args:
        model: on its device already; one model, or an ensemble.
        batch_loss: ``batch_loss(model, *batch) -> (mean loss, number of right answers)``, both
            0-dim tensors; it sees one run's model and batch, in an ensemble as well.
        batches: the training data; for an ensemble :class:`StackedBatches` of as many runs.
        config: see :class:`TrainingConfig`; the same for all runs.
        evaluate: called after each epoch with the model (or ensemble) in eval mode, without
            gradients: name to number, () or, for an ensemble, (runs,). On a GPU it is captured as a
            CUDA graph, so it must return tensors and never ask the device for a value.
        runs: one entry a run: its identity and its checkpoint.
        checkpoint_every: seconds between checkpoints.
        deadline: ``time.monotonic()`` value at which to stop with a checkpoint, or None.
        whole: stop as soon as steps turn out too slow to be over by the deadline.
        compile: compile the loss with torch.compile (GPU).
        name: shown beside the progress bar.
        origin: what trains now (commit, device ...); checkpoints collect one a session, so that a
            resumed run can name all the code and machines that it ran on.

    Raises:
        ValueError: `runs` or `batches` are for another number of runs.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_loss: BatchLoss,
        batches: TensorBatches,
        config: TrainingConfig,
        *,
        evaluate: Callable[[nn.Module], Mapping[str, Tensor | float]] | None = None,
        runs: Sequence[Run] | None = None,
        checkpoint_every: float = 60.0,
        deadline: float | None = None,
        whole: bool = False,
        compile: bool = False,
        name: str = "training",
        origin: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.batches, self.config = model, batches, config
        self.evaluate, self.name = evaluate, name
        self.checkpoint_every, self.limit = checkpoint_every, Limit(deadline, whole)
        self.shape = (model.runs,) if isinstance(model, Ensemble) else ()
        if batches.shape != self.shape:
            raise ValueError(
                f"batches have runs {batches.shape}, allowed: {self.shape}, the model's"
            )
        count = math.prod(self.shape)
        self.runs = tuple(runs) if runs is not None else (Run(),) * count
        if len(self.runs) != count:
            raise ValueError(f"runs has {len(self.runs)} entries, allowed: {count}, one a model")
        # the module that holds the parameters, with the names that a single model's have
        self.module = model.stacked if isinstance(model, Ensemble) else model
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.cuda = self.device.type == "cuda"
        losses = losses_of(model, batch_loss)
        self.loss = torch.compile(losses, dynamic=False) if compile else losses
        self.total = config.epochs * batches.steps
        self.optimizer = adamw(self.parameters, config)
        table = warmup_cosine(
            self.total, config.warmup(batches.steps),
            config.lr_start, config.lr_peak, config.lr_end,
            hold=batches.steps if config.lr_by == "epoch" else 1,
        )  # fmt: skip
        self.lr_table = torch.tensor(table, dtype=torch.float32, device=self.device)
        self.rates = table
        self.step = self.first_step = 0
        self.begun = clock()
        self.ended: float | None = None
        self.origin = origin or {}
        self.earlier = [list[dict[str, Any]]() for _ in self.runs]
        self.rows = [list[dict[str, float]]() for _ in self.runs]
        self.failed: dict[int, int] = {}  # run to the step (counted from 0) that went wrong
        # of each whole epoch of this session, measuring and data order included, not the capture
        self.epoch_seconds: list[float] = []
        # counters on the device; a run has its loss sum, right answers, rows seen, first bad step
        self.counters = {
            "position": torch.zeros((), dtype=torch.int64, device=self.device),
            "global_step": torch.zeros((), dtype=torch.int64, device=self.device),
            "loss_sum": torch.zeros(self.shape, dtype=torch.float64, device=self.device),
            "right": torch.zeros(self.shape, dtype=torch.int64, device=self.device),
            "seen": torch.zeros(self.shape, dtype=torch.int64, device=self.device),
            "bad_step": torch.full(self.shape, NEVER, dtype=torch.int64, device=self.device),
        }
        self.graphs: Graphs | None = None
        self.names: list[str] = []

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
        self.optimizer.zero_grad(set_to_none=True)
        loss, right = backward(self.loss, batch, self.config, len(self.shape))
        if self.config.clip_norm is not None and self.shape:
            clip_by_run(self.parameters, self.config.clip_norm)
        elif self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            count["loss_sum"] += loss
            count["right"] += right
            count["seen"] += batch[-1].numel() // len(self.runs)  # answers: labels come last
            never = torch.full_like(count["bad_step"], NEVER)
            wrong = torch.where(torch.isfinite(loss), never, count["global_step"])
            torch.minimum(count["bad_step"], wrong, out=count["bad_step"])
            count["position"] += 1
            count["global_step"] += 1

    def _measure(self) -> Tensor:
        """Counters and what `evaluate` says, one row each of `names`, as one tensor on the device
        (names, runs), float64."""
        values: dict[str, Any] = {f"counter.{name}": v for name, v in self.counters.items()}
        if self.evaluate is not None:
            self.model.eval()
            with torch.no_grad(), autocast(self.config, self.device):
                values.update(self.evaluate(self.model))
            self.model.train()
        self.names = list(values)
        rows = [
            (v if isinstance(v, Tensor) else torch.tensor(v)).double().expand(len(self.runs))
            for v in values.values()
        ]
        return torch.stack(rows)

    def _capture(self) -> None:
        """Capture the steps and the measuring as CUDA graphs; warm-up steps are undone."""
        before = {name: value.clone() for name, value in self.state().items()}
        last = self.batches.steps - 1

        def rewind() -> None:
            for name in ("position", "global_step"):
                self.counters[name].zero_()

        self.graphs = capture(
            lambda: self._advance(self.counters["position"]),
            None if self.batches.even else lambda: self._advance(last),
            self._measure,
            rewind,
            lambda: self.load_state(before),
        )

    # -- state -----------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as named tensors (not copies)."""
        out = {f"model.{name}": value for name, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                out[f"optimizer.{name}.{key}"] = value
        out.update({f"counter.{name}": value for name, value in self.counters.items()})
        return out

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put a :meth:`state` back, in place."""
        own = self.module.state_dict()
        for name, value in own.items():
            value.copy_(tensors[f"model.{name}"])
        for name, parameter in self.module.named_parameters():
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

    def states(self) -> list[dict[str, Tensor]]:
        """:meth:`state` of each run, as that run would have it alone, on the CPU."""
        state = self.state()
        return split_runs(state, len(self.runs)) if self.shape else [on_host(state)]

    def save(self) -> None:
        """Write the checkpoint of each run that has a path for one."""

        def write(index: int) -> None:
            run = self.runs[index]
            assert run.checkpoint is not None
            save_checkpoint(run.checkpoint, run.identity, states[index], **facts[index])

        kept = [index for index, run in enumerate(self.runs) if run.checkpoint is not None]
        if kept:
            states = self.states()  # here: writers know nothing of this training's stream,
            facts = [  # nor of its clock, which tells its share of the time
                {**run.facts, "step": self.step, "rows": self.rows[index],
                 "sessions": self.sessions(index)}
                for index, run in enumerate(self.runs)
            ]  # fmt: skip
            with ThreadPoolExecutor(WRITERS) as writers:
                list(writers.map(write, kept))

    def resume(self) -> bool:
        """Go on from the checkpoints of the runs; False if there is none that can be read.

        Raises:
            CheckpointError: one is of another cell.
            ValueError: runs of an ensemble are at different steps.
        """
        kept = [take_up(run.checkpoint, run.identity) for run in self.runs]
        if not any(kept):
            return False
        states, steps = self.states(), [0] * len(self.runs)
        for index, found in enumerate(kept):
            if found is None:
                continue
            states[index], facts = found
            steps[index], self.rows[index] = facts["step"], facts["rows"]
            default = [{"steps": facts["step"], "commit": None}]
            self.earlier[index] = facts.get("sessions", default)
        if len(set(steps)) > 1:
            raise ValueError(f"checkpoints are at steps {steps}, allowed: one step for all runs")
        self.load_state(join_runs(states) if self.shape else states[0])
        self.step = steps[0]
        return True

    def seconds(self) -> float:
        """A run's share of the time since training was begun or resumed, until it ended: an equal
        part of its ensemble's, which has a part alone of what other trainings are under way in."""
        until = clock() if self.ended is None else self.ended
        return round((until - self.begun) / len(self.runs), 6)

    def sessions(self, run: int = 0) -> list[dict[str, Any]]:
        """One entry for each start of a run: its origin, the steps that it took, and the run's
        share of the seconds that they took."""
        mine = {**self.origin, "steps": self.step - self.first_step, "seconds": self.seconds()}
        return [*self.earlier[run], mine] if mine["steps"] else list(self.earlier[run])

    # -- the loop --------------------------------------------------------------------------

    def run(self) -> TrainingResult:
        """:meth:`train` for a single run."""
        (result,) = self.train()
        return result

    def train(self) -> list[TrainingResult]:
        """Train to the end, to the deadline or until every run has failed; one result a run."""
        for _ in self.turns():
            pass
        return self.results()

    def turns(self) -> Iterator[Awaited | None]:
        """:meth:`train`, handing over after each step with what it will wait for before its next
        turn, if that has not come by then; see :mod:`lib.training.abreast`."""
        self.begun, self.ended = clock(), None
        self.resume()
        self.first_step = self.step
        steps = self.batches.steps
        saved = time.monotonic()
        self.model.train()
        self.batches.begin_epoch(self.step // steps)
        if self.cuda:
            self._capture()
        bar = progress.bar(self.total, self.name, self.step)
        queued: deque[torch.cuda.Event] = deque()
        begun = time.perf_counter() if self.step % steps == 0 else None
        self.limit.begin()
        while self.step < self.total and len(self.failed) < len(self.runs):
            if self.limit.over(self.total - self.step):
                self.save()
                break
            position = self.step % steps
            if self.graphs is None:
                self._advance(position)
            elif self.graphs.smaller is not None and position == steps - 1:
                self.graphs.smaller.replay()
            else:
                self.graphs.step.replay()
            self.step += 1
            bar.update(1)
            if self.step % steps == 0:
                table, read = self._measured()
                yield read
                if read is not None:
                    read.synchronize()
                self._end_epoch(table)
                now = time.perf_counter()  # the device has just been waited for
                if begun is not None:
                    self.epoch_seconds.append(now - begun)
                begun = now
                if self.step < self.total:
                    self.batches.begin_epoch(self.step // steps)
            if time.monotonic() - saved >= self.checkpoint_every and self.step < self.total:
                self.save()
                saved = time.monotonic()
            if self.cuda:
                queued.append(torch.cuda.current_stream().record_event())
            yield queued.popleft() if len(queued) > AHEAD else None
        self.limit.end()
        self.ended = clock()
        bar.close()

    def results(self) -> list[TrainingResult]:
        """One result a run, when training is over."""
        return [self._result(run) for run in range(len(self.runs))]

    def _result(self, run: int) -> TrainingResult:
        curves, sessions = pd.DataFrame(self.rows[run]), self.sessions(run)
        if run in self.failed:
            bad, steps = self.failed[run], self.batches.steps
            reason = f"the loss was not finite at step {bad + 1} of {self.total}"
            return TrainingResult("failed", reason, curves, (bad // steps + 1) * steps, sessions)
        if self.step < self.total:
            reason = self.limit.reason(self.step, self.total)
            return TrainingResult("stopped", reason, curves, self.step, sessions)
        return TrainingResult("done", None, curves, self.step, sessions)

    def _measured(self) -> tuple[Tensor, torch.cuda.Event | None]:
        """:meth:`_measure` on the host, and on a GPU what must have come before it is read."""
        if self.graphs is None:
            return self._measure(), None
        self.graphs.measuring.replay()
        table = self.graphs.table
        host = torch.empty(table.shape, dtype=table.dtype, pin_memory=True)
        host.copy_(table, non_blocking=True)
        return host, torch.cuda.current_stream().record_event()

    def _end_epoch(self, table: Tensor) -> None:
        """One row of the curves for each run that has not failed; counters start again."""
        columns = dict(zip(self.names, table.tolist(), strict=True))
        for name in ("position", "loss_sum", "right", "seen"):
            self.counters[name].zero_()
        steps = self.batches.steps
        shown = [name for name in columns if not name.startswith("counter.")]
        for run, bad in enumerate(columns["counter.bad_step"]):
            if bad != NEVER:
                self.failed.setdefault(run, int(bad))
                continue
            self.rows[run].append({
                "epoch": self.step // steps,
                "step": self.step,
                "lr": self.rates[self.step - 1],
                "train_loss": columns["counter.loss_sum"][run] / steps,
                "train_accuracy": columns["counter.right"][run]
                / max(1, columns["counter.seen"][run]),
                **{name: columns[name][run] for name in shown},
            })  # fmt: skip
