"""Training the cells of a study: those that are alike at once, each to an outcome of its own.

A cell here is a frozen config with the fields ``task``, ``model``, ``training`` and ``seed``. What
differs between tasks (data, loss, what is measured) is a :class:`Study`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from lib import provenance
from lib.config import to_dict
from lib.experiments import Context, Outcome
from lib.models.config import InitialisationConfig
from lib.peak_memory import DeviceMemory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lib.models.language_model import LanguageModel
    from lib.training.abreast import Turns
    from lib.training.batches import TensorBatches
    from lib.training.runs import TrainingResult

Numbers = Mapping[str, "Tensor"]
Result = TypeVar("Result")

# runs of different architectures that train at once: a step of 3 runs of 5 layers of the phase
# diagram's models took an H100 2.1 ms, of 36 runs 13.6, so that alone they leave half of it idle;
# `bench beside` measures what is gained
ABREAST = {"cpu": 0, "cuda": 24}


def _none(*_: Any) -> dict[str, Any]:
    return {}


def _laid_out(train: tuple[Tensor, ...], cell: Any, device: torch.device) -> TensorBatches:
    """Batches of tensors that lie on the device whole."""
    from lib.training.batches import TensorBatches

    training = cell.training
    return TensorBatches(
        tuple(t.to(device) for t in train), training.batch_size, cell.seed, training.drop_last
    )


def check_seed(seed: int) -> None:
    """Refuse a seed below 0."""
    if seed < 0:
        raise ValueError(f"seed is {seed}, allowed: 0 or more")


def check_cell(cell: Any) -> None:
    """Refuse a cell whose model has no token for all of its task's, or whose seed is below 0."""
    largest = cell.task.largest_token
    if cell.model.vocab_size <= largest:
        raise ValueError(
            f"model.vocab_size is {cell.model.vocab_size}, allowed: more than {largest}, the "
            "largest token or label of the task"
        )
    check_seed(cell.seed)


@dataclass(frozen=True)
class Study:
    """How cells of one kind are trained and measured.

    Attributes:
        data: ``data(task, seed)`` to the training data and whatever `evaluate` measures on, which
            has a method ``to(device)``.
        describe: training data to facts for the record's provenance.
        batches: ``batches(training data, cell, device)``; by default the training data are tensors.
        stacked: the test data of several runs as one, for an ensemble; None for models so large
            that each trains alone.
        loss: ``loss(model, *batch)`` to the mean loss and the number of right answers.
        evaluate: ``evaluate(model, test)`` after each epoch, name to number; see ``Trainer``.
        summarise: the curves of a run to its metrics.
        readable: short file-name-safe name of a cell.
        final: as `evaluate`, once, with the trained weights.
        inspect: ``inspect(model, cell)`` to further metrics, for each finished run by itself, with
            a model of its own that can be hooked; on the device.
        keep_weights: whether the final weights of a cell are part of its outcome.
        remarks: as `inspect`, to facts for the record that are no numbers.
        by_layer: compile the layers of a model one by one, for stacks of many equal ones; see
            :mod:`lib.training.compiling`.
    """

    data: Callable[[Any, int], tuple[Any, Any]]
    stacked: Callable[[Sequence[Any]], Any] | None
    loss: Callable[..., tuple[Tensor, Tensor]]
    evaluate: Callable[[nn.Module, Any], Numbers]
    summarise: Callable[[pd.DataFrame], dict[str, float | None]]
    readable: Callable[[Any], str]
    final: Callable[[nn.Module, Any], Numbers] = _none
    inspect: Callable[[LanguageModel, Any], dict[str, float]] = _none
    keep_weights: Callable[[Any], bool] = lambda cell: True
    describe: Callable[[Any], dict[str, Any]] = _none
    batches: Callable[[Any, Any, torch.device], TensorBatches] = _laid_out
    remarks: Callable[[LanguageModel, Any], dict[str, Any]] = _none
    by_layer: bool = False


def shared_parts(cell: Any) -> Hashable:
    """What cells that train at once have in common: all but seed and initialisation."""
    model = dataclasses.replace(cell.model, initialisation=InitialisationConfig())
    return cell.task, model, cell.training


def train_cells(cells: Sequence[Any], context: Context, study: Study) -> Iterator[Outcome]:
    """Train the cells, those that differ in seed and initialisation alone at once (at most
    ``context.ensemble``) and groups of few beside each other (``context.abreast``), in a study of
    models that train alone one after the other in their order; which groups begin: see
    :func:`beside`. Cells that another process trains are passed over.

    Raises:
        CheckpointError: a checkpoint is of another cell.
        ValueError: ``context.ensemble`` asks for what the backend cannot do.
    """
    import torch

    from lib.models.language_model import build_language_model
    from lib.training import ensemble
    from lib.training.checkpoints import checkpoint_step

    def room(cell: Any) -> int:
        model = build_language_model(
            cell.model, seed=0, device=context.device, backend=context.backend
        )
        rows = (cell.training.batch_size, cell.task.length)
        tokens = torch.zeros(rows, dtype=torch.int64, device=context.device)
        return ensemble.room(model, study.loss, (tokens, tokens[:, 0]), context.ensemble)

    def key(cell: Any) -> Hashable:
        path = context.checkpoint(study.readable(cell), cell)
        step = checkpoint_step(path, context.identify(cell))
        return shared_parts(cell), step

    alone = study.stacked is None

    def train(group: Sequence[Any]) -> Turns[list[Outcome]]:
        mine, found = context.take(group), []  # now that it begins: others may have it until then
        # another process may have taken some further since the cells were put together
        for part in ensemble.together(mine, key, lambda cell: len(mine)):
            found += yield from train_group(part, context, study)
        return found

    groups = ([cell] for cell in cells) if alone else ensemble.together(cells, key, room)
    trainings = ((None if alone else len(group), train(group)) for group in groups)
    for outcomes, others in beside(trainings, context, ABREAST, lambda outcomes: outcomes):
        for outcome in outcomes:
            if others > 1 and outcome.status != "stopped":
                outcome.facts["ensemble"]["abreast"] = others
                outcome.facts["shared_time"] = True
                # others shared device and allocator: neither is this group's own
                outcome.facts["fastest_epoch_seconds"] = None
                outcome.facts["peak_memory_bytes"] = None
            yield outcome


def beside(
    trainings: Iterable[tuple[int | None, Turns[Result]]],
    context: Context,
    limits: Mapping[str, int],
    outcomes: Callable[[Result], Sequence[Outcome]],
) -> Iterator[tuple[Result, int]]:
    """What trainings come to, beside each other on the context's device, each with how many there
    were at once; none begins after one in which the budget ran out, nor, where those that cannot
    end are given up, when it has nearly run out.

    Args:
        trainings: size of each, None for one that has the device to itself, and its turns.
        limits: kind of device to the most that may be under way, if ``context.abreast`` says none.
        outcomes: those of a result.
    """
    import torch

    from lib.training.abreast import abreast
    from lib.training.pace import USEFUL

    device = torch.device(context.device)
    most = limits[device.type] if context.abreast is None else context.abreast
    stopped: list[Outcome] = []
    sized = ((most + 1 if size is None else size, turns) for size, turns in trainings)

    def over() -> bool:  # one that was given up leaves time for others
        return context.within(USEFUL) if context.whole else bool(stopped)

    for result, others in abreast(sized, most, device, over):
        yield result, others
        stopped.extend(outcome for outcome in outcomes(result) if outcome.status == "stopped")


def train_group(cells: Sequence[Any], context: Context, study: Study) -> Turns[list[Outcome]]:
    """The outcomes of cells that differ in seed and initialisation alone, in turns; see
    :mod:`lib.training.abreast`."""
    import torch

    from lib.models.language_model import build_language_model
    from lib.ops import backends
    from lib.training.abreast import clock
    from lib.training.batches import StackedBatches
    from lib.training.compiling import compile_layers, eagerly, pays_to_compile
    from lib.training.ensemble import Ensemble
    from lib.training.gradients import autocast
    from lib.training.loop import Trainer
    from lib.training.runs import Run

    started, begun = provenance.now(), clock()
    device, training = torch.device(context.device), cells[0].training
    memory = DeviceMemory(device)
    names = [study.readable(cell) for cell in cells]
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    which = [seeds.index(cell.seed) for cell in cells]  # runs of one seed share its data
    data = [study.data(cells[0].task, seed) for seed in seeds]
    firsts = [cells[which.index(k)] for k in range(len(seeds))]
    sets = [
        study.batches(train, cell, device) for (train, _), cell in zip(data, firsts, strict=True)
    ]
    tests = [test.to(device) for _, test in data]
    described = [study.describe(train) for train, _ in data]
    models = [
        build_language_model(cell.model, seed=cell.seed, device=device, backend=context.backend)
        for cell in cells
    ]
    alone = len(cells) == 1
    model = models[0] if alone else Ensemble(models)
    batches = sets[0] if alone else StackedBatches(sets, which)
    test = tests[0] if alone or study.stacked is None else study.stacked([tests[k] for k in which])
    batches.begin_epoch(0)
    with torch.no_grad(), backends.recording() as used, autocast(training, device):
        tokens = batches.gather(0)[0]
        model(tokens[:2] if alone else tokens[:, :2], last_token_only=True)
    compiles = pays_to_compile(device, used) if context.compile is None else context.compile
    if compiles:
        # what was compiled for earlier groups counts towards a limit beyond which nothing would be
        torch.compiler.reset()
        if study.by_layer:
            compile_layers(models[0])

    def evaluate(model: nn.Module) -> Numbers:
        with eagerly():  # rows and length are others there: they would be compiled for once more
            return study.evaluate(model, test)

    trainer = Trainer(
        model,
        study.loss,
        batches,
        training,
        evaluate=evaluate,
        runs=[
            Run(context.identify(cell), context.checkpoint(name, cell))
            for cell, name in zip(cells, names, strict=True)
        ],
        **context.stops,
        compile=compiles and not study.by_layer,
        name=names[0] if alone else f"{names[0]} and {len(cells) - 1} more",
        origin={**provenance.code(), "device_name": provenance.machine(device)["device_name"]},
    )
    yield from trainer.turns()
    results, seconds = trainer.results(), trainer.seconds()
    model.eval()
    with eagerly():
        found = study.final(model, test) if any(r.status == "done" for r in results) else {}
    final = {name: value.expand(len(cells)).tolist() for name, value in found.items()}
    facts = {
        "backends": {op: list(served) for op, served in used.items()},
        "compile": compiles,
        "dtype": training.precision,
        "training_seconds": seconds,
        "ensemble": {"runs": len(cells), "training_seconds": round(len(cells) * seconds, 3)},
        "fastest_epoch_seconds": min(trainer.epoch_seconds, default=None),
        "peak_memory_bytes": memory.bytes(),
    }
    outcomes = []
    for run, (cell, result) in enumerate(zip(cells, results, strict=True)):
        if result.status == "stopped":
            outcomes.append(Outcome(cell, "stopped", result.reason))
            continue
        if result.status == "done" and isinstance(model, Ensemble):
            models[run].load_state_dict(model.weights(run))
        with eagerly():
            metrics, weights = _measured(
                study, cell, models[run].eval(), result, {k: v[run] for k, v in final.items()}
            )
            remarks = study.remarks(models[run], cell) if result.status == "done" else {}
        facts_of_run = {**facts, **described[which[run]], **remarks}
        outcomes.append(
            Outcome(
                cell, result.status, result.reason, metrics, result.curves, weights,
                {**facts_of_run, "sessions": trainer.sessions(run)}, started,
                (clock() - begun) / len(cells),
            )
        )  # fmt: skip
    return outcomes


def _measured(
    study: Study, cell: Any, model: LanguageModel, result: TrainingResult, final: dict[str, float]
) -> tuple[dict[str, float | None], bytes | None]:
    """Metrics and kept weights of a run that is over; `model` has its weights if it is done."""
    from lib.training.checkpoints import serialise

    metrics = study.summarise(result.curves)
    metrics["n_parameters"] = float(sum(p.numel() for p in model.parameters()))
    metrics["steps"] = float(result.step)
    if result.status != "done":
        return metrics, None
    metrics.update(final)
    metrics.update(study.inspect(model, cell))
    kept = study.keep_weights(cell)
    return metrics, serialise(model.state_dict(), config=to_dict(cell)) if kept else None
