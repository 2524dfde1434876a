"""Ensembles inside CUDA graphs; without a GPU these tests are skipped (see QUARANTINE.md)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.analysis.answers import answer_loss, respond
from lib.bench.config import StepBench
from lib.bench.step import trainer_of
from lib.experiments import Context, Outcome
from lib.experiments.achilles import (
    CompositeCell,
    mamba2_model,
    run_composite,
    third_party_model,
)
from lib.models.config import InitialisationConfig, LanguageModelConfig, Mamba2Config
from lib.models.language_model import build_language_model
from lib.models.presets import preset
from lib.tasks.composite import CompositeTask
from lib.tasks.question_answers import on_device, pack
from lib.tasks.tokenizers import ByteTokenizer
from lib.training.batches import StackedBatches, TensorBatches
from lib.training.checkpoints import load_checkpoint
from lib.training.config import TrainingConfig
from lib.training.ensemble import Ensemble
from lib.training.loop import AHEAD, Trainer
from lib.training.phases import PhaseFile, PhaseRun, to_precision, train_phase
from lib.training.runs import Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def cells(model: LanguageModelConfig, drop_last: bool = True) -> list[CompositeCell]:
    """Four runs over two seeds, 50 or 55 steps."""
    task = CompositeTask(train_per_pair=180, test_per_pair=50)
    training = TrainingConfig(
        epochs=5, warmup_epochs=1, batch_size=256, lr_peak=2e-3, drop_last=drop_last
    )
    starts = [
        dataclasses.replace(model.initialisation, gamma=gamma) for gamma in (0.5, 0.7, 1.0, 1.5)
    ]
    return [
        CompositeCell(task, dataclasses.replace(model, initialisation=start), training, 1 + k % 2)
        for k, start in enumerate(starts)
    ]


MODELS = {
    "mamba2": mamba2_model(2, 1.0),
    "mamba2 tied": mamba2_model(2, 1.0, tied=True),
    "mamba1 tied": dataclasses.replace(third_party_model(2, 1.0), vocab_size=201),
    # a kernel that the fused block takes, and a bypass that it refuses
    "kernels": dataclasses.replace(
        mamba2_model(2, 1.0),
        pattern=(Mamba2Config(32, conv_kind="palindromic"), Mamba2Config(32, conv_bypass="gated")),
    ),
}


def losses(outcome: Outcome) -> list[float]:
    assert outcome.status == "done" and outcome.curves is not None
    return outcome.curves["train_loss"].tolist()


def follows(found: Outcome, expected: Outcome) -> None:
    assert found.cell == expected.cell
    assert losses(found) == pytest.approx(losses(expected), rel=2e-3)
    assert found.curves is not None and expected.curves is not None
    for name in ("composite", "symmetric", "seen"):
        # answers to 50 sequences of the held-out pair, 750 of the others
        allowed = 2 / 50 if name != "seen" else 6 / 750
        assert found.curves[name].tolist() == pytest.approx(
            expected.curves[name].tolist(), abs=allowed + 1e-9
        )


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", list(MODELS))
def test_runs_of_an_ensemble_follow_the_runs_alone(name: str, compile: bool) -> None:
    todo = cells(MODELS[name])
    if compile:  # through PyTorch's own ops, which are what there is to compile
        context = Context("cuda", "quadratic" if name != "mamba1 tied" else "chunked", compile)
    else:
        context = Context("cuda")
    together = list(run_composite(todo, dataclasses.replace(context, ensemble=len(todo))))
    assert [outcome.facts["ensemble"]["runs"] for outcome in together] == [4] * 4
    for cell, outcome in zip(todo, together, strict=True):
        (alone,) = run_composite([cell], dataclasses.replace(context, compile=False))
        follows(outcome, alone)
        assert outcome.metrics["steps"] == 50
        assert outcome.facts["peak_memory_bytes"] > 0


@pytest.mark.parametrize("drop_last", [True, False])
def test_groups_beside_each_other_are_the_groups_by_themselves(drop_last: bool) -> None:
    """Graphs of several groups in flight at once, on streams of their own: bit for bit the curves
    that each has alone, so none writes into another's memory."""
    names = ("mamba2", "mamba2 tied", "mamba1 tied", "kernels")
    todo = [cell for name in names for cell in cells(MODELS[name], drop_last)]
    context = Context("cuda", "auto", False)
    alone = {o.cell: o for o in run_composite(todo, dataclasses.replace(context, abreast=0))}
    assert all(o.facts["peak_memory_bytes"] > 0 for o in alone.values())
    for _ in range(2):
        beside = list(run_composite(todo, dataclasses.replace(context, abreast=16)))
        assert len(beside) == 16
        assert max(o.facts["ensemble"]["abreast"] for o in beside) == 4
        for outcome in beside:
            assert losses(outcome) == losses(alone[outcome.cell])
            if outcome.facts["ensemble"].get("abreast", 1) > 1:
                assert outcome.facts["peak_memory_bytes"] is None  # it would be that of all


@pytest.mark.parametrize("name", ["mamba2 tied", "mamba1 tied", "wide"])
def test_two_trainings_are_bit_for_bit_the_same(name: str) -> None:
    """Compiled ones too, gradients of embeddings and of tables of projections among them."""
    todo = cells(MODELS[name] if name != "wide" else dataclasses.replace(
        mamba2_model(2, 1.0), pattern=(Mamba2Config(64),), positional_encoding="learned",
        max_length=8, vocab_size=120,
    ))  # fmt: skip
    todo = [dataclasses.replace(
        cell, training=dataclasses.replace(cell.training, batch_size=512, epochs=8)
    ) for cell in todo]  # fmt: skip
    found = [list(run_composite(todo, Context("cuda", compile=True, ensemble=4))) for _ in "ab"]
    for one, other in zip(*found, strict=True):
        assert losses(one) == losses(other) and len(losses(one)) == 8
        assert one.curves is not None and one.curves.equals(other.curves)


def test_a_turn_is_a_step_and_says_what_must_come_before_the_next() -> None:
    bench = StepBench(mamba2_model(2, 1.0), 256, 8, runs=3)
    trainer = trainer_of(bench, "fused", False, epochs=2, steps=6)
    turns = trainer.turns()
    found = [next(turns) for _ in range(5)]
    assert found[:AHEAD] == [None] * AHEAD
    assert all(isinstance(awaited, torch.cuda.Event) for awaited in found[AHEAD:])
    # the sixth step ends the epoch: what was measured must be there before the next turn
    measured = next(turns)
    assert isinstance(measured, torch.cuda.Event) and not trainer.rows[0]
    next(turns)
    assert measured.query() and len(trainer.rows[0]) == 1 and trainer.step == 6
    assert not [awaited for awaited in turns if awaited is measured]
    assert len(trainer.rows[2]) == 2 and trainer.step == trainer.total


@pytest.mark.parametrize("count", [1, 2])
def test_a_checkpoint_holds_what_was_queued_on_its_own_stream(tmp_path: Path, count: int) -> None:
    """Which other streams do not wait for."""
    models: list[nn.Module] = [nn.Linear(256, 8, device="cuda") for _ in range(count)]
    rows = torch.zeros(8, 256, device="cuda")
    one = TensorBatches((rows, torch.zeros(8, dtype=torch.int64, device="cuda")), 8, 0)
    runs = [Run(str(k), tmp_path / f"{k}.safetensors") for k in range(count)]
    model = models[0] if count == 1 else Ensemble(models)
    batches = one if count == 1 else StackedBatches([one], [0] * count)
    trainer = Trainer(model, answer_loss, batches, TrainingConfig(batch_size=8), runs=runs)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        torch.cuda._sleep(2**31)  # about a second of the device's clock
        for parameter in model.parameters():
            parameter.fill_(7.0)
        trainer.save()
    for run in runs:
        assert run.checkpoint is not None
        assert load_checkpoint(run.checkpoint)[0]["model.weight"].eq(7.0).all()


@pytest.mark.parametrize(("name", "compile"), [("mamba2 tied", False), ("mamba1 tied", True)])
def test_they_follow_the_processor_with_a_smaller_last_batch(name: str, compile: bool) -> None:
    """Of which the step is captured too, as it was written where other steps are compiled."""
    todo = cells(MODELS[name], drop_last=False)
    together = list(run_composite(todo, Context("cuda", compile=compile, ensemble=4)))
    for outcome, expected in zip(together, run_composite(todo, Context("cpu")), strict=True):
        assert outcome.metrics["steps"] == 55
        follows(outcome, expected)


def test_the_device_says_how_many_fit() -> None:
    todo = cells(MODELS["mamba2"])
    together = list(run_composite(todo, Context("cuda")))
    assert [outcome.facts["ensemble"]["runs"] for outcome in together] == [4] * 4


def test_a_stopped_ensemble_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    todo = cells(MODELS["mamba2 tied"])
    whole = list(run_composite(todo, Context("cuda", ensemble=4)))
    context = Context("cuda", checkpoints=tmp_path, ensemble=4, identify=lambda c: str(hash(c)))
    stopped = list(run_composite(todo, dataclasses.replace(context, deadline=0.0)))
    assert [outcome.status for outcome in stopped] == ["stopped"] * 4
    assert len(list(tmp_path.iterdir())) == 4
    for outcome, expected in zip(run_composite(todo, context), whole, strict=True):
        assert losses(outcome) == pytest.approx(losses(expected), rel=1e-4)


@pytest.mark.parametrize(
    "left", [1, 2, 3, 12, 13]
)  # of 30 steps, or 33: in an epoch, not at its end
@pytest.mark.parametrize("drop_last", [True, False])
def test_it_goes_on_before_the_last_steps_too(left: int, drop_last: bool, tmp_path: Path) -> None:
    """Of all, and of an epoch: the warm-up of its graphs reads no batch past them."""
    rows = torch.randn(82, 4, generator=torch.Generator().manual_seed(0)).cuda()
    config = TrainingConfig(epochs=3, warmup_epochs=1, batch_size=8, drop_last=drop_last)

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x)
        return F.cross_entropy(logits, y), (logits.argmax(-1) == y).sum()

    def trainer(checkpoint: Path | None = None) -> Trainer:
        torch.manual_seed(0)
        batches = TensorBatches((rows, rows.argmax(1)), 8, 5, drop_last)
        model = nn.Linear(4, 4).cuda()
        return Trainer(model, loss, batches, config, runs=[Run("r", checkpoint)])

    whole = trainer()
    whole.train()
    kept = trainer(tmp_path / "r.safetensors")
    turns = kept.turns()
    while kept.step < kept.total - left:
        next(turns)
    kept.save()
    again = trainer(tmp_path / "r.safetensors")
    again.train()
    assert again.first_step == again.total - left
    for name, value in whole.state().items():
        assert torch.equal(again.state()[name], value)


def test_a_failed_run_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from lib.models import language_model

    build = language_model.build_language_model
    todo = cells(MODELS["mamba2"])

    def poisoned(config, **options):  # type: ignore[no-untyped-def]
        model = build(config, **options)
        if config.initialisation == InitialisationConfig(gamma=0.7):
            with torch.no_grad():
                model.layers[0].mixer.D.fill_(float("inf"))
        return model

    expected = list(run_composite(todo, Context("cuda", ensemble=4)))
    monkeypatch.setattr(language_model, "build_language_model", poisoned)
    found = list(run_composite(todo, Context("cuda", ensemble=4)))
    assert [outcome.status for outcome in found] == ["done", "failed", "done", "done"]
    assert found[1].reason == "the loss was not finite at step 1 of 50"
    for k in (0, 2, 3):
        follows(found[k], expected[k])


@pytest.mark.parametrize("kind", ["mamba1", "mamba2", "transformer"])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_phases_of_many_runs_follow_each_alone(kind: str, weights: str) -> None:
    """Loss of answers, autocast and weights in half precision inside a CUDA graph; then answers."""
    config = dataclasses.replace(preset(kind, "1M", 300), n_layers=4)
    training = TrainingConfig(
        epochs=4, warmup_epochs=0, warmup_steps=4, batch_size=16, lr_peak=1e-3, precision="bfloat16"
    )
    texts = [[f"{n} {'ab'[k]}{n % 7}?" for n in range(64)] for k in range(2)]

    def runs() -> list[PhaseRun]:
        made = []
        for k, prompts in enumerate(texts):
            rows = pack(prompts, [p[::-1] for p in prompts], ByteTokenizer(), 24)
            batches = TensorBatches(on_device(rows, "cuda"), 16, 1)
            model = build_language_model(config, seed=k, device="cuda")
            file = PhaseFile(f"run{k}", "noisy", None, "x")
            made.append(PhaseRun(to_precision(model, weights), batches, k, file))
        return made

    together, alone = runs(), runs()
    found = train_phase(together, answer_loss, training)
    expected = train_phase(alone, answer_loss, training, most=1)
    for a, b in zip(found, expected, strict=True):
        assert a.status == b.status == "done"
        assert a.curves["train_loss"].iloc[-1] < a.curves["train_loss"].iloc[0]
        assert a.curves["train_loss"].tolist() == pytest.approx(
            b.curves["train_loss"].tolist(), rel=0.05
        )
    said = respond(together[0].model, ByteTokenizer(), texts[0], 8)
    assert len(said) == 64 and all(len(text) <= 8 for text in said)
