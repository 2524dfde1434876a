"""Every benchmark's quick cells for real: the code paths, never the times."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from lib import runner
from lib.bench import beside, cpu, language, scan, step
from lib.bench.config import CpuBench, ScanBench
from lib.bench.measure import Contestant, check, relative_error
from lib.bench.peers import other_names, renamed
from lib.experiments import Context, cells_of, find
from lib.experiments.foundations import PREFIX
from lib.models.config import Mamba1Config
from lib.models.language_model import build_language_model
from lib.models.mamba1 import Mamba1Mixer
from lib.store import Store
from lib.training.loop import Trainer

OURS = {"scan": "chunked", "block": "eager", "step": "eager", "language": "chunked",
        "beside": "beside", "cpu": "chunked"}  # fmt: skip


@pytest.mark.parametrize("kind", ["scan", "block", "step", "language", "sweep", "beside", "cpu"])
def test_a_quick_benchmark_leaves_a_whole_record(kind: str, tmp_path: Path) -> None:
    store = Store(tmp_path, tmp_path / "published")
    summary = runner.run(PREFIX + kind, "quick", store=store, device="cpu", say=lambda line: None)
    assert summary.failed == []
    experiment = find(PREFIX + kind)
    (record,) = store.records(experiment.name, experiment.protocol, cells_of(experiment, "quick"))
    assert record is not None and record.status == "done"
    facts, metrics = record.provenance, record.metrics
    curves = record.read_curves()
    names = set(facts["notes"])
    if kind == "sweep":
        assert names == {"L1", "L2"} and metrics["minutes"] > 0
        # minutes are the steps of both depths, all runs at once
        total = metrics["L1.ms"] + metrics["L2.ms"]
        assert metrics["minutes"] == pytest.approx(total * 10 / 6e4)
        assert metrics["runs"] == 4
    else:
        assert facts["ours"] == OURS[kind] in names
        assert metrics["floor_ms"] > 0
    assert set(curves["contestant"]) == names
    assert (curves.groupby("contestant")["ms"].count() == record.config["repeats"]).all()
    for name in names:
        assert 0 < metrics[f"{name}.floor_share"] < 1 and metrics[f"{name}.error"] < 1e-3
    assert all(reason for reason in facts["absent"].values())
    assert not names & set(facts["absent"])


@pytest.mark.parametrize("d_state", [3, 4])  # sliced out of one projection; of their own
def test_the_scan_is_given_in_the_layout_of_each_ones_model(d_state: int) -> None:
    bench = ScanBench(3, 6, 7, d_state, device="cpu")
    mixer = Mamba1Mixer(Mamba1Config(d_model=3, d_state=d_state))
    _, B, C = mixer._split(torch.zeros(3, 7, 6))
    ours = scan.inputs(bench, 0)
    theirs = scan.official_layout(bench, ours)
    assert ours.keys() == theirs.keys() == {*scan.NAMES, "y_grad"}
    for name in ("u", "delta", "y_grad"):
        assert ours[name].stride() == (42, 1, 6)
        assert theirs[name].is_contiguous()
    for name, made in (("B", B), ("C", C)):
        assert ours[name].stride() == made.mT.stride()
        assert theirs[name].is_contiguous()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name])
        assert value.is_leaf and value.requires_grad == theirs[name].requires_grad


def test_the_models_on_the_processor_are_the_same_model() -> None:
    bench = CpuBench(2, 9, 16, 2, 4, 32, input_sets=1)
    ours = cpu.our_model(bench)
    theirs = cpu.their_model(bench, ours, mambapy=False)
    assert set(renamed(ours, "backbone.embeddings.weight")) == set(theirs.state_dict())
    tokens = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs(tokens).logits, atol=1e-5)


def test_threads_are_set_and_put_back() -> None:
    before = torch.get_num_threads()
    with cpu.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_the_language_model_s_record_has_tokens_a_second() -> None:
    experiment = find(PREFIX + "language")
    (cell,) = cells_of(experiment, "quick")
    (outcome,) = experiment.run([dataclasses.replace(cell, repeats=1)], Context())
    metrics = outcome.metrics
    assert metrics["chunked.tokens_per_s"] == pytest.approx(1e3 * 2 * 16 / metrics["chunked.ms"])
    assert "runs on a GPU only" in outcome.facts["absent"]["mamba_ssm"]


def spoil(weights: Iterable[torch.Tensor]) -> None:
    """From now on each weight gets noise for its gradient, of the gradient's own size."""

    draw = torch.Generator().manual_seed(0)

    def noise(gradient: torch.Tensor) -> torch.Tensor:
        drawn = torch.randn(gradient.shape, generator=draw).to(gradient)
        return drawn * gradient.norm() / drawn.norm()

    for weight in weights:
        weight.register_hook(noise)


def spoiled_trainers(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """The benchmark's trainers learn by noise from here on; their losses are right."""
    build: Callable[..., Trainer] = module.trainer_of

    def wrong(*given: Any, **options: Any) -> Trainer:
        trainer = build(*given, **options)
        spoil(trainer.parameters)
        return trainer

    monkeypatch.setattr(module, "trainer_of", wrong)


def test_a_training_step_by_wrong_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = cells_of(find(PREFIX + "step"), "quick")
    cell = dataclasses.replace(cell, runs=2)
    ours = step.contestant(cell, "ours", "quadratic", compile=False)
    other = step.contestant(cell, "other", "chunked", compile=False)
    spoiled_trainers(monkeypatch, step)
    wrong = step.contestant(cell, "wrong", "quadratic", compile=False)
    # a loss and every weight's gradient; losses alone, at so low a rate, would not tell
    assert len(ours.outputs()) == 1 + len(step.trainer_of(cell, "quadratic", False).parameters)
    assert relative_error(wrong.outputs()[0], ours.outputs()[0]) < step.TOLERANCE
    errors, refused = check([ours, other, wrong], step.TOLERANCE)
    assert list(errors) == ["ours", "other"] and errors["other"] < 1e-4
    said = re.match(
        r"refused: it differs from ours by ([0-9.e+-]+), allowed: 1e-03", refused["wrong"]
    )
    assert said is not None and float(said[1]) > 0.5


def test_groups_that_learn_by_wrong_gradients_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = cells_of(find(PREFIX + "beside"), "quick")
    ours = beside.contestant(cell, "beside")
    other = beside.contestant(cell, "in_turn")
    spoiled_trainers(monkeypatch, beside)
    wrong = dataclasses.replace(beside.contestant(cell, "in_turn"), name="wrong")
    outputs = {c.name: c.outputs() for c in (ours, other, wrong)}
    assert outputs["beside"][0].shape == (4,)  # two groups of two runs
    assert all((change != 0).any() for change in outputs["beside"][1:])
    again = [Contestant(name, (), lambda kept=kept: kept) for name, kept in outputs.items()]
    assert len(check(again[:2], beside.TOLERANCE)[0]) == 2
    # by losses, whatever they say of it, and by the weights alone
    assert list(check(again, beside.TOLERANCE)[1]) == ["wrong"]
    assert list(check(again, (1.0, beside.TOLERANCE[1]))[1]) == ["wrong"]


def test_a_language_model_of_wrong_gradients_is_refused() -> None:
    (cell,) = cells_of(find(PREFIX + "language"), "quick")

    def built(name: str, backend: str, wrong: bool = False) -> Contestant:
        model = build_language_model(cell.model, seed=0, device="cpu", backend=backend)
        weights = list(model.parameters())
        if wrong:
            spoil(weights)
        return language.contestant(cell, name, weights, model, "")

    contestants = [
        built("ours", "chunked"), built("other", "reference"), built("wrong", "chunked", True),
    ]  # fmt: skip
    errors, refused = check(contestants, language.TOLERANCE)
    # loss and norm are those of ours, each gradient is not
    assert list(errors) == ["ours", "other"]
    assert refused["wrong"].endswith("allowed: 1e-01")


def test_weights_of_others_are_found_by_our_names() -> None:
    bench = CpuBench(2, 9, 16, 2, 4, 32, input_sets=1)
    ours = cpu.our_model(bench)
    theirs = cpu.their_model(bench, ours, mambapy=False)
    names = other_names(2, "backbone.embeddings.weight")
    found = [theirs.get_parameter(names[name]) for name, _ in ours.named_parameters()]
    assert len(set(map(id, found))) == len(list(theirs.parameters()))
    for own, weight in zip(ours.parameters(), found, strict=True):
        assert torch.equal(own.flatten(), weight.flatten())
