"""Mamba-3's scan: its forms are one function, and that function is the paper's recurrence."""

from __future__ import annotations

import cmath
import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lib.ops import backends
from lib.ops.mamba3 import (
    Mamba3State,
    mamba3_scan,
    mamba3_step,
    rotate,
)
from lib.ops.mamba3_matrix import apply_mamba3_matrix, mamba3_matrix
from lib.ops.ssd import finish, ssd
from tests.ops.compare import TOLERANCE, Inputs, assert_close, assert_same, draw

BACKENDS = ("reference", "quadratic", "chunked")
OVER_TIME = ("x", "dt", "A", "trap", "B", "C", "angle")
STATE = ("state_angle", "state_ssm", "state_B", "state_x")
BATCH, HEADS, HEADDIM, STATES, GROUPS, ANGLES = 2, 4, 3, 7, 2, 2


def scan_inputs(
    length: int, groups: int = GROUPS, b: int = BATCH, h: int = HEADS, p: int = HEADDIM,
    n: int = STATES, a: int = ANGLES, seed: int = 0,
) -> Inputs:  # fmt: skip
    """All inputs of mamba3_scan, the parts of the initial state by name."""
    t = draw(
        {"x": (b, length, h, p), "dt": (b, length, h), "A": (b, length, h),
         "trap": (b, length, h), "B": (b, length, groups, n), "C": (b, length, groups, n),
         "angle": (b, length, a), "D": (h,), "B_bias": (h, n), "C_bias": (h, n),
         "state_angle": (b, h, a), "state_ssm": (b, h, p, n), "state_B": (b, h, n),
         "state_x": (b, h, p)}, seed,
    )  # fmt: skip
    # in steps that all dtypes hold exactly
    t["dt"] = (t["dt"].abs() + 0.125).bfloat16().double()
    t["A"] = (-t["A"].abs() - 0.125).bfloat16().double()
    t["trap"] = torch.sigmoid(t["trap"]).bfloat16().double()
    t["state_angle"] = t["state_angle"].abs()
    return t


def scan(backend: str = "reference", chunk_size: int = 64, **t: Any) -> Any:
    """mamba3_scan with its last state, all as a flat tuple: a function of tensors alone."""
    state = Mamba3State(*(t.pop(name) for name in STATE)) if "state_ssm" in t else None
    y, last = mamba3_scan(
        **t, initial_state=state, return_last_state=True, backend=backend, chunk_size=chunk_size
    )
    # an angle near 0 and one near 2 pi are the same angle
    return y, torch.cos(last.angle), torch.sin(last.angle), last.ssm, last.B, last.x


def by_definition(t: Inputs) -> Tensor:
    """y from the paper's equations, in plain complex numbers.

    A pair of real state entries that turns is one complex entry. The state turns at each step,
    B and C never do: h_t = a r (h_{t-1} + (1 - trap) dt B_{t-1} x_{t-1}) + trap dt B_t x_t with
    a = exp(dt A) and r = exp(-i dt angle), and y = Re(conj(C) h).
    """
    b, length, heads, p = t["x"].shape
    g, n = t["B"].shape[2:]
    a = t["angle"].shape[2]

    def entries(vector: list[float]) -> list[complex]:
        pairs = [complex(vector[2 * k], vector[2 * k + 1]) for k in range(a)]
        return pairs + [complex(value) for value in vector[2 * a :]]

    y = torch.zeros_like(t["x"])
    for i in range(b):
        for j in range(heads):
            group = j // (heads // g)
            state = [[0j] * (n - a) for _ in range(p)]
            B_before, x_before = [0j] * (n - a), [0.0] * p
            for time in range(length):
                dt, A, trap = (float(t[name][i, time, j]) for name in ("dt", "A", "trap"))
                rates = [*t["angle"][i, time].tolist(), *[0.0] * (n - 2 * a)]
                B = entries((t["B"][i, time, group] + t["B_bias"][j]).tolist())
                C = entries((t["C"][i, time, group] + t["C_bias"][j]).tolist())
                x = t["x"][i, time, j].tolist()
                for row in range(p):
                    total = 0.0
                    for k, rate in enumerate(rates):
                        turn = math.exp(dt * A) * cmath.exp(-1j * dt * rate)
                        before = state[row][k] + (1 - trap) * dt * B_before[k] * x_before[row]
                        state[row][k] = turn * before + trap * dt * B[k] * x[row]
                        total += (C[k].conjugate() * state[row][k]).real
                    y[i, time, j, row] = total + float(t["D"][j]) * x[row]
                B_before, x_before = B, x
    return y


def without_state(t: Inputs) -> Inputs:
    return {name: tensor for name, tensor in t.items() if name not in STATE}


@pytest.mark.parametrize(("n", "a"), [(4, 1), (4, 2), (7, 3)])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_form_is_the_papers_recurrence(backend: str, groups: int, n: int, a: int) -> None:
    t = without_state(scan_inputs(5, groups, n=n, a=a))
    assert_close(mamba3_scan(**t, backend=backend, chunk_size=2), by_definition(t), 1e-12)


@pytest.mark.parametrize("trap", [0.0, 0.5, 1.0])
def test_two_tokens_by_hand(trap: float) -> None:
    """One head, one channel, one pair: dt 1, A = -log 2, a quarter of a turn a step."""
    one = torch.ones(1, 2, 1, dtype=torch.float64)
    x = torch.tensor([3.0, 5.0], dtype=torch.float64).view(1, 2, 1, 1)
    B = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).view(1, 2, 1, 2)
    C = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64).view(1, 2, 1, 2)
    for backend in BACKENDS:
        y = mamba3_scan(
            x, one, -math.log(2) * one, trap * one, B, C, math.pi / 2 * one, backend=backend
        )
        # x_1 weighs trap at its own step, 1 at the next, halved by then; (1, 0) is turned back by
        # a quarter to (0, -1), of which C_2 = (1, 1) sees -1, and x_2 enters along (0, 1)
        expected = torch.tensor([trap * 3.0, -0.5 * 3.0 + trap * 5.0], dtype=torch.float64)
        torch.testing.assert_close(y.flatten(), expected, rtol=1e-12, atol=1e-12)


def test_without_trapezoid_turning_and_bias_it_is_mamba2() -> None:
    t = scan_inputs(20)
    A = t["A"][:1, :1].expand(BATCH, 20, HEADS)
    y = mamba3_scan(t["x"], t["dt"], A, torch.ones_like(A), t["B"], t["C"], 0 * t["angle"], t["D"])
    expected = ssd(t["x"], t["dt"], A[0, 0], t["B"], t["C"], t["D"], backend="reference")
    assert_close(y, expected, 1e-13)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", [1, 2, 7, 8, 65, 200])
@pytest.mark.parametrize("backend", ["quadratic", "chunked"])
def test_fast_forms_equal_the_reference(backend: str, length: int, dtype: torch.dtype) -> None:
    """Values and the gradients of every input, the initial state included."""
    t = scan_inputs(length)
    if dtype == torch.bfloat16:  # the state comes and goes in float32
        t = without_state(t)
    assert_same(partial(scan, backend, 32), scan, t, dtype)


@given(
    length=st.integers(1, 24), chunk_size=st.integers(1, 30), b=st.integers(1, 3),
    heads=st.sampled_from([(1, 1), (2, 1), (2, 2), (6, 3)]), p=st.integers(1, 4),
    sizes=st.sampled_from([(2, 1), (5, 1), (5, 2), (8, 2), (8, 4)]), stateful=st.booleans(),
    backend=st.sampled_from(["quadratic", "chunked"]),
)  # fmt: skip
def test_any_shape(
    length: int, chunk_size: int, b: int, heads: tuple[int, int], p: int, sizes: tuple[int, int],
    stateful: bool, backend: str,
) -> None:  # fmt: skip
    t = scan_inputs(length, heads[1], b, heads[0], p, *sizes)
    assert_same(partial(scan, backend, chunk_size), scan, t if stateful else without_state(t))


@pytest.mark.parametrize("optional", ["D", "B_bias", "C_bias", "all"])
@pytest.mark.parametrize("backend", ["quadratic", "chunked"])
def test_optional_inputs_may_be_left_out(backend: str, optional: str) -> None:
    t = scan_inputs(10)
    for name in ("D", "B_bias", "C_bias"):
        if optional in (name, "all"):
            del t[name]
    assert_same(partial(scan, backend, 4), scan, t)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_derivatives(backend: str) -> None:
    t = {name: x.requires_grad_() for name, x in scan_inputs(4, b=1, h=2, p=2, n=5).items()}

    def run(*tensors: Tensor) -> Any:
        return scan(backend, 2, **dict(zip(t, tensors, strict=True)))

    assert torch.autograd.gradcheck(run, tuple(t.values()))


@pytest.mark.parametrize("backend", BACKENDS)
@given(cut=st.integers(1, 19))
def test_split_in_two_is_the_whole(backend: str, cut: int) -> None:
    t = without_state(scan_inputs(20))
    run = partial(mamba3_scan, backend=backend, chunk_size=6, return_last_state=True)
    y, last = run(**t)
    first = {k: v[:, :cut] if k in OVER_TIME else v for k, v in t.items()}
    second = {k: v[:, cut:] if k in OVER_TIME else v for k, v in t.items()}
    y_first, middle = run(**first)
    y_second, end = run(**second, initial_state=middle)
    assert_close(torch.cat([y_first, y_second], dim=1), y, 1e-13)
    for found, expected in zip(end, last, strict=True):
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_steps_are_the_whole(groups: int, dtype: torch.dtype) -> None:
    exact = scan_inputs(12, groups)
    expected = scan(**exact)
    t = {name: tensor.to(dtype) for name, tensor in exact.items()}
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    state, out = Mamba3State(*(exact[name].to(wide) for name in STATE)), []
    fixed = {name: t[name] for name in ("D", "B_bias", "C_bias")}
    for i in range(12):
        y_i, state = mamba3_step(state, **{name: t[name][:, i] for name in OVER_TIME}, **fixed)
        assert y_i.dtype == dtype and {part.dtype for part in state} == {wide}
        out.append(y_i)
    assert_close(torch.stack(out, dim=1), expected[0], TOLERANCE[dtype][0])
    assert_close(state.ssm, expected[3], TOLERANCE[dtype][0])
    assert ((state.angle >= 0) & (state.angle < 2 * math.pi)).all()


@pytest.mark.parametrize("backend", BACKENDS)
@given(moment=st.integers(0, 29))
def test_the_future_does_not_reach_the_past(backend: str, moment: int) -> None:
    t = scan_inputs(30)
    changed = dict(t)
    for name in OVER_TIME:
        changed[name] = t[name].clone()
        changed[name][:, moment] += 0.125
    before, after = scan(backend, 8, **t)[0], scan(backend, 8, **changed)[0]
    assert_close(after[:, :moment], before[:, :moment], 1e-14)
    assert not torch.allclose(before[:, moment], after[:, moment])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("exponent", [-1000.0, -1e-6])
def test_extreme_decays_stay_finite(backend: str, exponent: float) -> None:
    t = {k: v.float() for k, v in scan_inputs(50).items()}
    t["A"], t["dt"] = torch.full_like(t["A"], exponent), torch.ones_like(t["dt"])
    leaves = {k: v.requires_grad_() for k, v in t.items()}
    outputs = scan(backend, 16, **leaves)
    sum(o.sum() for o in outputs).backward()
    assert all(o.isfinite().all() for o in outputs)
    assert all(v.grad is not None and v.grad.isfinite().all() for v in leaves.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_turns_keep_their_angle_in_float32(backend: str) -> None:
    """1,000 steps of up to half a turn; sums in float32 would be off by 1e-4 of a radian."""
    t = without_state(scan_inputs(1000, b=1))
    t["angle"] = (3 * torch.tanh(t["angle"])).bfloat16().double()
    exact = scan(**t)
    found = scan(backend, 32, **{k: v.float() for k, v in t.items()})
    assert_close(found[0], exact[0], 3e-6 if backend != "reference" else 3e-5)


def test_the_matrix_entry_by_entry() -> None:
    t = scan_inputs(6)
    given_to = {k: v for k, v in t.items() if k not in ("x", "D", *STATE)}
    S = mamba3_matrix(**given_to)
    dt, A, trap = t["dt"], t["A"], t["trap"]
    assert S.shape == (BATCH, HEADS, 6, 6)
    for h in range(HEADS):
        group = h // (HEADS // GROUPS)
        for i in range(6):
            for j in range(6):
                # turning both by their sums is turning one by the difference
                between = (t["angle"] * dt[..., h, None])[:, j + 1 : i + 1].sum(1)
                C = rotate(t["C"][:, i, group] + t["C_bias"][h], between)
                entry = (C * (t["B"][:, j, group] + t["B_bias"][h])).sum(-1)
                entry = entry * torch.exp((dt * A)[:, j + 1 : i + 1, h].sum(1))
                weight = trap[:, j, h] * dt[:, j, h]
                if i > j:
                    weight = weight + (1 - trap[:, j + 1, h]) * dt[:, j + 1, h]
                expected = entry * weight if i >= j else torch.zeros(BATCH)
                assert_close(S[:, h, i, j], expected, 1e-12)
    y = finish(apply_mamba3_matrix(S, t["x"]), t["x"], t["D"], None)
    assert_close(y, mamba3_scan(**without_state(t)), 1e-14)


def test_dtypes_of_results() -> None:
    for dtype in TOLERANCE:
        t = without_state({name: x.to(dtype) for name, x in scan_inputs(4).items()})
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        for backend in BACKENDS:
            y, *last = scan(backend, **t)
            assert y.dtype == dtype and {part.dtype for part in last} == {wide}
    mixed = {**t, "dt": t["dt"].float(), "A": t["A"].double()}
    assert mamba3_scan(**mixed).dtype == torch.bfloat16


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [1, 2])
def test_vmap_over_runs_is_a_loop_over_runs(backend: str, groups: int) -> None:
    runs = [scan_inputs(9, groups, seed=seed) for seed in range(3)]

    def loss(t: Inputs) -> Tensor:
        return sum(o.square().sum() for o in scan(backend, 4, **t))  # type: ignore[return-value]

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
    compiled = torch.compile(partial(scan, backend, 4), fullgraph=True, backend="aot_eager")
    assert_same(compiled, scan, scan_inputs(9))


def test_auto_takes_the_matrix_for_one_chunk_and_chunks_beyond() -> None:
    for length, expected in ((16, "quadratic"), (17, "chunked")):
        with backends.recording() as used:
            scan("auto", 16, **scan_inputs(length))
        assert used == {"mamba3": [expected]}
    with pytest.raises(ValueError, match="allowed: auto, reference, quadratic, chunked"):
        scan("fast", **scan_inputs(3))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x", (2, 8, 12)), ("x", (2, 0, 4, 3)), ("dt", (2, 8, 3)), ("A", (4,)), ("trap", (2, 8, 1)),
     ("B", (2, 7, 2, 7)), ("B", (2, 8, 3, 7)), ("B", (2, 8, 0, 7)), ("C", (2, 8, 1, 7)),
     ("angle", (2, 8, 4)), ("angle", (2, 8, 0)), ("angle", (2, 8, 4, 2)), ("D", (4, 3)),
     ("B_bias", (4, 1, 7)), ("C_bias", (2, 7)), ("state_ssm", (2, 4, 7, 3)),
     ("state_angle", (2, 4, 1)), ("state_B", (2, 2, 7)), ("state_x", (2, 4, 7))],
)  # fmt: skip
def test_bad_shapes_are_named(name: str, shape: tuple[int, ...]) -> None:
    t = scan_inputs(8)
    t[name] = torch.zeros(shape)
    # C is checked against B, so a wrong group count of B shows as B's or as C's
    shown = "[BC]" if name == "B" else name.replace("state_", "initial_state.")
    with pytest.raises(ValueError, match=rf"^{shown} has .*allowed"):
        scan(**t)


def test_other_bad_arguments_are_named() -> None:
    t = scan_inputs(8)
    with pytest.raises(ValueError, match=r"^chunk_size is 0, allowed: at least 1"):
        scan("chunked", 0, **t)
    with pytest.raises(ValueError, match=r"^A is torch.complex128, allowed: real"):
        scan(**{**t, "A": t["A"] * 1j})
    one = {name: t[name][:, 0] for name in OVER_TIME}
    with pytest.raises(ValueError, match=r"^state.angle has shape"):
        mamba3_step(Mamba3State(*(t[name][:1] for name in STATE)), **one)
