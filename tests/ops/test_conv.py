"""The causal convolution and its state."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lib.ops import backends
from lib.ops.conv import causal_conv1d, causal_conv1d_step
from tests.ops.compare import TOLERANCE, Inputs, assert_close, assert_same, draw

BACKENDS = ("reference", "shifts", "conv1d")
FULL = {"activation": "silu", "return_final_state": True}
reference = partial(causal_conv1d, backend="reference")


def conv_inputs(length: int, taps: int = 4, seed: int = 0) -> Inputs:
    return draw(
        {"x": (2, 5, length), "weight": (5, taps), "bias": (5,), "initial_state": (2, 5, taps - 1)},
        seed,
    )


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_the_reference_is_the_definition(taps: int) -> None:
    t = conv_inputs(6, taps)
    y, final = reference(**t, **FULL)
    before = torch.cat([t["initial_state"], t["x"]], dim=2)
    for b in range(2):
        for d in range(5):
            for time in range(6):
                total = float(t["bias"][d])
                for k in range(taps):  # the last tap meets the present
                    total += float(t["weight"][d, k] * before[b, d, time + k])
                assert y[b, d, time] == pytest.approx(total / (1 + 2.718281828459045**-total))
    assert torch.equal(final, before[:, :, before.shape[2] - (taps - 1) :])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 8, 129])
@pytest.mark.parametrize("backend", BACKENDS)
def test_fast_forms_equal_the_reference(backend: str, length: int, dtype: torch.dtype) -> None:
    run = partial(causal_conv1d, backend=backend, **FULL)
    assert_same(run, partial(reference, **FULL), conv_inputs(length), dtype)


@pytest.mark.parametrize("optional", ["bias", "initial_state", "both"])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_optional_inputs(backend: str, activation: str | None, optional: str) -> None:
    inputs = conv_inputs(7)
    for name in ("bias", "initial_state"):
        if optional in (name, "both"):
            del inputs[name]
    run = partial(causal_conv1d, activation=activation)
    assert_same(partial(run, backend=backend), partial(run, backend="reference"), inputs)
    left = F.pad(inputs["x"], (3, 0))
    if "initial_state" in inputs:
        left[:, :, :3] = inputs["initial_state"]
    library = F.conv1d(left, inputs["weight"][:, None], inputs.get("bias"), groups=5)
    expected = F.silu(library) if activation else library
    assert_close(run(**inputs, backend=backend), expected, 1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_derivatives(backend: str) -> None:
    inputs = [t.requires_grad_() for t in conv_inputs(5).values()]

    def run(*t: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return causal_conv1d(*t[:3], **FULL, initial_state=t[3], backend=backend)

    assert torch.autograd.gradcheck(run, inputs)


@given(length=st.integers(2, 12), taps=st.integers(1, 6), data=st.data())
def test_split_in_two_is_the_whole(length: int, taps: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, length - 1))
    t = conv_inputs(length, taps)
    for backend in BACKENDS:
        run = partial(causal_conv1d, backend=backend, **FULL)
        y, final = run(**t)
        first, state = run(**{**t, "x": t["x"][:, :, :cut]})
        second, end = run(**{**t, "x": t["x"][:, :, cut:], "initial_state": state})
        assert state.shape == (2, 5, taps - 1)
        assert_close(torch.cat([first, second], dim=2), y, 1e-14)
        assert torch.equal(end, final)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("taps", [1, 4])
def test_steps_are_the_whole(taps: int, dtype: torch.dtype) -> None:
    exact = conv_inputs(6, taps)
    y, final = reference(**exact, **FULL)
    t = {name: tensor.to(dtype) for name, tensor in exact.items()}
    state, out = t["initial_state"], []
    for i in range(6):
        y_i, state = causal_conv1d_step(state, t["x"][:, :, i], t["weight"], t["bias"], "silu")
        out.append(y_i)
    assert out[0].dtype == state.dtype == dtype
    assert_close(torch.stack(out, dim=2), y, TOLERANCE[dtype][0])
    assert torch.equal(state.double(), final)


@pytest.mark.parametrize("backend", BACKENDS)
@given(moment=st.integers(0, 19))
def test_the_future_does_not_reach_the_past(backend: str, moment: int) -> None:
    inputs = conv_inputs(20)
    changed = {**inputs, "x": inputs["x"].clone()}
    changed["x"][:, :, moment] += 1.0
    before = causal_conv1d(**inputs, backend=backend)
    after = causal_conv1d(**changed, backend=backend)
    assert torch.equal(before[:, :, :moment], after[:, :, :moment])
    assert torch.equal(before[:, :, moment + 4 :], after[:, :, moment + 4 :])  # nor beyond k steps
    assert not torch.allclose(before[:, :, moment], after[:, :, moment])


@pytest.mark.parametrize("backend", ["shifts", "conv1d"])
def test_compiles_and_maps_over_runs(backend: str) -> None:
    torch.compiler.reset()
    run = partial(causal_conv1d, backend=backend, **FULL)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_same(compiled, partial(reference, **FULL), conv_inputs(7))
    runs = [conv_inputs(7, seed=seed) for seed in range(3)]
    stacked = {name: torch.stack([r[name] for r in runs]) for name in runs[0]}
    together, _ = torch.vmap(lambda t: run(**t))(stacked)
    for i, alone in enumerate(runs):
        assert_close(together[i], run(**alone)[0], 1e-14)


def test_auto_goes_by_length_on_the_processor() -> None:
    for length, expected in ((8, "shifts"), (128, "conv1d")):
        with backends.recording() as used:
            causal_conv1d(torch.ones(1, 2, length), torch.ones(2, 4))
        assert used == {"causal_conv1d": [expected]}


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x", (2, 5)), ("x", (2, 5, 0)), ("weight", (4, 4)), ("weight", (5, 1, 4)), ("weight", (5, 0)),
     ("bias", (4,)), ("initial_state", (2, 5, 4))],
)  # fmt: skip
def test_bad_shapes_are_named(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^{name} has .*allowed"):
        causal_conv1d(**{**conv_inputs(8), name: torch.zeros(shape)})


def test_other_bad_arguments_are_named() -> None:
    t = conv_inputs(8)
    with pytest.raises(ValueError, match=r"^activation is 'relu', allowed: None, 'silu'"):
        causal_conv1d(**t, activation="relu")
    with pytest.raises(ValueError, match="allowed: auto, fused, reference"):
        causal_conv1d(**t, backend="cudnn")
    with pytest.raises(ValueError, match=r"^state has shape"):
        causal_conv1d_step(t["initial_state"][:, :, :2], t["x"][:, :, 0], t["weight"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", [1, 8, 129])
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_the_gpu(
    backend: str, length: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    run = partial(causal_conv1d, backend=backend, **FULL)
    assert_same(run, partial(reference, **FULL), conv_inputs(length), dtype, "cuda")
