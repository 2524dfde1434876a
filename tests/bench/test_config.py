from __future__ import annotations

import dataclasses

import pytest

from lib.bench.config import (
    BesideBench,
    BlockBench,
    CpuBench,
    ScanBench,
    StepBench,
    SweepBench,
    in_words,
    readable,
)
from lib.config import from_dict, to_dict
from lib.experiments import cells_of, find
from lib.experiments.achilles import mamba2_model
from lib.experiments.foundations import KINDS, PREFIX
from lib.models.config import LanguageModelConfig, Mamba1Config

SCAN = ScanBench(2048, 64, 8, 128)
STEP = StepBench(mamba2_model(7, 1.0), 2048, 8, runs=36)


@pytest.mark.parametrize(
    ("bench", "changes", "message"),
    [
        (SCAN, {"batch": 0}, r"ScanBench.batch is 0, allowed: at least 1, whole"),
        (SCAN, {"length": True}, r"ScanBench.length is True"),
        (SCAN, {"repeats": 0}, r"ScanBench.repeats is 0"),
        (SCAN, {"dtype": "float16"}, r"ScanBench.dtype is 'float16', allowed: float32, bfloat16"),
        (SCAN, {"direction": "back"}, r"direction is 'back', allowed: forward, both"),
        (SCAN, {"device": "tpu"}, r"device is 'tpu', allowed: cpu, cuda"),
        (SCAN, {"seed": -1}, r"seed is -1, allowed: 0 or more"),
        (STEP, {"runs": 0}, r"StepBench.runs is 0"),
        (BlockBench(1, 1, 4, 4, 8), {"direction": "x"}, r"BlockBench.direction is 'x'"),
        (CpuBench(8, 128, 128, 4), {"threads": 0}, r"CpuBench.threads is 0"),
        (CpuBench(8, 128, 128, 4), {"device": "cuda"}, r"CpuBench.device is 'cuda', allowed: cpu"),
        (SweepBench((STEP.model,), 1, 8, 1, 10), {"models": ()}, r"SweepBench.models is \(\)"),
        (SweepBench((STEP.model,), 1, 8, 1, 10), {"steps": 0}, r"SweepBench.steps is 0"),
        (BesideBench((STEP.model,) * 2, 1, 8, 1), {"models": (STEP.model,)}, r"at least two"),
        (BesideBench((STEP.model,) * 2, 1, 8, 1), {"steps": 0}, r"BesideBench.steps is 0"),
    ],
)
def test_mistakes_are_named(bench: object, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(bench, **changes)  # type: ignore[type-var]


def test_names_tell_benchmarks_apart() -> None:
    assert readable(SCAN) == "cuda-b2048-d64-l8-n128-float32-both-x10-s0"
    assert readable(STEP) == "cuda-mamba2-L7-b2048-l8-r36-x10-s0"
    fewer = dataclasses.replace(SCAN, repeats=20)
    assert readable(fewer) != readable(SCAN) and to_dict(fewer) != to_dict(SCAN)


def test_benchmarks_survive_their_records() -> None:
    sweep = SweepBench((STEP.model, mamba2_model(2, 1.0)), 2048, 8, 36, 25_830)
    beside = BesideBench(sweep.models, 2048, 8, 3)
    assert readable(beside) == "cuda-mamba2-L2to7-b2048-r3-steps64-x10-s0"
    for bench in (SCAN, STEP, sweep, beside, CpuBench(8, 128, 128, 4), BlockBench(1, 1, 4, 4, 8)):
        assert from_dict(type(bench), to_dict(bench)) == bench


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_words_tell_every_benchmark_of_a_table_from_the_others(kind: str, profile: str) -> None:
    said = [in_words(cell) for cell in cells_of(find(PREFIX + kind), profile)]
    assert said and len(set(said)) == len(said)


def test_words_name_what_is_measured() -> None:
    said = in_words(ScanBench(2048, 64, 8, 128, direction="both"))
    assert said == ("batch 2,048, 64 channels, length 8, state 128, float32, forward and backward")
    model = LanguageModelConfig(256, 7, (Mamba1Config(32),))
    assert in_words(StepBench(model, 2048, 8)) == (
        "Mamba-1, 7 layers, one run, batch 2,048, length 8"
    )
    assert in_words(StepBench(model, 2048, 8, runs=12)).startswith(
        "Mamba-1, 7 layers, 12 runs at once"
    )
    assert "1 thread," in in_words(CpuBench(8, 128, 128, 4))
    assert in_words(CpuBench(2, 16, 16, 1)).startswith("1 layer, 16 wide")
    assert "Mamba-1, 1 layer, one run" in in_words(
        StepBench(LanguageModelConfig(256, 1, (Mamba1Config(32),)), 2048, 8)
    )
    assert "2 threads," in in_words(CpuBench(8, 128, 128, 4, threads=2))
