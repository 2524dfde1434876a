"""Runs along a leading axis: each must be what it is alone, whatever the others do."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.config import LanguageModelConfig, Mamba1Config, Mamba2Config
from lib.models.language_model import build_language_model
from lib.training import ensemble
from lib.training.batches import StackedBatches, TensorBatches, draw_order, narrow
from lib.training.checkpoints import CheckpointError, load_checkpoint
from lib.training.config import TrainingConfig
from lib.training.ensemble import Ensemble, clip_by_run, losses_of, together
from lib.training.loop import Trainer
from lib.training.runs import Run, TrainingResult

CONFIG = TrainingConfig(epochs=3, warmup_epochs=1, batch_size=8, lr_peak=1e-2)
WHICH = [0, 1, 0]  # runs 0 and 2 read the same data


def make_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def make_data(
    seed: int, rows: int = 50, drop_last: bool = True, bad: bool = False
) -> TensorBatches:
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
    if bad:  # a row that the first epoch leaves out
        x[draw_order(seed, 0, rows)[-1]] = math.inf
    return TensorBatches((x, torch.arange(rows) % 3), 8, seed=seed, drop_last=drop_last)


def loss(model: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(x)
    return F.cross_entropy(logits, y), (logits.argmax(-1) == y).sum()


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def flat_run(model: Ensemble, run: int) -> Tensor:
    return torch.cat([value.flatten() for value in model.weights(run).values()])


def single(run: int, config: TrainingConfig = CONFIG, **data: Any) -> tuple[Trainer, nn.Module]:
    model = make_model(run)
    return Trainer(model, loss, make_data(WHICH[run], **data), config), model


def trainer_of(
    folder: Path | None = None, config: TrainingConfig = CONFIG, bad: int = -1, **options: Any
) -> tuple[Trainer, Ensemble]:
    """Three runs; `bad` is the number of a data set with an infinity in one row."""
    data = {name: options.pop(name) for name in ("rows", "drop_last") if name in options}
    model = Ensemble([make_model(run) for run in range(3)])
    sets = [make_data(seed, bad=seed == bad, **data) for seed in range(2)]
    runs = [Run(f"cell{run}", folder and folder / f"{run}.safetensors") for run in range(3)]
    kind = options.pop("kind", Trainer)
    return kind(model, loss, StackedBatches(sets, WHICH), config, runs=runs, **options), model


def same(found: TrainingResult, expected: TrainingResult, rel: float = 1e-5) -> None:
    assert (found.status, found.reason, found.step) == (
        expected.status, expected.reason, expected.step,
    )  # fmt: skip
    assert list(found.curves) == list(expected.curves)
    for name in expected.curves:
        assert found.curves[name].tolist() == pytest.approx(expected.curves[name].tolist(), rel=rel)


# -- models ----------------------------------------------------------------------------------

LANGUAGE = {
    "mamba1": Mamba1Config(8, d_state=4),
    "mamba2": Mamba2Config(8, d_state=4, headdim=16),
}


def language_config(block: str, tied: bool, layers: int = 2) -> LanguageModelConfig:
    return LanguageModelConfig(20, layers, (LANGUAGE[block],), tie_embeddings=tied)


def test_an_ensemble_is_its_models() -> None:
    config = language_config("mamba2", tied=False)
    models = [build_language_model(config, seed=seed) for seed in range(3)]
    many = Ensemble(models)
    tokens = torch.randint(20, (3, 5, 8), generator=torch.Generator().manual_seed(0))
    found = many(tokens, last_token_only=True)
    for run, model in enumerate(models):
        torch.testing.assert_close(found[run], model(tokens[run], last_token_only=True))
        weights = many.weights(run)
        assert weights.keys() == model.state_dict().keys()
        assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    marked = {n for n, p in models[0].named_parameters() if hasattr(p, "_no_weight_decay")}
    assert marked == {
        n for n, p in many.stacked.named_parameters() if hasattr(p, "_no_weight_decay")
    }
    assert len(marked) == 6


@pytest.mark.parametrize("tied", [False, True])
def test_tied_weights_are_one_parameter_with_both_gradients(tied: bool) -> None:
    config = language_config("mamba2", tied, layers=1)
    models = [build_language_model(config, seed=seed) for seed in range(2)]
    many = Ensemble(models)
    names = [name for name, _ in many.stacked.named_parameters()]
    assert names == [name for name, _ in models[0].named_parameters()]
    assert ("head.weight" in names) is not tied
    tokens = torch.randint(20, (2, 5, 8), generator=torch.Generator().manual_seed(0))
    many(tokens, last_token_only=True).square().mean((1, 2)).sum().backward()
    for run, model in enumerate(models):
        model(tokens[run], last_token_only=True).square().mean().backward()
        for name, parameter in model.named_parameters():
            grad = many.stacked.get_parameter(name).grad
            assert grad is not None and parameter.grad is not None
            torch.testing.assert_close(grad[run], parameter.grad, rtol=1e-4, atol=1e-6)


def test_stacked_runs_do_without_cudnns_attention() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        Ensemble([nn.Linear(2, 2)])
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()  # the others stay
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_models_that_cannot_stack_are_named() -> None:
    with pytest.raises(ValueError, match="models is empty, allowed: at least one"):
        Ensemble([])
    with pytest.raises(ValueError, match=r"differ in weight: \[3, 2\] torch.float32 .* \[4, 2\]"):
        Ensemble([nn.Linear(2, 3), nn.Linear(2, 4)])
    with pytest.raises(ValueError, match=r"differ in bias, which not all have"):
        Ensemble([nn.Linear(2, 3), nn.Linear(2, 3, bias=False)])


# -- data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [True, False])
def test_every_run_reads_the_batches_that_it_has_alone(drop_last: bool) -> None:
    def tokens(seed: int) -> TensorBatches:
        rows = torch.randint(200, (50, 4), generator=torch.Generator().manual_seed(seed))
        return TensorBatches((rows, rows[:, 0]), 8, seed, drop_last)

    many, alone = StackedBatches([tokens(3), tokens(7)], WHICH), [tokens(3), tokens(7)]
    assert (many.steps, many.even) == (alone[0].steps, alone[0].even) and many.shape == (3,)
    assert [tensor.dtype for tensor in many.tensors] == [torch.uint8] * 2
    for epoch in (0, 1, 5, 5, 0):
        for one in (many, *alone):
            one.begin_epoch(epoch)
        for position in (0, torch.tensor(2), many.steps - 1):
            batch = many.gather(position)
            for run, which in enumerate(WHICH):
                expected = alone[which].gather(position)
                assert all(torch.equal(b[run], e) for b, e in zip(batch, expected, strict=True))
                assert batch[0].dtype == torch.int64


def test_orders_drawn_ahead_are_those_of_the_epoch() -> None:
    batches = make_data(5)
    for epoch in (0, 1, 2, 7, 7, 1):
        batches.begin_epoch(epoch)
        generator = torch.Generator().manual_seed(5 * 1_000_003 + epoch)
        assert torch.equal(batches.order, torch.randperm(50, generator=generator))
        assert torch.equal(batches.order, draw_order(5, epoch, 50))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 255], torch.uint8), ([-1, 255], torch.int16), ([0, 40_000], torch.int32),
        ([0, 2**40], torch.int64), ([], torch.int64),
    ],
)  # fmt: skip
def test_integers_are_stored_small(values: list[int], kind: torch.dtype) -> None:
    tensor = torch.tensor(values, dtype=torch.int64)
    assert narrow(tensor).dtype == kind and torch.equal(narrow(tensor).long(), tensor)


def test_data_that_cannot_stack_are_named() -> None:
    with pytest.raises(ValueError, match=r"rows is \[50, 40\] in the runs' data, must be equal"):
        StackedBatches([make_data(0), make_data(1, rows=40)], [0, 1])
    with pytest.raises(ValueError, match=r"drop_last is \[True, False\]"):
        StackedBatches([make_data(0), make_data(1, drop_last=False)], [0, 1])
    for which in ([0, 2], [-1], []):
        with pytest.raises(ValueError, match=r"which is .* allowed: numbers 0..1"):
            StackedBatches([make_data(0), make_data(1)], which)


def test_trainers_name_what_does_not_belong_together() -> None:
    model = Ensemble([make_model(0), make_model(1)])
    two = StackedBatches([make_data(0)], [0, 0])
    with pytest.raises(ValueError, match=r"batches have runs \(\), allowed: \(2,\)"):
        Trainer(model, loss, make_data(0), CONFIG)
    with pytest.raises(ValueError, match=r"batches have runs \(2,\), allowed: \(\)"):
        Trainer(make_model(0), loss, two, CONFIG)
    with pytest.raises(ValueError, match="runs has 1 entries, allowed: 2, one a model"):
        Trainer(model, loss, two, CONFIG, runs=[Run()])


# -- training --------------------------------------------------------------------------------


def test_clipping_is_by_run() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 5), (3, 7), (3,)]
    scales = torch.tensor([10.0, math.nan, 1e-3])  # clipped, lost, left alone
    stacked = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    for parameter in stacked:
        draw = torch.randn(parameter.shape, generator=generator)
        parameter.grad = draw * scales.view(-1, *[1] * (draw.ndim - 1))
    alone: list[list[Tensor]] = []
    for run in (0, 2):
        mine = [torch.zeros(p.shape[1:], requires_grad=True) for p in stacked]
        for parameter, whole in zip(mine, stacked, strict=True):
            assert whole.grad is not None
            parameter.grad = whole.grad[run].clone()
        norm = float(nn.utils.clip_grad_norm_(mine, 1.0))
        assert (norm > 1) is (run == 0)
        alone.append(mine)
    clip_by_run(stacked, 1.0)
    for run, mine in zip((0, 2), alone, strict=True):
        for parameter, whole in zip(mine, stacked, strict=True):
            assert whole.grad is not None and parameter.grad is not None
            torch.testing.assert_close(whole.grad[run], parameter.grad)


@pytest.mark.parametrize("config", [
    CONFIG,
    dataclasses.replace(CONFIG, clip_norm=0.1, lr_by="epoch"),
    dataclasses.replace(CONFIG, clip_norm=None, weight_decay=0.5),
])  # fmt: skip
@pytest.mark.parametrize("drop_last", [True, False])
def test_a_run_of_an_ensemble_is_the_run_alone(config: TrainingConfig, drop_last: bool) -> None:
    trainer, model = trainer_of(config=config, drop_last=drop_last)
    for run, found in enumerate(trainer.train()):
        alone, own = single(run, config, drop_last=drop_last)
        expected = alone.run()
        assert expected.step == (18 if drop_last else 21)
        same(found, expected)
        torch.testing.assert_close(flat_run(model, run), flat(own), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("block", list(LANGUAGE))
def test_fifty_steps_of_language_models(block: str, tied: bool) -> None:
    """Same curve to float32 rounding; the first gradients are clipped."""
    config = dataclasses.replace(CONFIG, epochs=10, clip_norm=0.5, spare_dynamics=True)
    base = language_config(block, tied, layers=1)
    norms: list[float] = []

    def answer(model: Any, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(tokens, last_token_only=True)
        return F.cross_entropy(logits, labels), (logits.argmax(-1) == labels).sum()

    def evaluate(model: nn.Module) -> dict[str, Tensor]:
        tokens = torch.randint(20, (6, 8), generator=torch.Generator().manual_seed(9))
        many = isinstance(model, Ensemble)
        logits = model(tokens.expand(3, 6, 8) if many else tokens)
        return {"mean": logits.detach().square().mean((-1, -2, -3))}

    def model_of(run: int) -> nn.Module:
        gamma = (0.5, 0.8, 1.2)[run]
        start = dataclasses.replace(base.initialisation, gamma=gamma)
        return build_language_model(dataclasses.replace(base, initialisation=start), seed=run)

    def data(seed: int) -> TensorBatches:
        tokens = torch.randint(20, (40, 8), generator=torch.Generator().manual_seed(seed))
        return TensorBatches((tokens, tokens[:, 3]), 8, seed)

    class Watches(Trainer):
        def _advance(self, position: Tensor | int) -> None:
            value, _ = self.loss(*self.batches.gather(position))
            grads = torch.autograd.grad(value, self.parameters)
            norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))
            super()._advance(position)

    batches = StackedBatches([data(0), data(1)], WHICH)
    many = Ensemble([model_of(run) for run in range(3)])
    results = Trainer(many, answer, batches, config, evaluate=evaluate).train()
    for run, found in enumerate(results):
        expected = Watches(model_of(run), answer, data(WHICH[run]), config, evaluate=evaluate).run()
        assert expected.step == 50
        same(found, expected, rel=2e-4)
    assert max(norms) > 0.5
    losses = [result.curves["train_loss"].tolist() for result in results]
    assert losses[0] != losses[1] != losses[2] and losses[0][-1] < losses[0][0]


def test_what_is_measured_comes_for_each_run() -> None:
    seen = []

    def evaluate(model: nn.Module) -> dict[str, Tensor | float]:
        assert isinstance(model, Ensemble)
        seen.append((model.training, model.stacked.training, torch.is_grad_enabled()))
        return {"size": torch.stack([flat_run(model, run).norm() for run in range(3)]), "one": 1.0}

    trainer, model = trainer_of(evaluate=evaluate)
    results = trainer.train()
    assert seen == [(False, False, False)] * 3 and model.training
    for run, result in enumerate(results):
        assert result.curves["size"].iloc[-1] == float(flat_run(model, run).norm())
        assert result.curves["one"].tolist() == [1.0] * 3


def test_a_failed_run_harms_no_other() -> None:
    trainer, model = trainer_of(bad=1)
    results = trainer.train()
    assert [result.status for result in results] == ["done", "failed", "done"]
    for run, found in enumerate(results):
        alone, own = single(run, bad=run == 1)
        same(found, alone.run())
        if run != 1:
            torch.testing.assert_close(flat_run(model, run), flat(own), rtol=1e-4, atol=1e-6)
    assert results[1].reason is not None and "not finite at step" in results[1].reason
    assert results[1].step == 12 and len(results[1].curves) == 1
    assert not torch.isfinite(flat_run(model, 1)).all()


def test_training_ends_when_every_run_has_failed() -> None:
    model = Ensemble([make_model(0), make_model(1)])
    batches = StackedBatches([make_data(0, bad=True)], [0, 0])
    trainer = Trainer(model, loss, batches, CONFIG)
    assert [result.status for result in trainer.train()] == ["failed", "failed"]
    assert trainer.step == 12 < trainer.total


# -- checkpoints -----------------------------------------------------------------------------


class Stops(Trainer):
    """Spends its budget after `after` steps."""

    after = 7

    def _advance(self, position: Tensor | int) -> None:
        super()._advance(position)
        if self.step + 1 == self.after:
            self.limit.deadline = time.monotonic()


@pytest.mark.parametrize("after", [1, 6, 7, 17])
def test_stop_and_resume_of_an_ensemble_is_exact(tmp_path: Path, after: int) -> None:
    whole, expected_model = trainer_of()
    expected = whole.train()
    stops, _ = trainer_of(tmp_path, kind=type("S", (Stops,), {"after": after}))
    assert [(r.status, r.step) for r in stops.train()] == [("stopped", after)] * 3
    assert len(list(tmp_path.iterdir())) == 3
    again, model = trainer_of(tmp_path, origin={"commit": "b"})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)  # nothing but the checkpoints may matter
    results = again.train()
    assert again.first_step == after
    took = again.seconds()
    assert 0 < took == again.seconds()  # the clock stopped when training did
    for run in range(3):
        first, second = again.sessions(run)
        assert first["seconds"] > 0 and second["seconds"] == took
        assert results[run].curves.equals(expected[run].curves)
        assert torch.equal(flat_run(model, run), flat_run(expected_model, run))
        assert [s["steps"] for s in again.sessions(run)] == [after, 18 - after]


def test_a_run_goes_on_alone_and_back_in_an_ensemble(tmp_path: Path) -> None:
    """Checkpoints of an ensemble are those of its runs: the same names, shapes and facts."""
    expected, _ = trainer_of()
    curves = [result.curves for result in expected.train()]
    trainer_of(tmp_path, kind=Stops)[0].train()
    for run in range(3):
        own = tmp_path / f"{run}.safetensors"
        tensors, facts = load_checkpoint(own, f"cell{run}")
        alone = Stops(
            make_model(run), loss, make_data(WHICH[run]), CONFIG, runs=[Run(f"cell{run}", own)]
        )
        alone.after = 13
        assert alone.run().status == "stopped" and alone.first_step == facts["step"] == 7
        mine = {name: value.shape for name, value in alone.state().items()}
        assert mine == {name: value.shape for name, value in tensors.items()}
    again, _ = trainer_of(tmp_path)
    for result, whole in zip(again.train(), curves, strict=True):
        assert result.status == "done"
        for name in whole:
            assert result.curves[name].tolist() == pytest.approx(whole[name].tolist(), rel=1e-5)
    assert [s["steps"] for s in again.sessions(2)] == [7, 6, 5]


def test_a_budget_spent_before_the_first_step_leaves_checkpoints_that_go_on(tmp_path: Path) -> None:
    expected = trainer_of()[0].train()
    stopped, _ = trainer_of(tmp_path, deadline=time.monotonic())
    assert {(r.status, r.step) for r in stopped.train()} == {("stopped", 0)}
    (tmp_path / "1.safetensors").unlink()  # a run that never started beside two that did
    results = trainer_of(tmp_path)[0].train()
    assert all(r.curves.equals(e.curves) for r, e in zip(results, expected, strict=True))


def test_a_failure_is_known_after_a_restart(tmp_path: Path) -> None:
    expected = trainer_of(bad=1)[0].train()
    stopped, _ = trainer_of(tmp_path, bad=1, kind=type("S", (Stops,), {"after": 16}))
    assert [result.status for result in stopped.train()] == ["stopped", "failed", "stopped"]
    results = trainer_of(tmp_path, bad=1)[0].train()
    for found, whole in zip(results, expected, strict=True):
        same(found, whole)


def test_wrong_checkpoints_are_refused(tmp_path: Path) -> None:
    trainer_of(tmp_path, kind=Stops)[0].train()
    path = tmp_path / "1.safetensors"
    alone = Trainer(
        make_model(1), loss, make_data(1), CONFIG, runs=[Run("cell1", path)],
        checkpoint_every=0.0,
    )  # fmt: skip
    alone.run()
    with pytest.raises(ValueError, match=r"checkpoints are at steps \[7, 17, 7\], allowed: one"):
        trainer_of(tmp_path)[0].train()
    path.write_bytes((tmp_path / "0.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="belongs to cell cell0, not to cell1"):
        trainer_of(tmp_path)[0].train()


# -- grouping and compiling ------------------------------------------------------------------


def test_groups_are_of_one_kind_in_order_and_of_about_equal_size() -> None:
    items = ["a1", "b1", "a2", "a3", "c1", "a4", "a5", "b2"]
    asked = []

    def room(item: str) -> int:
        asked.append(item)
        return 3 if item[0] == "a" else 10

    groups = together(items, lambda item: item[0], room)
    assert next(groups) == ["a1", "a2"] and asked == ["a1"]  # room is asked when its turn comes
    assert list(groups) == [["a3", "a4", "a5"], ["b1", "b2"], ["c1"]]
    assert asked == ["a1", "b1"]  # nobody asks for a run that is alone
    assert list(together([], str, room)) == []


def test_room_is_what_was_asked_or_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_language_model(language_config("mamba2", False), seed=0)

    def batch(rows: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(rows, 8, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64)

    def answer(model: nn.Module, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return F.cross_entropy(model(tokens, last_token_only=True), labels), labels.sum()

    assert ensemble.room(model, answer, batch(16), 36) == 36
    found = [ensemble.room(model, answer, batch(rows)) for rows in (16, 512, 2048)]
    assert found == [8, 2, 1]
    # a backend that vmap cannot map, played by the one that serves here
    monkeypatch.setattr(ensemble, "SINGLE", ("quadratic",))
    assert (
        ensemble.room(model, answer, batch(16)) == ensemble.room(model, answer, batch(16), 1) == 1
    )
    with pytest.raises(ValueError, match=r"ensemble is 2, allowed: 1 \(quadratic serves one run"):
        ensemble.room(model, answer, batch(16), 2)


def test_the_loss_of_an_ensemble_compiles_whole() -> None:
    torch.compiler.reset()
    config = language_config("mamba2", tied=True, layers=1)
    many = Ensemble([build_language_model(config, seed=seed) for seed in range(2)])

    def answer(model: Any, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(tokens, last_token_only=True)
        return F.cross_entropy(logits, labels), (logits.argmax(-1) == labels).sum()

    tokens = torch.randint(20, (2, 5, 8), generator=torch.Generator().manual_seed(0))
    losses = losses_of(many, answer)
    compiled = torch.compile(losses, backend="aot_eager", fullgraph=True, dynamic=False)
    grads = []
    for function in (losses, compiled):
        value, right = function(tokens, tokens[..., 0])
        assert value.shape == right.shape == (2,)
        grads.append(torch.autograd.grad(value.sum(), list(many.parameters())))
    for eager, other in zip(*grads, strict=True):
        torch.testing.assert_close(other, eager, rtol=1e-4, atol=1e-6)
