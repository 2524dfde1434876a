"""The Mamba-3 block: its own equations, decoding, precision, ensembles, initialisation."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from lib.analysis.cuts import cut_edges
from lib.config import canonical_json, from_dict, to_dict
from lib.models.config import InitialisationConfig, LanguageModelConfig, Mamba1Config, Mamba3Config
from lib.models.language_model import LanguageModel, build_language_model
from lib.models.layers import Activation
from lib.models.mamba3 import Mamba3Mixer
from lib.ops import backends
from lib.training.ensemble import Ensemble
from tests.ops.test_mamba3 import by_definition

SMALL = Mamba3Config(16, d_state=8, headdim=8, n_groups=2, chunk_size=8)
BLOCKS = {
    "small": SMALL,
    "normed": dataclasses.replace(SMALL, outproj_norm=True, rope_fraction=1.0, n_groups=1),
}
ACTIVATIONS = ("dt", "x", "B", "C", "S", "y", "z")
# within one chunk, and over several
LENGTHS = [8, 21]


def make(block: str = "small", seed: int = 0, **options: Any) -> LanguageModel:
    """A model with no weight at its start, so that none can be left out unseen."""
    model = build_language_model(
        LanguageModelConfig(30, 2, (BLOCKS[block],)), seed=seed, **options
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def mixer_of(model: LanguageModel, layer: int = 0) -> Mamba3Mixer:
    mixer = model.layers[layer].mixer
    assert isinstance(mixer, Mamba3Mixer)
    return mixer


def tokens(length: int, seed: int = 0) -> Tensor:
    return torch.randint(30, (2, length), generator=torch.Generator().manual_seed(seed))


def stream(length: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(2, length, 16, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("block", list(BLOCKS))
@pytest.mark.parametrize("length", LENGTHS)
def test_the_block_is_its_equations(block: str, length: int) -> None:
    mixer, c = mixer_of(make(block)), BLOCKS[block]
    x = stream(length)
    with torch.no_grad():
        made = x @ mixer.in_proj.weight.T
        sizes = [32, 32, c.n_groups * 8, c.n_groups * 8, 4, 4, 4, c.n_angles]
        z, u, B, C, dt, A, trap, angle = made.split(sizes, -1)

        def normed(v: Tensor, weight: Tensor) -> Tensor:
            return v * (v.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight

        y = by_definition(
            {
                "x": u.unflatten(-1, (4, 8)),
                "dt": softplus(dt + mixer.dt_bias),
                "A": -softplus(A).clamp(min=1e-4),
                "trap": trap.sigmoid(),
                "B": normed(B.unflatten(-1, (-1, 8)), mixer.B_norm.weight),
                "C": normed(C.unflatten(-1, (-1, 8)), mixer.C_norm.weight),
                "angle": math.pi * angle.tanh(),
                "D": mixer.D,
                "B_bias": mixer.B_bias[:, 0],
                "C_bias": mixer.C_bias[:, 0],
            }
        )
        if c.outproj_norm:
            assert mixer.norm is not None
            y = normed(y, mixer.norm.weight.view(4, 8))
        expected = (y.flatten(-2) * silu(z)) @ mixer.out_proj.weight.T
        torch.testing.assert_close(mixer(x), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("outproj_norm", [False, True])
def test_parameters_are_those_of_mamba_ssm(outproj_norm: bool) -> None:
    """Names and shapes as its Mamba3 (is_mimo=False) has them, at the book's size and another."""
    book = Mamba3Config(32, outproj_norm=outproj_norm)
    other = dataclasses.replace(book, d_model=64, d_state=16, headdim=32, n_groups=2)
    for c, h, n, g, a in ((book, 1, 128, 1, 32), (other, 4, 16, 2, 4)):
        d = 2 * c.d_model
        expected = {
            "dt_bias": (h,), "B_bias": (h, 1, n), "C_bias": (h, 1, n), "D": (h,),
            "in_proj.weight": (2 * d + 2 * g * n + 3 * h + a, c.d_model),
            "B_norm.weight": (n,), "C_norm.weight": (n,), "out_proj.weight": (c.d_model, d),
        }  # fmt: skip
        if outproj_norm:
            expected["norm.weight"] = (d,)
        found = {name: tuple(t.shape) for name, t in Mamba3Mixer(c).state_dict().items()}
        assert found == expected


@pytest.mark.parametrize("block", list(BLOCKS))
@pytest.mark.parametrize("length", LENGTHS)
def test_step_by_step_equals_the_full_pass(block: str, length: int) -> None:
    model, sequence = make(block), tokens(length)
    with torch.no_grad():
        expected, kept = model(sequence, return_states=True)
        states, found = model.initial_states(2), []
        for position, token in enumerate(sequence.unbind(1)):
            logits, states = model.step(token, states, position)
            found.append(logits)
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-10, atol=1e-10)
    for mine, other in zip(kept, states, strict=True):
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@given(cut=st.integers(1, 19), block=st.sampled_from(list(BLOCKS)))
def test_a_sequence_in_two_parts_equals_the_whole(cut: int, block: str) -> None:
    model, sequence = make(block), tokens(20)
    with torch.no_grad():
        first, states = model(sequence[:, :cut], return_states=True)
        second = model(sequence[:, cut:], states, start=cut)
        expected = model(sequence)
    torch.testing.assert_close(torch.cat([first, second], 1), expected, rtol=1e-10, atol=1e-10)


@given(at=st.integers(0, 14), block=st.sampled_from(list(BLOCKS)))
def test_causality(at: int, block: str) -> None:
    model, sequence = make(block), tokens(15)
    changed = sequence.clone()
    changed[:, at] = (changed[:, at] + 7) % 30
    with torch.no_grad():
        before, after = model(sequence), model(changed)
    assert torch.equal(before[:, :at], after[:, :at])
    assert not torch.allclose(before[:, at], after[:, at])


@pytest.mark.parametrize("backend", ["reference", "quadratic", "chunked"])
@pytest.mark.parametrize("length", LENGTHS)
def test_every_backend_trains_alike(backend: str, length: int) -> None:
    models = [make(backend=name) for name in ("reference", backend)]
    for model in models:
        with backends.recording() as used:
            model(tokens(length)).square().mean().backward()
        assert used == {"mamba3": [model.layers[0].mixer.backend]}
    for (name, expected), found in zip(
        models[0].named_parameters(), models[1].parameters(), strict=True
    ):
        assert expected.grad is not None and expected.grad.any(), name
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-8, atol=1e-11, msg=name)


# --- activations ---------------------------------------------------------------------------------


def replaced(model: LanguageModel, name: str, replace: Any, length: int = 8) -> tuple[Tensor, int]:
    """Logits with `replace` applied to activation `name`, and how often it was called."""
    shapes: list[tuple[int, ...]] = []

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        shapes.append(tuple(output.shape))
        return replace(output)

    handle = model.get_submodule(f"layers.1.mixer.act_{name}").register_forward_hook(hook)
    with torch.no_grad():
        logits = model(tokens(length))
    handle.remove()
    shape = {
        "dt": (2, length, 4), "x": (2, length, 4, 8), "B": (2, length, 2, 8),
        "C": (2, length, 2, 8), "S": (2, 4, length, length), "y": (2, length, 4, 8),
        "z": (2, length, 32),
    }[name]  # fmt: skip
    assert set(shapes) <= {shape}, "not that of Mamba-2's activation"
    return logits, len(shapes)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_can_be_replaced(name: str) -> None:
    model = make()
    with torch.no_grad():
        expected = model(tokens(8))
    same, calls = replaced(model, name, lambda output: None)
    assert calls == 1 and torch.equal(same, expected)
    other, _ = replaced(model, name, torch.zeros_like)
    assert other.isfinite().all() and not torch.allclose(other, expected)
    assert replaced(model, name, lambda output: None, 9)[1] == (name != "S"), "beyond a chunk"


def test_no_activation_is_missing_from_the_list() -> None:
    names = {n for n, m in mixer_of(make()).named_modules() if isinstance(m, Activation)}
    assert names == {f"act_{name}" for name in ACTIVATIONS}


def test_a_cut_token_is_not_heard() -> None:
    """Cutting all edges from a token leaves later outputs as if its x were zero."""
    model, x = make(), stream(8)
    mixer = mixer_of(model)
    cut = torch.zeros(8, 8, dtype=torch.bool)
    cut[3:, 2] = True
    with torch.no_grad():
        with cut_edges(model, cut, [0]):
            found = mixer(x)
        handle = mixer.act_x.register_forward_hook(
            lambda module, inputs, u: u.index_fill(1, torch.tensor([2]), 0.0)
        )
        expected = mixer(x)
        handle.remove()
        torch.testing.assert_close(found[:, 3:], expected[:, 3:], rtol=1e-10, atol=1e-12)
        assert torch.equal(found[:, :3], mixer(x)[:, :3])
        assert not torch.allclose(found[:, 3:], mixer(x)[:, 3:])


# --- precision -----------------------------------------------------------------------------------

ALLOWED = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def gap(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("dtype", list(ALLOWED), ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_full_pass_and_decoding_in_every_precision(length: int, dtype: torch.dtype) -> None:
    sequence = tokens(length)
    with torch.no_grad():
        model = make().to(dtype)
        # the rounded weights, exactly: what remains is the rounding of the computation
        exact = make().to(dtype).double()(sequence)
        full, kept = model(sequence, return_states=True)
        states, found = model.initial_states(2), []
        for token in sequence.unbind(1):
            logits, states = model.step(token, states)
            found.append(logits)
    steps = torch.stack(found, 1)
    assert full.dtype == steps.dtype == dtype
    assert gap(full, exact) < ALLOWED[dtype] and gap(steps, exact) < ALLOWED[dtype]
    # a recurrent state in half precision would forget what is smaller than its rounding
    held = {part.dtype for state in (*kept, *states, *model.initial_states(2)) for part in state}
    assert held == {torch.float32}


@pytest.mark.parametrize("length", LENGTHS)
def test_autocast_computes_the_scan_in_float32(length: int) -> None:
    model, sequence = make().float(), tokens(length)
    seen: list[torch.dtype] = []
    for name in ("S", "dt"):
        mixer_of(model).get_submodule(f"act_{name}").register_forward_hook(
            lambda module, inputs, output: seen.append(output.dtype)
        )
    with torch.no_grad():
        exact = make().float().double()(sequence)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(sequence)
        with torch.no_grad():
            _, states = model(sequence, return_states=True)
            _, states = model.step(sequence[:, 0], states)
    assert set(seen) == {torch.float32}
    assert {part.dtype for state in states for part in state} == {torch.float32}
    assert gap(logits.detach(), exact) < ALLOWED[torch.bfloat16]
    logits.float().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


# --- as a function -------------------------------------------------------------------------------


@pytest.mark.parametrize("block", list(BLOCKS))
@pytest.mark.parametrize("length", LENGTHS)
def test_an_ensemble_is_each_run_alone(block: str, length: int) -> None:
    models = [make(block, seed) for seed in range(3)]
    batches = torch.stack([tokens(length, seed) for seed in range(3)])
    together = Ensemble(models)
    found = together(batches, last_token_only=True)
    # each run's loss depends on its own parameters only, so the sum has each run's gradient
    found.square().mean((1, 2)).sum().backward()
    grads = {name: p.grad for name, p in together.stacked.named_parameters()}
    for run, model in enumerate(models):
        alone = model(batches[run], last_token_only=True)
        torch.testing.assert_close(found[run], alone, rtol=1e-9, atol=1e-11)
        alone.square().mean().backward()
        for name, parameter in model.named_parameters():
            stacked = grads[name]
            assert stacked is not None and parameter.grad is not None
            torch.testing.assert_close(stacked[run], parameter.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("length", LENGTHS)
def test_compiles_whole_with_gradients(length: int) -> None:
    torch.compiler.reset()
    model, x = make(), tokens(length)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = []
    for run in (compiled, model):
        model.zero_grad()
        logits = run(x)
        logits.square().mean().backward()
        found.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])  # type: ignore[union-attr]
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-11)


# --- start and config ----------------------------------------------------------------------------


def started(block: Mamba3Config, **start: Any) -> LanguageModel:
    config = LanguageModelConfig(
        50, 4, (block,), initialisation=InitialisationConfig(**start), tie_embeddings=True
    )
    return build_language_model(config, seed=0)


@pytest.mark.parametrize("gamma", [None, 1.0])
def test_it_starts_officially(gamma: float | None) -> None:
    model = started(Mamba3Config(64, d_state=32, headdim=2), gamma=gamma, scope=("linear",))
    dt = torch.cat([softplus(layer.mixer.dt_bias) for layer in model.layers]).detach()
    assert dt.min() >= 0.999e-3 and dt.max() <= 0.1001
    # log-uniform: the median lies near the geometric middle, not near the arithmetic one
    assert 0.5 < float(dt.median()) / 0.01 < 2
    for name, parameter in model.layers[2].mixer.named_parameters():
        spared = getattr(parameter, "_no_weight_decay", False)
        assert spared == (name in ("D", "dt_bias")), name
        if name not in ("dt_bias", "in_proj.weight", "out_proj.weight"):
            assert torch.equal(parameter, torch.ones_like(parameter)), name
    mixer = mixer_of(model, 2)
    for weight, fan, scale in ((mixer.in_proj.weight, 64, 1.0), (mixer.out_proj.weight, 128, 0.5)):
        # U(-1/sqrt(fan), 1/sqrt(fan)) has deviation 1/sqrt(3 fan); out is divided by sqrt(layers)
        expected = (3 * fan) ** -0.5 * scale if gamma is None else fan**-gamma
        assert float(weight.detach().std()) == pytest.approx(expected, rel=0.05)


def test_zero_biases_zero_every_bias_and_only_biases() -> None:
    for name, parameter in started(SMALL, zero_biases=True).named_parameters():
        assert parameter.any() != name.endswith("bias"), name


def test_configs_are_named_in_records() -> None:
    config = LanguageModelConfig(30, 2, (SMALL, Mamba1Config(16)))
    assert to_dict(config)["pattern"][0]["kind"] == "mamba3"
    again = from_dict(LanguageModelConfig, to_dict(config))
    assert again == config and canonical_json(to_dict(again)) == canonical_json(to_dict(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 0}, "Mamba3Config.d_model is 0, allowed: at least 1"),
        ({"headdim": 48}, "headdim is 48, allowed: a divisor of d_inner 64"),
        ({"headdim": 16, "n_groups": 3}, "n_groups is 3, allowed: a divisor of n_heads 4"),
        ({"rope_fraction": 0.25}, "rope_fraction is 0.25, allowed: 0.5, 1.0"),
        ({"d_state": 3}, "d_state is 3, allowed: at least 4"),
        ({"d_state": 1, "rope_fraction": 1.0}, "d_state is 1, allowed: at least 2"),
        ({"dt_min": 0.2}, "dt_max is 0.1, allowed: at least dt_min 0.2"),
        ({"A_floor": 0.0}, "A_floor is 0.0, allowed: more than 0"),
        ({"chunk_size": 0}, "chunk_size is 0, allowed: at least 1"),
    ],
)
def test_bad_configs_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mamba3Config(**{"d_model": 32, **change})
