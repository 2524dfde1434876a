"""A whole training step as our training loop takes it: ours against the peer's kernels in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lib.analysis.composite import last_token_loss
from lib.bench.compare import compare
from lib.bench.config import BesideBench, StepBench, SweepBench
from lib.bench.measure import Contestant
from lib.bench.works import step_work
from lib.experiments import Outcome
from lib.models.config import Mamba2Config
from lib.models.language_model import build_language_model
from lib.ops import backends
from lib.ops.block import OP as BLOCK
from lib.ops.scan import OP as SCAN
from lib.training.batches import StackedBatches, TensorBatches
from lib.training.config import TrainingConfig
from lib.training.ensemble import Ensemble
from lib.training.loop import Trainer

EPOCH = 64  # batches that lie on the device; a timing covers at most one epoch
DATA_SETS = 3
CHECKED = 4  # steps after which losses are compared
# of losses and gradients; on a processor rounding makes up to 3e-5 (D of a layer of one head)
TOLERANCE = 1e-3


def run(bench: StepBench) -> Outcome:
    """Time the training step by each backend."""
    torch._dynamo.reset()  # shapes of earlier benchmarks count towards its limit of versions
    on_gpu = bench.device == "cuda"
    # backend and whether the loss goes through torch.compile
    if isinstance(bench.model.pattern[0], Mamba2Config):
        op, ways = BLOCK, {"fused": ("fused", on_gpu), "compiled": ("quadratic", True)}
        if not on_gpu:
            ways = {"eager": ("quadratic", False)}
    else:
        op, ways = SCAN, {"fused": ("fused", on_gpu), "mamba_ssm": ("mamba_ssm", False)}
        if not on_gpu:
            ways = {"chunked": ("chunked", False)}
    builders = {
        name: _builder(bench, name, op, backend, compile)
        for name, (backend, compile) in ways.items()
    }
    # the trainer captures its own graph
    return compare(
        bench, builders, ours=next(iter(ways)), tolerance=TOLERANCE, op=op, capture=False,
        work=bench.runs * step_work(bench.model, bench.batch, bench.length),
    )  # fmt: skip


def _builder(
    bench: StepBench, name: str, op: str, backend: str, compile: bool
) -> Callable[[], Contestant]:
    def build() -> Contestant:
        if backend in backends.backends(op):
            backends.require(op, backend, torch.device(bench.device))
        return contestant(bench, name, backend, compile)

    return build


def contestant(bench: StepBench, name: str, backend: str, compile: bool) -> Contestant:
    """The training step through one backend, ready to be timed.

    It is checked by each tensor's gradient in the step that is timed, from the first weights on,
    and by the losses of CHECKED steps together. Gradients are those after clipping, which the
    optimiser gets: a factor that all of a run's have in common shows only where none is clipped.
    """
    return of_trainer(trainer_of(bench, backend, compile), name, compile)


def of_trainer(trainer: Trainer, name: str, compile: bool) -> Contestant:
    """:func:`contestant` for a trainer whose epochs have EPOCH steps; `compile` is for its note."""
    start = {key: value.clone() for key, value in trainer.state().items()}
    trainer.model.train()
    trainer.batches.begin_epoch(0)
    if trainer.cuda:
        trainer._capture()
    graph = None if trainer.graphs is None else trainer.graphs.step
    counters = trainer.counters

    def step() -> None:
        if graph is not None:
            graph.replay()
        else:
            trainer._advance(int(counters["position"]))

    def first_batch() -> None:
        for counter in ("position", "global_step"):
            counters[counter].zero_()

    def outputs() -> Sequence[Tensor]:
        trainer.load_state(start)
        step()
        # a graph's replay writes them where its capture left them
        gradients = [p.grad.clone() for p in trainer.parameters if p.grad is not None]
        for _ in range(CHECKED - 1):
            step()
        return (counters["loss_sum"].clone(), *gradients)

    outputs()
    notes = ["CUDA graph" if graph is not None else "", "torch.compile" if compile else ""]
    note = "; ".join(filter(None, notes))
    return Contestant(name, (step,), outputs, reset=first_batch, note=note, most_laps=EPOCH)


def steps_of(bench: SweepBench | BesideBench) -> list[StepBench]:
    """The training step of each of a benchmark's models."""
    return [
        StepBench(
            model, bench.batch, bench.length, bench.runs, bench.device, bench.repeats, bench.seed
        )
        for model in bench.models
    ]


def trainer_of(
    bench: StepBench, backend: str, compile: bool, epochs: int = 2, steps: int = EPOCH
) -> Trainer:
    """The trainer of the benchmark's runs on random sequences, the same for every backend, for so
    many epochs of so many steps.

    Several runs are one ensemble: each has its own weights, and they share three sets of data, as
    the seeds of the phase diagram do.
    """
    device = torch.device(bench.device)
    models = [
        build_language_model(bench.model, seed=bench.seed + run, device=device, backend=backend)
        for run in range(bench.runs)
    ]
    model: nn.Module
    batches: TensorBatches
    if bench.runs == 1:
        model, batches = models[0], _data(bench, 0, steps, device)
    else:
        sets = [_data(bench, index, steps, device) for index in range(min(bench.runs, DATA_SETS))]
        model = Ensemble(models)
        batches = StackedBatches(sets, [run % len(sets) for run in range(bench.runs)])
    training = TrainingConfig(epochs=epochs, warmup_epochs=1, batch_size=bench.batch)
    return Trainer(model, last_token_loss, batches, training, compile=compile, name="bench")


def _data(bench: StepBench, index: int, steps: int, device: torch.device) -> TensorBatches:
    generator = torch.Generator().manual_seed(1000 * bench.seed + index)
    rows, top = steps * bench.batch, bench.model.vocab_size
    tokens = torch.randint(top, (rows, bench.length), generator=generator).to(device)
    labels = torch.randint(top, (rows,), generator=generator).to(device)
    return TensorBatches((tokens, labels), bench.batch, seed=index)
