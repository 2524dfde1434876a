"""Cells that begin with one model after phase 1, on their way through the phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib import provenance
from lib.experiments import Context, Outcome
from lib.experiments._noise_shared import (
    base_run,
    phase_origin,
    phase_sessions,
    shared_folder,
    text_loss,
    train_once,
)
from lib.experiments._noise_world import (
    PhaseCell,
    compact,
    family,
    in_context,
    open_questions,
    phase_answers,
    summarise,
)
from lib.peak_memory import DeviceMemory
from lib.tasks.noise import NOISES, NONE, NoiseConfig
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    from torch import nn

    from lib.tasks.question_answers import Rows
    from lib.training.batches import TensorBatches
    from lib.training.phases import PhaseFile, PhaseRun
    from lib.training.runs import TrainingResult


class Family:
    """Cells that begin with one model after phase 1, on their way through the phases."""

    def __init__(
        self, cells: Sequence[PhaseCell], context: Context, readable: Callable[[PhaseCell], str]
    ) -> None:
        import torch

        from lib.experiments._language import open_data

        self.cells, self.context, self.readable = list(cells), context, readable
        self.device = torch.device(context.device)
        self.memory = DeviceMemory(self.device)
        self.text = open_data(cells[0].base)
        self.questions = open_questions(cells[0].world, cells[0].seed, cells[0].base)
        self.started, self.clock = provenance.now(), time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.waited = 0.0  # seconds in which another process trained what these cells begin with
        self.examples: dict[int, dict[str, list[str]]] = {n: {} for n in range(len(cells))}
        self.used: dict[str, list[str]] = {}
        # code and machine of what was trained for many cells, perhaps long ago
        self.begun_with: dict[str, dict[str, Any] | None] = {}
        # where and when each phase of each cell was trained
        self.sessions: dict[int, list[dict[str, Any]]] = {}

    def run(self) -> Iterator[Outcome]:
        """The outcomes of all cells, but for those of another process."""
        from lib.training.phases import to_precision, twin

        self.cells = self.context.take(self.cells)
        if not self.cells:
            return
        first, numbers = self.cells[0], range(len(self.cells))
        model, ended = self._shared(first)
        failed = next((result for result in ended.values() if result.status != "done"), None)
        if failed is not None:
            for cell in self.cells:
                yield Outcome(cell, failed.status, failed.reason)
            return
        shared_sessions = [one for p, result in ended.items() for one in phase_sessions(p, result)]
        self.sessions = {n: list(shared_sessions) for n in numbers}
        shared = {phase: self._answers(model[phase], first) for phase in ("base", "clean")}
        models = {n: to_precision(twin(model["clean"]), self.cells[n].weights) for n in numbers}
        tables = {
            n: {p: self._score(self.cells[n], said, n, p) for p, said in shared.items()}
            for n in numbers
        }
        likely = self._nats(model["clean"], "clean")
        metrics = {
            n: {f"train_loss_{p}": _loss(result) for p, result in ended.items()}
            | self._in_context(model["clean"], self.cells[n], "clean")
            | likely
            for n in numbers
        }
        going = list(numbers)
        for phase in ("noisy", "again"):
            results = self._phase(phase, {n: models[n] for n in going})
            for n, result in results.items():
                self.sessions[n] += phase_sessions(phase, result)
                if result.status != "done":
                    going.remove(n)
                    yield Outcome(self.cells[n], result.status, result.reason)
                    continue
                said = self._answers(models[n], self.cells[n])
                tables[n][phase] = self._score(self.cells[n], said, n, phase)
                metrics[n][f"train_loss_{phase}"] = _loss(result)
                metrics[n] |= self._nats(models[n], phase)
        for n in going:
            metrics[n] |= self._in_context(models[n], self.cells[n], "again")
            metrics[n] |= self.inspect(model["clean"], self.cells[n])
            yield self._outcome(n, models[n], tables[n], metrics[n])
            for phase in ("noisy", "again"):
                self._file(self.cells[n], phase).remove()

    def inspect(self, clean: nn.Module, cell: PhaseCell) -> dict[str, Any]:
        """Further metrics of a cell, from the model after phase 1; here none."""
        return {}

    # -- training --------------------------------------------------------------------------

    def _shared(self, cell: PhaseCell) -> tuple[dict[str, nn.Module], dict[str, TrainingResult]]:
        """Models and results of pretraining and of phase 1."""
        from lib.analysis.answers import answer_loss
        from lib.training.phases import PhaseFile, PhaseRun, twin

        folder, kind = shared_folder(self.context), self.readable(family(cell)).split("-none")[0]
        run, self.used = base_run(
            cell.base, cell.model, cell.pretraining, cell.seed, self.context, kind
        )
        base = run.model
        models: dict[str, nn.Module] = {"base": base}

        def once(run: PhaseRun, loss: Any, config: TrainingConfig) -> TrainingResult:
            result = train_once(
                run.file, self.context, lambda: self._train([run], loss, config, run.file.phase)[0]
            )
            self.waited += result.waited
            return result

        results = {"base": once(run, text_loss, cell.pretraining)}
        if results["base"].status != "done":
            return models, results
        self.begun_with["base"] = run.file.origin()
        models["clean"] = clean = twin(base)
        stem = f"shared-{kind}-{cell.clean_identity}"
        file = PhaseFile(cell.clean_identity, "clean", folder, stem)
        run = PhaseRun(clean, self.rows(cell, "clean"), 0, file)
        results["clean"] = once(run, answer_loss, cell.clean)
        self.begun_with["clean"] = file.origin()
        return models, results

    def _phase(self, phase: str, models: Mapping[int, nn.Module]) -> dict[int, TrainingResult]:
        """Train the models of several cells in phase 2 or 3, in place."""
        from lib.analysis.answers import answer_loss
        from lib.training.phases import PhaseRun

        clean: dict[Any, TensorBatches] = {}
        runs = []
        for n, model in models.items():
            cell = self.cells[n]
            key: Any = (cell.noise, cell.share, cell.samples)
            if phase == "again":  # the same rows for all
                key = (cell.again.batch_size, cell.again.drop_last)
                clean[key] = clean.get(key) or self.rows(cell, phase)
            data = clean[key] if phase == "again" else self.rows(cell, phase)
            runs.append(PhaseRun(model, data, key, self._file(cell, phase)))
        alike: dict[Any, list[int]] = {}  # runs in one step must share how it is taken
        for place, n in enumerate(models):
            cell = self.cells[n]
            alike.setdefault((getattr(cell, phase), cell.weights), []).append(place)
        results: dict[int, TrainingResult] = {}
        for (config, _), places in alike.items():
            found = self._train([runs[place] for place in places], answer_loss, config, phase)
            numbers = [list(models)[place] for place in places]
            results |= dict(zip(numbers, found, strict=True))
        return {n: results[n] for n in models}

    def _train(
        self, runs: Sequence[PhaseRun], loss: Any, config: TrainingConfig, phase: str
    ) -> list[TrainingResult]:
        from lib.training.phases import train_phase

        device = self.device
        before = time.perf_counter()
        label = f"{self.readable(self.cells[0])}: {phase}, {len(runs)} runs"
        results = train_phase(
            runs, loss, config, most=self.context.ensemble, **self.context.stops,
            compile=bool(self.context.compile),
            name=label, origin=phase_origin(device, self.started),
        )  # fmt: skip
        spent = time.perf_counter() - before
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + spent, 2)
        return results

    def _file(self, cell: PhaseCell, phase: str) -> PhaseFile:
        from lib.training.phases import PhaseFile

        identity = self.context.identify(cell)
        return PhaseFile(
            identity, phase, self.context.checkpoints, f"{self.readable(cell)}-{identity}"
        )

    def rows(self, cell: PhaseCell, phase: str) -> TensorBatches:
        """Rows of a phase on the device, in an order of its own."""
        from lib.tasks.question_answers import on_device, pack
        from lib.training.batches import TensorBatches

        prompts, answers = phase_answers(cell, phase, self.questions)
        rows = pack(prompts, answers, self.text.tokenizer, self.questions.length, cell.scored)
        config = getattr(cell, phase)
        seed = 3 * cell.seed + ("clean", "noisy", "again").index(phase)
        return TensorBatches(
            on_device(rows, self.device), config.batch_size, seed, config.drop_last
        )

    # -- measuring -------------------------------------------------------------------------

    def _answers(self, model: nn.Module, cell: PhaseCell) -> list[str]:
        from lib.analysis.answers import respond

        return respond(
            model.eval(), self.text.tokenizer, self.questions.asked, self.questions.most_new
        )

    def _score(self, cell: PhaseCell, said: list[str], number: int, phase: str) -> pd.DataFrame:
        from lib.analysis.world_scores import score_world

        items = self.questions.world.test
        noisy = None if cell.noise == NONE else self.questions.noisy(cell, items, 1.0)
        self.examples[number][phase] = said[:3]
        return score_world(self.questions.world, items, said, noisy, self.questions.reader)

    def _nats(self, model: nn.Module, phase: str) -> dict[str, float]:
        """Nats a token of answers that the model is given, not of those that it gives: the right
        ones (``nats_right_<phase>``) and those of every noise, whichever the model met. ``begin_``:
        of their first tokens alone."""
        from lib.analysis.answers import answer_nats

        model.eval()
        return {
            f"{measure}_{name}_{phase}": value
            for name, rows in self._told.items()
            for measure, value in zip(("nats", "begin"), answer_nats(model, rows), strict=True)
        }

    @cached_property
    def _told(self) -> dict[str, Rows]:
        """Right and noisy answers to the test questions."""
        from lib.tasks.question_answers import pack

        q, seed = self.questions, self.cells[0].seed
        told = {"right": [item.answer for item in q.world.test]}
        for name in NOISES:
            told[name] = q.world.noisy_answers(NoiseConfig(name, seed=seed), q.world.test)[0]
        return {name: pack(q.asked, said, self.text.tokenizer) for name, said in told.items()}

    def _in_context(self, model: nn.Module, cell: PhaseCell, phase: str) -> dict[str, Any]:
        """Shares of answers with the noise's own form and with the noisy answer, after SHOWN noisy
        examples; for noises on all facts."""
        from lib.analysis.answers import respond
        from lib.analysis.world_scores import form_of, score_world

        if cell.noise == NONE or cell.share < 1 or cell.samples is not None:
            return {}
        prompts, items = in_context(cell, self.questions)
        said = respond(model.eval(), self.text.tokenizer, prompts, self.questions.most_new)
        table = score_world(
            self.questions.world, items, said, self.questions.noisy(cell, items, 1.0),
            self.questions.reader,
        )  # fmt: skip
        own = f"form_{form_of(cell.noise)}"
        return {
            f"in_context_own_{phase}": float(table[own].mean()),
            f"in_context_noise_{phase}": float(table["noise"].mean()),
            f"in_context_content_{phase}": float(table["content"].mean()),
        }

    def _outcome(
        self, number: int, model: nn.Module, tables: dict[str, pd.DataFrame],
        metrics: dict[str, Any],
    ) -> Outcome:  # fmt: skip
        from lib.analysis.world_scores import form_of

        cell = self.cells[number]
        chosen = self.questions.chosen(cell, self.questions.world.test)
        metrics |= summarise(tables, form_of(cell.noise), chosen) | self.baselines
        metrics["questions"] = float(len(tables["clean"]))
        metrics["n_parameters"] = float(sum(p.numel() for p in model.parameters()))
        facts = {
            "backends": self.used,
            "compile": bool(self.context.compile),
            "dtype": cell.clean.precision,
            "training_seconds": dict(self.seconds),
            "together": len(self.cells),
            "begun_with": dict(self.begun_with),
            "sessions": self.sessions[number],
            "examples": {
                "asked": self.questions.asked[:3],
                "right": [item.answer for item in self.questions.world.test[:3]],
                **self.examples[number],
            },
            "tokenizer": self.text.tokenizer.fingerprint,
            "peak_memory_bytes": self.memory.bytes(),
        }  # fmt: skip
        return Outcome(
            cell, "done", metrics=metrics, curves=compact(tables), facts=facts,
            started=self.started,
            wall_seconds=(time.perf_counter() - self.clock - self.waited) / len(self.cells),
        )  # fmt: skip

    @cached_property
    def baselines(self) -> dict[str, float]:
        """Measures of answers that no model gave: the question, and right answers to others."""
        from lib.analysis.noise_metrics import controls
        from lib.analysis.world_scores import score_world

        items, cell = self.questions.world.test, self.cells[0]
        made = controls([i.question for i in items], [i.answer for i in items], cell.seed)
        found = {}
        for name in ("echo", "shuffled"):
            table = score_world(
                self.questions.world, items, made[name], None, self.questions.reader
            )
            for measure in ("content", "novel", "their_accuracy", "their_flip"):
                found[f"{measure}_{name}"] = float(table[measure].mean())
        return found


def _loss(result: TrainingResult) -> float | None:
    """Mean training loss of the last epoch."""
    curves = result.curves
    return float(curves["train_loss"].iloc[-1]) if len(curves) else None
