from __future__ import annotations

import math
import re

import pytest
import torch

from lib.bench import alone, kernels
from lib.experiments import cells_of, find
from lib.ops import backends


def test_a_step_is_timed_and_taken_apart(capsys: pytest.CaptureFixture[str]) -> None:
    select = ["--select", "n_layers=2", "--runs", "2", "--top", "4"]
    arguments = ["achilles.phase_diagram", "--profile", "quick", "--device", "cpu", *select]
    assert kernels.main(arguments) == 0
    head, step, *lines = capsys.readouterr().out.splitlines()
    assert head == ("achilles.phase_diagram: 2 runs, 2 layers of 32 channels, batch 150, length 8")
    whole = float(re.fullmatch(r" *([\d.]+) ms a step", step)[1])  # type: ignore[index]
    found = [re.fullmatch(r" *([\d.]+) us +([\d.]+) calls  (.+)", line) for line in lines]
    times = [float(match[1]) for match in found if match is not None]
    assert len(times) == 4 and times == sorted(times, reverse=True)
    assert times[0] < 1e3 * 20 * whole  # of a step, not of all that were watched


def test_runs_that_train_at_once_are_counted() -> None:
    cells = cells_of(find("achilles.phase_diagram"), "paper")
    assert kernels.bench_of(cells, None, "cpu").runs == 36
    deeper = [cell for cell in cells if cell.model.n_layers == 7]
    bench = kernels.bench_of(deeper[:5], None, "cpu")
    assert (bench.runs, bench.model.n_layers, bench.batch, bench.length) == (5, 7, 2048, 8)
    with pytest.raises(ValueError, match="runs is 0, allowed: 1 or more"):
        kernels.bench_of(cells, 0, "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["foundations.bench_scan", "--profile", "quick"], "a cell is a ScanBench, allowed: one"),
        (
            ["memory.architectures", "--profile", "quick", "--runs", "2"],
            "runs is 2, allowed: 1, for a MemoryCell",
        ),
        (["achilles.composite", "--select", "n_layers=99"], "fits no cell"),
        (["nobody.knows"], "nobody.knows"),
        (["achilles.composite", "--device", "moon"], "device"),
        (["achilles.composite", "--prefer", "linear"], "backend of linear is '', allowed: tensor"),
        (["achilles.composite", "--prefer", "abacus=fast"], "op is 'abacus', allowed: "),
    ],
)
def test_misuse_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kernels.main(arguments) == kernels.USAGE_ERROR
    assert message in capsys.readouterr().err


def test_a_backend_that_is_preferred_serves_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["achilles.transformer_with_convolution", "--profile", "quick", "--device", "cpu"]
    prefer = ["--prefer", "attention=reference", "--prefer", "linear=reference"]
    assert kernels.main([*arguments, *prefer, "--runs", "2", "--top", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    with backends.preferring("linear", "tensor_cores"), backends.preferring("linear", "reference"):
        assert backends._preferred == {"linear": "reference"}
    assert backends._preferred == {}


def test_a_decoder_s_step_is_taken_apart(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["memory.architectures", "--profile", "quick", "--device", "cpu", "--top", "3"]
    assert kernels.main(arguments) == 0
    head, step, *lines = capsys.readouterr().out.splitlines()
    shape = "2 layers of 48 channels, batch 128, length 4"
    assert head == f"memory.architectures: 1 run, {shape}"
    assert step.endswith(" ms a step") and len(lines) == 3


def test_a_language_model_s_step_predicts_each_next_token() -> None:
    cell = cells_of(find("stories.from_scratch"), "quick")[0]
    shape = "15 layers of 96 channels, batch 8, length 64"
    assert kernels.headline("it", cell) == f"it: 1 run, {shape}"
    trainer = alone.trainer_of(cell, torch.device("cpu"), compile=False)
    inputs, targets = trainer.batches.tensors
    assert inputs.shape == targets.shape == (alone.EPOCH * 8, 64)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    trainer.batches.begin_epoch(0)
    trainer._advance(0)
    assert all(p.grad is not None for p in trainer.parameters)
    # of random weights, before any training: about as good as chance
    chance = math.log(cell.model.vocab_size)
    assert abs(float(trainer.counters["loss_sum"]) - chance) < 1


@pytest.mark.parametrize("index", range(4))
def test_a_decoder_s_step_is_that_of_its_run(index: int) -> None:
    """Of each architecture: all of the decoder's weights get a gradient, the encoder's none."""
    cell = cells_of(find("memory.architectures"), "quick")[index]
    trainer = alone.trainer_of(cell, torch.device("cpu"), compile=False)
    assert trainer.batches.steps == alone.EPOCH
    assert trainer.config.precision == cell.training.precision
    trainer.batches.begin_epoch(0)
    trainer._advance(0)
    names = {name for name, p in trainer.module.named_parameters() if p.grad is not None}
    wanted = {name for name, p in trainer.module.named_parameters() if p.requires_grad}
    assert names == wanted and any(name.startswith("decoder.") for name in names)
    assert not any(name.startswith("encoder.") for name in names)
