from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.models.config import (
    InitialisationConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
)
from lib.models.language_model import LanguageModel, build_language_model

EVERY = ("embedding", "positional", "linear", "dt_proj", "conv", "head")
MAMBA1 = Mamba1Config(d_model=64, d_state=16)
MAMBA2 = Mamba2Config(d_model=64, d_state=64, headdim=8)


def make(block: Mamba1Config | Mamba2Config, seed: int = 0, **start: object) -> LanguageModel:
    config = LanguageModelConfig(
        200, 4, (block,), positional_encoding="learned", max_length=50,
        initialisation=InitialisationConfig(**start),  # type: ignore[arg-type]
    )  # fmt: skip
    return build_language_model(config, seed=seed)


@pytest.mark.parametrize("gamma", [None, 0.5, 1.0])
@pytest.mark.parametrize("block", [MAMBA1, MAMBA2])
def test_dt_starts_in_its_range(block: Mamba1Config | Mamba2Config, gamma: float | None) -> None:
    """After the whole model is built: two public projects overwrite the dt bias at that point."""
    model = make(block, gamma=gamma, scope=EVERY)
    found = []
    for layer in model.layers:
        mixer = layer.mixer
        bias = mixer.dt_proj.bias if isinstance(block, Mamba1Config) else mixer.dt_bias
        found.append(torch.nn.functional.softplus(bias))
    dt = torch.cat(found).detach()
    assert dt.min() >= block.dt_min * 0.999 and dt.max() <= block.dt_max * 1.001
    # log-uniform: the median lies near the geometric middle, not near the arithmetic one
    if len(dt) > 100:
        assert 0.5 < float(dt.median()) / math.sqrt(block.dt_min * block.dt_max) < 2


def test_A_and_D_start_officially() -> None:
    first = make(MAMBA1).layers[0].mixer
    expected = torch.arange(1, 17, dtype=torch.float32).expand(128, -1)
    torch.testing.assert_close(first.A_log.exp(), expected)
    second = torch.cat([layer.mixer.A_log.exp() for layer in make(MAMBA2).layers])
    assert second.min() >= 1 and second.max() <= 16 and second.std() > 2
    assert torch.equal(first.D, torch.ones(128))
    for name, parameter in make(MAMBA2).named_parameters():
        spared = getattr(parameter, "_no_weight_decay", False)
        assert spared == name.endswith(("A_log", ".D", "dt_bias")), name


def test_official_scales() -> None:
    model = make(MAMBA2)
    mixer = model.layers[0].mixer
    assert float(model.embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    # U(-1/sqrt(fan_in), 1/sqrt(fan_in)) has standard deviation 1/sqrt(3 fan_in)
    assert float(mixer.in_proj.weight.std()) == pytest.approx((3 * 64) ** -0.5, rel=0.05)
    out = (3 * 128) ** -0.5 / math.sqrt(4)
    assert float(mixer.out_proj.weight.std()) == pytest.approx(out, rel=0.05)
    assert float(mixer.conv.weight.std()) == pytest.approx((3 * 4) ** -0.5, rel=0.1)
    assert mixer.conv.weight.abs().max() <= 0.5


def parts(model: LanguageModel) -> dict[str, tuple[torch.Tensor, int]]:
    """Tensor and fan-in of each part that gamma can cover."""
    mixer = model.layers[1].mixer
    found = {
        "embedding": (model.embedding.weight, 64),
        "positional": (model.positions.weight, 64),  # type: ignore[union-attr]
        "head": (model.head.weight, 64),
        "in_proj": (mixer.in_proj.weight, 64),
        "out_proj": (mixer.out_proj.weight, 128),
        "conv": (mixer.conv.weight, 4),
    }
    if isinstance(mixer.config, Mamba1Config):
        found["x_proj"] = (mixer.x_proj.weight, 128)
        found["dt_proj"] = (mixer.dt_proj.weight, 4)
    return found  # type: ignore[return-value]


PART_SCOPE = {"in_proj": "linear", "out_proj": "linear", "x_proj": "linear"}


@given(
    gamma=st.sampled_from([0.1, 0.5, 1.0, 2.0]), fan=st.sampled_from(["fan_in", "output"]),
    block=st.sampled_from([MAMBA1, MAMBA2]), scope=st.sets(st.sampled_from(EVERY)),
)  # fmt: skip
def test_gamma_covers_its_scope_and_nothing_else(
    gamma: float, fan: str, block: Mamba1Config | Mamba2Config, scope: set[str]
) -> None:
    model = make(block, gamma=gamma, fan=fan, scope=tuple(sorted(scope)))
    official = parts(make(block))
    for name, (tensor, fan_in) in parts(model).items():
        if PART_SCOPE.get(name, name) in scope:
            width = fan_in if fan == "fan_in" else tensor.shape[0]
            assert float(tensor.std()) == pytest.approx(width**-gamma, rel=0.15), name
            assert tensor.abs().max() > 2.2 * width**-gamma, "normal, not uniform"
        elif name != "out_proj":
            low, high = 0.85, 1.15
            assert low < float(tensor.std() / official[name][0].std()) < high, name
    for layer in model.layers:
        assert torch.equal(layer.mixer.D, torch.ones_like(layer.mixer.D))
        assert layer.mixer.A_log.exp().min() >= 0.999


def test_zero_biases_zero_every_bias_and_only_biases() -> None:
    for block in (MAMBA1, MAMBA2):
        model = make(block, zero_biases=True)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any(), name
            else:
                assert parameter.any(), name


def test_tied_head_is_the_embedding_and_keeps_its_scale() -> None:
    config = LanguageModelConfig(
        200, 2, (MAMBA2,), tie_embeddings=True, initialisation=InitialisationConfig(gamma=1.0)
    )
    model = build_language_model(config, seed=0)
    assert model.head.weight is model.embedding.weight
    assert float(model.head.weight.std()) == pytest.approx(1 / 64, rel=0.05)


def test_a_seed_is_a_model() -> None:
    one, same, other = (make(MAMBA2, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(
        one["layers.0.mixer.in_proj.weight"], other["layers.0.mixer.in_proj.weight"]
    )
    torch.manual_seed(123)  # the global generator has no say
    assert torch.equal(make(MAMBA2, seed=1).head.weight, one["head.weight"])
