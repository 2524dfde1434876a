"""The linear map by tensor cores, against the product in float64: in the interpreter, and on a GPU
where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.models.layers import Linear
from lib.ops import backends, products
from lib.ops.linear import OP, linear
from lib.training.ensemble import Ensemble
from tests.ops.compare import Inputs, assert_close, gradients

MISSING = backends.triton_missing("cpu")
on_cpu = pytest.mark.skipif(MISSING is not None, reason="needs Triton and its interpreter")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
split = partial(linear, backend="tensor_cores")
# float32's own error is a third of these; one tf32 product's is 3e-4
VALUE, GRADIENT = 1e-6, 3e-6
SMALL = products.Sizes(
    rows=32, columns=16, depth=16, gradient_rows=16, gradient_columns=16, gradient_width=16, lots=3
)


def inputs(rows: int, k: int, n: int, seed: int = 0, runs: int | None = None) -> Inputs:
    """All bits of float32 in use: what tf32 drops counts."""
    draw = torch.Generator().manual_seed(seed)
    front = () if runs is None else (runs,)
    sizes = {"x": (rows, k), "weight": (n, k), "bias": (n,)}
    return {name: torch.randn(*front, *size, generator=draw) for name, size in sizes.items()}


def _mapped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out: Tensor = torch.vmap(split)(x, weight, bias)
    return out


def _library(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out: Tensor = (
        F.linear(x, weight, bias) if x.dim() == 2 else torch.vmap(F.linear)(x, weight, bias)
    )
    return out


def assert_exact(run: Callable[..., Tensor], given: Inputs, device: str = "cpu") -> None:
    """Value and gradients of `run` are F.linear's in float64."""
    (out,), grads = gradients(run, {name: t.to(device) for name, t in given.items()})
    (exact,), slopes = gradients(_library, {name: t.double() for name, t in given.items()})
    assert_close(out, exact, VALUE)
    for name, slope in slopes.items():
        assert_close(grads[name], slope, GRADIENT, name)


@on_cpu
@pytest.mark.parametrize("shape", [(300, 32, 128), (70, 64, 32), (33, 10, 7), (1, 1, 1)])
def test_equals_the_product(shape: tuple[int, int, int]) -> None:
    assert_exact(split, inputs(*shape))


@on_cpu
@given(rows=st.integers(1, 70), k=st.integers(1, 40), n=st.integers(1, 40), lots=st.integers(1, 9))
@settings(max_examples=12, phases=[Phase.generate])
def test_any_shape_in_tiles(rows: int, k: int, n: int, lots: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "SIZES", replace(SMALL, lots=lots))
        assert_exact(split, inputs(rows, k, n))


@on_cpu
def test_no_rows_or_nothing_to_sum_are_no_product() -> None:
    some, none = torch.ones(2, 5, 3), torch.empty(2, 5, 0)
    assert torch.equal(products.forward_op(none, torch.empty(2, 3, 0)), torch.zeros(2, 5, 3))
    for x, dy in ((none, some), (some, none), (some[:0], some[:0]), (some[:, :0], some[:, :0])):
        weight = torch.ones(len(x), dy.shape[2], x.shape[2])
        dx, dweight = products.backward_op(dy, x, weight, True, True)
        assert torch.equal(dx, dy @ weight) and torch.equal(dweight, dy.mT @ x)
    given = inputs(0, 4, 3)
    (out,), grads = gradients(split, given)
    assert out.shape == (0, 3) and not grads["weight"].any() and grads["weight"].shape == (3, 4)


@on_cpu
def test_more_axes_and_rows_with_gaps() -> None:
    wide = inputs(60, 40, 9)
    leaf = wide["x"].requires_grad_()
    cut = leaf.unflatten(0, (6, 10))[..., 5:37]
    weight = torch.randn(9, 32, generator=torch.Generator().manual_seed(1))
    out = split(cut, weight)
    assert_close(out, cut.double() @ weight.double().t(), VALUE)
    across = leaf.unflatten(0, (6, 10)).transpose(0, 1)
    assert_close(
        split(across, wide["weight"]), across.double() @ wide["weight"].double().t(), VALUE
    )
    out.sum().backward()
    assert leaf.grad is not None and not leaf.grad[:, :5].any()
    assert_close(leaf.grad[:, 5:37], weight.double().sum(0).expand(60, -1), GRADIENT)


@on_cpu
def test_vmap_over_runs_is_a_product_for_each() -> None:
    assert_exact(_mapped, inputs(50, 12, 20, runs=3))
    # a weight that all runs share, and runs behind the rows
    x, weight = inputs(50, 12, 20, runs=3)["x"], inputs(50, 12, 20)["weight"]
    shared = torch.vmap(lambda x: split(x, weight))(x)
    assert_close(shared, x.double() @ weight.double().t(), VALUE)
    behind = torch.vmap(split, in_dims=(1, None), out_dims=1)(x.transpose(0, 1), weight)
    assert_close(behind, shared.transpose(0, 1), 1e-7)


@on_cpu
def test_results_are_equal_from_call_to_call_and_runs_do_not_mix() -> None:
    given = inputs(200, 12, 20, runs=3)
    first, second = (gradients(_mapped, given) for _ in range(2))
    assert torch.equal(first[0][0], second[0][0])
    assert all(torch.equal(first[1][name], second[1][name]) for name in given)
    spoilt = {name: t.clone() for name, t in given.items()}
    spoilt["x"][1] = torch.nan
    (out,), grads = gradients(_mapped, spoilt)
    for run in (0, 2):
        assert torch.equal(out[run], first[0][0][run])
        assert torch.equal(grads["weight"][run], first[1]["weight"][run])


@on_cpu
def test_what_nobody_wants_is_not_made() -> None:
    given = inputs(40, 8, 6)
    for name in ("x", "weight"):
        leaves = {key: t.clone().requires_grad_(key == name) for key, t in given.items()}
        split(leaves["x"], leaves["weight"]).sum().backward()
        assert {key for key, t in leaves.items() if t.grad is not None} == {name}


@on_cpu
def test_the_ops_keep_the_rules_of_custom_ops() -> None:
    x, weight, _ = (t[None] for t in inputs(40, 8, 6).values())
    torch.library.opcheck(products.forward_op, (x, weight))
    torch.library.opcheck(products.forward_op, (x.requires_grad_(), weight.requires_grad_()))


@on_cpu
def test_compiled_it_is_the_same() -> None:
    given = inputs(40, 8, 6, runs=2)
    compiled = torch.compile(_mapped, backend="aot_eager", fullgraph=True)
    plain, fast = gradients(_mapped, given), gradients(compiled, given)
    assert torch.equal(plain[0][0], fast[0][0])
    assert all(torch.equal(plain[1][name], fast[1][name]) for name in given)


@on_cpu
def test_auto_takes_it_where_it_is_preferred_alone() -> None:
    models = [Linear(8, 6, bias=False) for _ in range(2)]
    x = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
    ensemble = Ensemble(models)
    with backends.recording() as used:
        plain = ensemble(x)
    assert OP not in used
    with backends.recording() as used, backends.preferring(OP, "tensor_cores"):
        fast = ensemble(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert ensemble(x).dtype == torch.bfloat16
    assert used == {OP: ["tensor_cores"]}
    assert_close(fast, plain, VALUE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.float64}, "dtype is torch.float64, allowed: torch.float32; use reference"),
        ({"weight": torch.float16}, "weight_dtype is torch.float16, allowed: torch.float32"),
    ],
)
def test_what_it_cannot_do_it_says(
    change: dict[str, torch.dtype], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = replace(backends._OPS[OP]["tensor_cores"], missing=backends.never)
    monkeypatch.setitem(backends._OPS[OP], "tensor_cores", there)
    given = inputs(4, 3, 2)
    given.update({name: given[name].to(dtype) for name, dtype in change.items()})
    with pytest.raises(backends.BackendError, match=message):
        split(given["x"], given["weight"])
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(backends.BackendError, match="autocast wants products in half precision"),
    ):
        split(*(inputs(4, 3, 2)[name] for name in ("x", "weight")))


def test_a_name_that_is_none_is_refused() -> None:
    given = inputs(4, 3, 2)
    with pytest.raises(ValueError, match="backend of linear is 'abacus', allowed: auto, tensor"):
        linear(given["x"], given["weight"], backend="abacus")


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(
    "shape",
    [(16384, 32, 128), (16384, 64, 32), (4100, 128, 512), (4100, 512, 128), (2048, 32, 201)],
)
def test_on_a_gpu_it_has_the_accuracy_of_float32(shape: tuple[int, int, int]) -> None:
    assert_exact(_mapped, inputs(*shape, runs=3), "cuda")
