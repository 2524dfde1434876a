from __future__ import annotations

import pytest

from lib.bench.floor import KNOWN, floor
from lib.bench.works import (
    layer_work,
    mamba1_work,
    mamba2_work,
    model_work,
    parameters,
    scan_work,
    step_work,
)
from lib.experiments.achilles import mamba2_model, third_party_model
from lib.models.config import Mamba1Config, Mamba2Config
from lib.models.language_model import build_language_model


def test_the_scan_counted_by_hand() -> None:
    # b = 2, d = 3, l = 5, n = 7, float32: 2 * 3 * 5 * 7 = 210 entries
    forward = scan_work(2, 3, 5, 7, 4, backward=False)
    assert forward.exponentials == 210 and forward.fmas == 840
    # u, delta: 30 numbers each; B, C: 70 each; A: 21; D and the bias: 3 each
    assert forward.read == 4 * (30 + 30 + 70 + 70 + 21 + 3 + 3)
    assert forward.written == 4 * 30
    both = scan_work(2, 3, 5, 7, 4, backward=True)
    assert both.exponentials == 420 and both.fmas == 15 * 210
    assert both.read == forward.read + forward.read + 4 * 30
    assert both.written == forward.written + forward.read


def test_half_the_bytes_an_element_leave_the_constants() -> None:
    wide, narrow = (scan_work(2, 3, 5, 7, size, backward=False) for size in (4, 2))
    constants = 4 * (21 + 3 + 3)
    assert narrow.read - constants == (wide.read - constants) / 2
    assert narrow.fmas == wide.fmas


def test_the_composite_task_s_scan_is_bound_by_exponentials_and_not_by_bytes() -> None:
    work = scan_work(2048, 64, 8, 128, 4, backward=True)
    channels, shared = 2048 * 64 * 8 * 4, 2048 * 128 * 8 * 4
    assert work.bytes == pytest.approx(8 * channels + 6 * shared, rel=0.01)
    found = floor(work, KNOWN["NVIDIA H100 80GB HBM3"])
    assert found.limit == "exponentials" and found.parts["bytes"] < 0.5 * found.seconds


def test_a_mamba2_block_counted_by_hand() -> None:
    # m = 4, d = 8 (one head), n = 3, k = 2, b = 2, l = 3: 6 tokens, 12 pairs
    config = Mamba2Config(d_model=4, d_state=3, headdim=8, d_conv=2)
    work = mamba2_work(config, 2, 3, backward=False)
    # rows of the projection: z 8, X 8, B 3, C 3, dt 1
    assert work.products == 6 * 4 * 23 + 6 * 8 * 4
    assert work.fmas == 6 * 14 * 2 + 12 * (3 + 8)
    assert work.exponentials == 6 * (8 + 14)
    weights = 23 * 4 + 14 * 3 + 8 * 4 + 8
    assert work.read == 4 * (6 * 4 + weights) and work.written == 4 * 6 * 4
    both = mamba2_work(config, 2, 3, backward=True)
    assert both.products == 3 * work.products and both.fmas == 3 * work.fmas
    # the last position needs z, C and the projection out once a sequence, and 3 pairs
    last = mamba2_work(config, 2, 3, backward=False, last_only=True)
    assert last.products == 6 * 4 * 12 + 2 * 4 * 11 + 2 * 8 * 4
    assert last.fmas == 6 * 11 * 2 + 2 * 3 * 2 + 6 * 11


def test_a_mamba1_block_counted_by_hand() -> None:
    # m = 4, d = 8, n = 3, r = 1, k = 2, b = 2, l = 3: 6 tokens
    config = Mamba1Config(d_model=4, d_state=3, d_conv=2, dt_rank=1)
    work = mamba1_work(config, 2, 3, backward=False)
    scan = scan_work(2, 8, 3, 3, 4, backward=False)
    assert work.products == 6 * (4 * 16 + 8 * 7 + 8 + 32)
    assert work.fmas == 6 * 8 * 2 + scan.fmas
    assert work.exponentials == 2 * 6 * 8 + scan.exponentials
    assert work.written == 4 * 6 * 4
    assert layer_work(config, 2, 3, False, last_only=True) == work


@pytest.mark.parametrize("config", [mamba2_model(3, 1.0, tied=True), mamba2_model(2, 1.0),
                                    third_party_model(2, 1.0)])  # fmt: skip
def test_parameters_are_the_model_s(config: object) -> None:
    built = build_language_model(config, seed=0)  # type: ignore[arg-type]
    assert parameters(config) == sum(p.numel() for p in built.parameters())  # type: ignore[arg-type]


def test_a_step_is_its_layers_its_head_and_the_optimiser() -> None:
    config = mamba2_model(2, 1.0)
    block = config.blocks[0]
    first = mamba2_work(block, 4, 8, backward=True)  # type: ignore[arg-type]
    last = mamba2_work(block, 4, 8, backward=True, last_only=True)  # type: ignore[arg-type]
    model = model_work(config, 4, 8)
    assert model.products == first.products + last.products + 3 * 4 * 32 * 201
    assert model.fmas == first.fmas + last.fmas
    step = step_work(config, 4, 8)
    assert step.bytes - model.bytes == 7 * 4 * parameters(config)
    assert step.fmas > model.fmas and step.products == model.products
