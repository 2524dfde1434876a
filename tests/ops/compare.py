"""How the tests of ops compare: one table of tolerances, one assertion that says how far off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# allowed relative error (norm of the difference over norm of the expected) of values and of
# gradients, against float64. float64: rounding of sums of up to 1,000 terms. float32: the same,
# with cancellation in gradients. bfloat16: inputs and outputs have 8 bits, sums are in float32.
TOLERANCE = {
    torch.float64: (1e-12, 1e-11),
    torch.float32: (3e-6, 3e-5),
    torch.bfloat16: (6e-3, 1.2e-2),
}

Inputs = dict[str, Tensor]


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Inputs:
    """Normal numbers in float64 that bfloat16 can hold, so that all dtypes see the same inputs."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(*shape, generator=generator).bfloat16().double()
        for name, shape in shapes.items()
    }


def assert_close(actual: Tensor, expected: Tensor, allowed: float, what: str = "value") -> None:
    """Fail with shapes, largest absolute error and relative error unless within `allowed`."""
    assert actual.shape == expected.shape, f"{what}: {actual.shape}, expected {expected.shape}"
    a, e = actual.detach().double().cpu(), expected.detach().double().cpu()
    largest = (a - e).abs().max().item() if a.numel() else 0.0
    # an expected zero (a gradient at length 1, say) must be found as zero up to rounding
    relative = ((a - e).norm() / e.norm().clamp(min=1e-6)).item()
    message = f"{what}: max abs error {largest:.3g}, relative {relative:.3g} > {allowed:.3g}"
    assert relative <= allowed, message


def flatten(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def gradients(run: Callable[..., Any], inputs: Inputs) -> tuple[tuple[Tensor, ...], Inputs]:
    """Outputs of `run`, and gradients of a fixed random weighting of all of them."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in inputs.items()}
    outputs = flatten(run(**leaves))
    generator = torch.Generator().manual_seed(99)
    loss = sum(
        (o * torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o)).sum()
        for o in outputs
    )
    grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)  # type: ignore[arg-type]
    return outputs, dict(zip(leaves, grads, strict=True))


def assert_same(
    fast: Callable[..., Any],
    exact: Callable[..., Any],
    inputs: Inputs,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> None:
    """Values and all gradients of `fast` in `dtype` equal those of `exact` in float64."""
    value_tolerance, grad_tolerance = TOLERANCE[dtype]
    expected, expected_grads = gradients(exact, inputs)
    cast = {name: t.to(device, dtype) for name, t in inputs.items()}
    actual, actual_grads = gradients(fast, cast)
    assert len(actual) == len(expected)
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert_close(a, e, value_tolerance, f"output {i}")
    for name, grad in actual_grads.items():
        assert grad.dtype == dtype
        assert_close(grad, expected_grads[name], grad_tolerance, f"gradient of {name}")
