"""Mamba-2's state-space dual: its three forms are one function, and equal to other code's."""

from __future__ import annotations

import dataclasses
import sys
import types
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lib.ops import backends
from lib.ops.ssd import apply_ssd_matrix, finish, ssd, ssd_matrix, ssd_step
from tests.ops.compare import TOLERANCE, Inputs, assert_close, assert_same, draw, gradients

LENGTHS = (1, 2, 3, 7, 8, 127, 128, 129, 1000)
BATCH, HEADS, HEADDIM, STATES, GROUPS = 2, 4, 3, 5, 2
OVER_TIME = ("x", "dt", "B", "C", "z")
FULL = {"dt_softplus": True, "return_last_state": True}
reference = partial(ssd, backend="reference")


def ssd_inputs(
    length: int, groups: int = GROUPS, b: int = BATCH, seed: int = 0, p: int = HEADDIM,
    n: int = STATES,
) -> Inputs:  # fmt: skip
    """All inputs of ssd."""
    h = HEADS
    inputs = draw(
        {"x": (b, length, h, p), "dt": (b, length, h), "A": (h,), "B": (b, length, groups, n),
         "C": (b, length, groups, n), "D": (h,), "z": (b, length, h, p), "dt_bias": (h,),
         "initial_state": (b, h, p, n)}, seed,
    )  # fmt: skip
    inputs["A"] = -inputs["A"].abs() - 0.125
    return inputs


def by_definition(t: Inputs) -> tuple[Tensor, Tensor]:
    """The recurrence, a head at a time."""
    a = {name: tensor.numpy() for name, tensor in t.items()}
    b, length, heads, p = a["x"].shape
    y, state = np.zeros((b, length, heads, p)), a["initial_state"].copy()
    for i in range(b):
        for time in range(length):
            for j in range(heads):
                group = j // (heads // a["B"].shape[2])
                step = np.log1p(np.exp(a["dt"][i, time, j] + a["dt_bias"][j]))
                x, z = a["x"][i, time, j], a["z"][i, time, j]
                state[i, j] *= np.exp(step * a["A"][j])
                state[i, j] += step * np.outer(x, a["B"][i, time, group])
                y[i, time, j] = state[i, j] @ a["C"][i, time, group] + a["D"][j] * x
                y[i, time, j] *= z / (1 + np.exp(-z))
    return torch.from_numpy(y), torch.from_numpy(state)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_reference_is_the_definition(groups: int) -> None:
    inputs = ssd_inputs(5, groups)
    for actual, expected in zip(reference(**inputs, **FULL), by_definition(inputs), strict=True):
        assert_close(actual, expected, 1e-13)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("backend", ["quadratic", "chunked"])
def test_fast_forms_equal_the_reference(backend: str, length: int, dtype: torch.dtype) -> None:
    if backend == "quadratic" and length > 500:
        length = 300  # made for short sequences
    run = partial(ssd, backend=backend, chunk_size=32, **FULL)
    assert_same(run, partial(reference, **FULL), ssd_inputs(length), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_reference_in_low_precision(dtype: torch.dtype) -> None:
    assert_same(partial(reference, **FULL), partial(reference, **FULL), ssd_inputs(33), dtype)


@given(length=st.integers(1, 40), chunk_size=st.integers(1, 50))
def test_any_chunk_size(length: int, chunk_size: int) -> None:
    inputs = ssd_inputs(length)
    expected = reference(**inputs, **FULL)
    actual = ssd(**inputs, **FULL, chunk_size=chunk_size, backend="chunked")
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, 1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("backend", ["quadratic", "chunked"])
def test_heads_share_groups(backend: str, groups: int) -> None:
    run = partial(ssd, backend=backend, chunk_size=4, **FULL)
    assert_same(run, partial(reference, **FULL), ssd_inputs(10, groups))


@pytest.mark.parametrize("optional", ["D", "z", "dt_bias", "initial_state", "all"])
@pytest.mark.parametrize("backend", ["quadratic", "chunked"])
def test_optional_inputs_may_be_left_out(backend: str, optional: str) -> None:
    inputs = ssd_inputs(10)
    for name in ("D", "z", "dt_bias", "initial_state"):
        if optional in (name, "all"):
            del inputs[name]
    for softplus in (False, True):
        run = {"dt_softplus": softplus}
        fast = partial(ssd, backend=backend, chunk_size=4, **run)
        assert_same(fast, partial(reference, **run), inputs)


def test_D_may_differ_within_a_head() -> None:
    inputs = ssd_inputs(6)
    wide = {**inputs, "D": inputs["D"][:, None].expand(HEADS, HEADDIM).clone()}
    assert_close(ssd(**wide), ssd(**inputs), 1e-15)
    wide["D"][:, 0] += 1.0
    gain = ssd(**wide) - ssd(**inputs)
    assert_close(gain[..., 0], (inputs["x"] * F.silu(inputs["z"]))[..., 0], 1e-13)
    assert gain[..., 1:].abs().max() == 0.0


@pytest.mark.parametrize("backend", ["reference", "quadratic", "chunked"])
def test_gradients_are_derivatives(backend: str) -> None:
    inputs = {name: t.requires_grad_() for name, t in ssd_inputs(5, b=1).items()}

    def run(*tensors: Tensor) -> Any:
        named = dict(zip(inputs, tensors, strict=True))
        return ssd(**named, **FULL, chunk_size=2, backend=backend)

    assert torch.autograd.gradcheck(run, tuple(inputs.values()))


@pytest.mark.parametrize("backend", ["reference", "quadratic", "chunked"])
@given(cut=st.integers(1, 19))
def test_split_in_two_is_the_whole(backend: str, cut: int) -> None:
    inputs = ssd_inputs(20)
    run = partial(ssd, backend=backend, chunk_size=6, **FULL)
    y, last = run(**inputs)
    first = {k: v[:, :cut] if k in OVER_TIME else v for k, v in inputs.items()}
    second = {k: v[:, cut:] if k in OVER_TIME else v for k, v in inputs.items()}
    y_first, middle = run(**first)
    y_second, end = run(**{**second, "initial_state": middle})
    assert_close(torch.cat([y_first, y_second], dim=1), y, 1e-13)
    assert_close(end, last, 1e-13)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_steps_are_the_whole(groups: int, dtype: torch.dtype) -> None:
    exact = ssd_inputs(12, groups)
    y, last = reference(**exact, **FULL)
    t = {name: tensor.to(dtype) for name, tensor in exact.items()}
    state = exact["initial_state"].to(torch.float64 if dtype == torch.float64 else torch.float32)
    out = []
    for i in range(12):
        at = {name: t[name][:, i] for name in OVER_TIME}
        y_i, state = ssd_step(
            state, **at, A=t["A"], D=t["D"], dt_bias=t["dt_bias"], dt_softplus=True
        )
        assert y_i.dtype == dtype
        out.append(y_i)
    assert_close(torch.stack(out, dim=1), y, TOLERANCE[dtype][0])
    assert_close(state, last, TOLERANCE[dtype][0])


@pytest.mark.parametrize("backend", ["reference", "quadratic", "chunked"])
@given(moment=st.integers(0, 29))
def test_the_future_does_not_reach_the_past(backend: str, moment: int) -> None:
    inputs = ssd_inputs(30)
    changed = dict(inputs)
    for name in OVER_TIME:
        changed[name] = inputs[name].clone()
        changed[name][:, moment] += 1.0
    run = partial(ssd, dt_softplus=True, backend=backend, chunk_size=8)
    before, after = run(**inputs), run(**changed)
    # not bit by bit: sums over a chunk contain zeros times what is to come
    assert_close(after[:, :moment], before[:, :moment], 1e-14)
    assert not torch.allclose(before[:, moment], after[:, moment])


def test_padding_on_the_right_changes_nothing_before_it() -> None:
    inputs = ssd_inputs(40)
    padded = dict(inputs)
    for name in OVER_TIME:
        padded[name] = torch.cat([inputs[name], torch.ones_like(inputs[name])], dim=1)
    for backend in ("reference", "quadratic", "chunked"):
        run = partial(ssd, dt_softplus=True, backend=backend, chunk_size=16)
        assert_close(run(**padded)[:, :40], run(**inputs), 1e-14)


@pytest.mark.parametrize("backend", ["reference", "quadratic", "chunked"])
@pytest.mark.parametrize("exponent", [-1000.0, -1e-6, 0.0])
def test_extreme_decays_stay_finite(backend: str, exponent: float) -> None:
    inputs = {k: v.float() for k, v in ssd_inputs(50, HEADS).items()}
    inputs["A"] = torch.full_like(inputs["A"], exponent)
    inputs["dt"] = torch.ones_like(inputs["dt"])
    del inputs["dt_bias"]
    leaves = {k: v.requires_grad_() for k, v in inputs.items()}
    outputs = ssd(**leaves, return_last_state=True, backend=backend, chunk_size=16)
    sum(o.sum() for o in outputs).backward()
    assert all(o.isfinite().all() for o in outputs)
    assert all(v.grad is not None and v.grad.isfinite().all() for v in leaves.values())
    if exponent == -1000.0:  # nothing of the past is left: each output is its own input's
        own = (inputs["B"] * inputs["C"]).sum(-1, keepdim=True) * inputs["x"]
        assert_close(outputs[0], finish(own, inputs["x"], inputs["D"], inputs["z"]), 1e-6)


@pytest.mark.parametrize("backend", ["quadratic", "chunked"])
def test_slow_decay_after_a_strong_one_is_exact(backend: str) -> None:
    """A difference of two cumulative sums in float32 would be off by one part in 10,000 here."""
    inputs = ssd_inputs(32)
    inputs["dt"] = torch.full_like(inputs["dt"], 2.0**-10)
    inputs["dt"][:, :4] = 1000.0
    inputs["A"] = -torch.ones_like(inputs["A"])
    del inputs["dt_bias"]
    run = partial(ssd, backend=backend, chunk_size=32, return_last_state=True)
    assert_same(run, partial(reference, return_last_state=True), inputs, torch.float32)


def test_the_matrix_entry_by_entry() -> None:
    t = ssd_inputs(6)
    S = ssd_matrix(t["dt"], t["A"], t["B"], t["C"], t["dt_bias"], dt_softplus=True)
    step = F.softplus(t["dt"] + t["dt_bias"])
    assert S.shape == (BATCH, HEADS, 6, 6)
    for h in range(HEADS):
        group = h // (HEADS // GROUPS)
        for i in range(6):
            for j in range(6):
                decay = torch.exp(t["A"][h] * step[:, j + 1 : i + 1, h].sum(1))
                entry = decay * (t["C"][:, i, group] * t["B"][:, j, group]).sum(-1)
                assert_close(S[:, h, i, j], entry if i >= j else torch.zeros(BATCH), 1e-13)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_matrix_applied_is_ssd(dtype: torch.dtype) -> None:
    t = {name: tensor.to(dtype) for name, tensor in ssd_inputs(9).items()}
    del t["initial_state"]
    S = ssd_matrix(t["dt"], t["A"], t["B"], t["C"], t["dt_bias"], dt_softplus=True)
    wide = S.dtype
    assert wide == (torch.float64 if dtype == torch.float64 else torch.float32)
    step = F.softplus(t["dt"].to(wide) + t["dt_bias"].to(wide))
    y = finish(apply_ssd_matrix(S, t["x"], step), t["x"].to(wide), t["D"], t["z"]).to(dtype)
    assert torch.equal(y, ssd(**t, dt_softplus=True, backend="quadratic"))
    with pytest.raises(ValueError, match=r"^x has shape .*allowed"):
        apply_ssd_matrix(S, t["x"][:, :4], step)
    with pytest.raises(ValueError, match=r"^B has shape .*allowed"):
        ssd_matrix(t["dt"], t["A"], t["B"][:, :4], t["C"])


def test_dtypes_of_results() -> None:
    for dtype in TOLERANCE:
        inputs = {name: t.to(dtype) for name, t in ssd_inputs(4).items()}
        for backend in ("reference", "quadratic", "chunked"):
            y, last = ssd(**inputs, return_last_state=True, backend=backend)
            assert y.dtype == dtype
            assert last.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    mixed = {**inputs, "dt": inputs["dt"].float(), "A": inputs["A"].double(), "D": inputs["D"]}
    for backend in ("reference", "quadratic", "chunked"):
        assert ssd(**mixed, backend=backend).dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["reference", "quadratic", "chunked"])
@pytest.mark.parametrize("groups", [1, 2])
def test_vmap_over_runs_is_a_loop_over_runs(backend: str, groups: int) -> None:
    runs = [ssd_inputs(9, groups, seed=seed) for seed in range(3)]

    def loss(t: Inputs) -> Tensor:
        y, last = ssd(**t, **FULL, chunk_size=4, backend=backend)
        return y.square().sum() + last.square().sum()

    stacked = {name: torch.stack([run[name] for run in runs]) for name in runs[0]}
    values = torch.vmap(loss)(stacked)
    grads = torch.vmap(torch.func.grad(loss))(stacked)
    for i, run in enumerate(runs):
        assert_close(values[i], loss(run), 1e-13)
        for name, expected in torch.func.grad(loss)(run).items():
            assert_close(grads[name][i], expected, 1e-12, name)


@pytest.mark.parametrize("backend", ["quadratic", "chunked"])
def test_compiles_without_graph_breaks(backend: str) -> None:
    torch.compiler.reset()
    run = partial(ssd, backend=backend, chunk_size=4, **FULL)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_same(compiled, partial(reference, **FULL), ssd_inputs(9))


def test_auto_takes_the_matrix_for_one_chunk_and_chunks_beyond() -> None:
    with backends.recording() as used:
        ssd(**ssd_inputs(16), chunk_size=16)
    assert used == {"ssd": ["quadratic"]}
    with backends.recording() as used:
        ssd(**ssd_inputs(17), chunk_size=16)
    assert used == {"ssd": ["chunked"]}
    with pytest.raises(ValueError, match="allowed: auto, reference, quadratic, chunked"):
        ssd(**ssd_inputs(3), backend="fast")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x", (2, 8, 12)), ("x", (2, 0, 4, 3)), ("dt", (2, 8, 3)), ("A", (4, 5)), ("A", (3,)),
     ("B", (2, 7, 2, 5)), ("B", (2, 8, 3, 5)), ("B", (2, 8, 0, 5)), ("C", (2, 8, 1, 5)),
     ("C", (2, 8, 2, 4)), ("D", (3,)), ("D", (4, 2)), ("z", (2, 8, 4, 1)), ("dt_bias", (1,)),
     ("initial_state", (2, 4, 5, 3))],
)  # fmt: skip
def test_bad_shapes_are_named(name: str, shape: tuple[int, ...]) -> None:
    inputs = ssd_inputs(8)
    inputs[name] = torch.zeros(shape)
    # C is checked against B, so a wrong group count of B shows as B's or as C's
    with pytest.raises(ValueError, match=rf"^{'[BC]' if name == 'B' else name} has .*allowed"):
        ssd(**inputs)


def test_other_bad_arguments_are_named() -> None:
    inputs = ssd_inputs(8)
    with pytest.raises(ValueError, match=r"^chunk_size is 0, allowed: at least 1"):
        ssd(**inputs, chunk_size=0)
    with pytest.raises(ValueError, match=r"^A is torch.complex128, allowed: real"):
        ssd(**{**inputs, "A": inputs["A"] * 1j})
    one = {name: inputs[name][:, 0] for name in OVER_TIME}
    with pytest.raises(ValueError, match=r"^state has shape"):
        ssd_step(inputs["initial_state"][:1], **one, A=inputs["A"])


# --- other implementations -----------------------------------------------------------------------


@pytest.mark.parametrize("length", [5, 8, 21])
def test_equals_transformers(length: int) -> None:
    """The scan inside transformers' Mamba-2 mixer: what its projections and norm leave of it."""
    modeling = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    from transformers import Mamba2Config

    torch.manual_seed(0)
    h, p, n, g = 4, 8, 6, 2
    config = Mamba2Config(
        hidden_size=16, num_heads=h, head_dim=p, state_size=n, n_groups=g, expand=2,
        chunk_size=8, conv_kernel=4, num_hidden_layers=1, vocab_size=7,
    )  # fmt: skip
    mixer = modeling.Mamba2Mixer(config, layer_idx=0).eval()
    torch.nn.init.normal_(mixer.dt_bias)
    torch.nn.init.normal_(mixer.D)
    hidden = torch.randn(2, length, 16)
    with torch.no_grad():
        expected = mixer(hidden)
        z, xBC, dt = mixer.in_proj(hidden).split([h * p, h * p + 2 * g * n, h], dim=-1)
        taps = mixer.conv1d(xBC.transpose(1, 2))[..., :length].transpose(1, 2)
        x, B, C = F.silu(taps).split([h * p, g * n, g * n], dim=-1)
        for backend in ("reference", "quadratic", "chunked"):
            y = ssd(
                x.unflatten(-1, (h, p)), dt, -torch.exp(mixer.A_log), B.unflatten(-1, (g, n)),
                C.unflatten(-1, (g, n)), mixer.D, dt_bias=mixer.dt_bias, dt_softplus=True,
                chunk_size=8, backend=backend,
            )  # fmt: skip
            assert_close(mixer.out_proj(mixer.norm(y.flatten(-2), z)), expected, 1e-5, backend)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", [1, 8, 129, 300])
@pytest.mark.parametrize("backend", ["reference", "quadratic", "chunked"])
def test_on_the_gpu(backend: str, length: int, dtype: torch.dtype) -> None:
    run = partial(ssd, backend=backend, chunk_size=32, **FULL)
    assert_same(run, partial(reference, **FULL), ssd_inputs(length), dtype, "cuda")


def test_mamba_ssm_is_called_in_its_own_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for its kernels: half precision stays, step sizes and states are float32."""
    seen: list[Any] = []

    def mamba_chunk_scan_combined(*given: Any, **rest: Any) -> Any:
        seen.append((given, rest))
        *tensors, size = given
        state, wanted = rest["initial_states"], rest["return_final_states"]
        return ssd(
            *tensors, initial_state=state, return_last_state=wanted, chunk_size=size,
            backend="reference",
        )  # fmt: skip

    module = types.ModuleType("mamba_ssm.ops.triton.ssd_combined")
    module.mamba_chunk_scan_combined = mamba_chunk_scan_combined  # type: ignore[attr-defined]
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    registered = backends._OPS["ssd"]
    there = dataclasses.replace(registered["mamba_ssm"], missing=lambda device: None)
    monkeypatch.setitem(registered, "mamba_ssm", there)
    inputs = {name: t.bfloat16() for name, t in ssd_inputs(40).items()}
    inputs["A"] = inputs["A"].float()
    run = partial(ssd, chunk_size=16, **FULL)
    (y, last), (expected, state) = run(**inputs, backend="mamba_ssm"), run(**inputs)
    assert y.dtype == torch.bfloat16 and last.dtype == torch.float32
    assert_close(y, expected, 1e-2)
    assert_close(last, state, 1e-5)
    ((x, dt, A, B, C, size), rest) = seen[0]
    assert {t.dtype for t in (x, B, C)} == {torch.bfloat16} and size == 16
    assert {t.dtype for t in (dt, A, rest["initial_states"])} == {torch.float32}
    assert (dt > 0).all()  # after bias and softplus
    with pytest.raises(backends.BackendError, match=r"dtype is torch.float32.*tf32.*'chunked'"):
        run(**{name: t.float() for name, t in inputs.items()}, backend="mamba_ssm")
    with pytest.raises(backends.BackendError, match=r"chunk_size is 24, allowed: a power of two"):
        ssd(**inputs, **FULL, chunk_size=24, backend="mamba_ssm")


def test_auto_never_takes_mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "mamba_ssm_error", lambda: None)  # as if it were installed
    facts = {"device": torch.device("cuda"), "chunk_size": 64, "dtype": torch.bfloat16}
    assert backends.resolve("ssd", "mamba_ssm", length=512, **facts) == "mamba_ssm"
    assert backends.resolve("ssd", "auto", length=512, **facts) == "chunked"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("length", [16, 129, 512])
def test_mamba_ssm_on_the_gpu(length: int) -> None:
    missing = backends.missing("ssd", "mamba_ssm", torch.device("cuda"))
    if missing:
        pytest.skip(missing)
    inputs = {name: t.cuda().bfloat16() for name, t in ssd_inputs(length, p=64, n=64).items()}
    wide = {name: t.float() for name, t in inputs.items()}
    run = partial(ssd, chunk_size=64, **FULL)
    expected, expected_grads = gradients(partial(run, backend="chunked"), wide)
    outputs, grads = gradients(partial(run, backend="mamba_ssm"), inputs)
    for actual, exact in zip(outputs, expected, strict=True):
        assert_close(actual, exact, 1e-2)
    for name, grad in grads.items():
        assert_close(grad, expected_grads[name], 3e-2, name)


@pytest.mark.parametrize("length", [12, 13, 37, 60, 200])
def test_many_chunks_pass_the_state_on_in_groups(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of 4 chunks of 3: whole ones, broken ones, and groups of groups."""
    monkeypatch.setattr("lib.ops.ssd.GROUP", 4)
    inputs = ssd_inputs(length)
    for tensor in inputs.values():
        tensor.requires_grad_()
    results = []
    for options in ({"backend": "chunked", "chunk_size": 3}, {"backend": "reference"}):
        y, last = ssd(**inputs, **FULL, **options)
        grads = torch.autograd.grad(y.sin().sum() + last.cos().sum(), list(inputs.values()))
        results.append([y, last, *grads])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-9, atol=1e-11)
