"""One Mamba-2 layer, or an ensemble of them: the fused block against the plain one, compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from lib.bench.compare import compare
from lib.bench.config import BlockBench
from lib.bench.measure import Contestant
from lib.bench.works import mamba2_work
from lib.experiments import Outcome
from lib.models.config import LanguageModelConfig, Mamba2Config
from lib.models.language_model import Layer, build_language_model
from lib.ops import backends
from lib.ops.block import OP

TOLERANCE = 1e-3
Weights = dict[str, Tensor]


def run(bench: BlockBench) -> Outcome:
    """Time a layer by each backend on one shape."""
    torch._dynamo.reset()  # shapes of earlier benchmarks count towards its limit of versions
    sets = [inputs(bench, index) for index in range(bench.input_sets)]
    builders: dict[str, Callable[[], Contestant]] = {
        "fused": lambda: _fused(bench, sets),
        "compiled": lambda: _plain(bench, sets, compiled=True),
        "eager": lambda: _plain(bench, sets, compiled=False),
    }
    on_gpu = bench.device == "cuda"
    if not on_gpu:
        del builders["compiled"]
    work = bench.runs * mamba2_work(
        block_config(bench), bench.batch, bench.length, bench.direction == "both"
    )
    return compare(
        bench, builders, ours="fused" if on_gpu else "eager", work=work, tolerance=TOLERANCE, op=OP
    )


def block_config(bench: BlockBench) -> Mamba2Config:
    """The block that is measured."""
    return Mamba2Config(d_model=bench.d_model, d_state=bench.d_state, headdim=bench.headdim)


def layer_of(bench: BlockBench, backend: str, seed: int = 0) -> Layer:
    """A layer with its norm, on the benchmark's device."""
    config = LanguageModelConfig(8, 1, (block_config(bench),))
    model = build_language_model(config, seed=seed, device=bench.device, backend=backend)
    return model.layers[0]  # type: ignore[return-value]


def inputs(bench: BlockBench, index: int) -> dict[str, Any]:
    """One set: x, the output's gradient and the weights, each (runs, ...) if there are several."""
    generator = torch.Generator(bench.device).manual_seed(1000 * bench.seed + index)
    shape = (bench.runs, bench.batch, bench.length, bench.d_model)
    x, out_grad = (
        torch.randn(shape, generator=generator, device=bench.device) for _ in range(2)
    )  # fmt: skip
    each = [
        dict(layer_of(bench, "quadratic", seed=run).named_parameters()) for run in range(bench.runs)
    ]
    weights = {
        name: torch.stack([own[name].detach() for own in each]) for name in each[0]
    }  # fmt: skip
    if bench.runs == 1:
        x, out_grad = x[0], out_grad[0]
        weights = {name: weight[0] for name, weight in weights.items()}
    wanted = bench.direction == "both"
    return {
        "x": x.requires_grad_(wanted),
        "weights": {name: weight.requires_grad_(wanted) for name, weight in weights.items()},
        "out_grad": out_grad,
    }


def _fused(bench: BlockBench, sets: list[dict[str, Any]]) -> Contestant:
    backends.require(OP, "fused", torch.device(bench.device))
    return _contestant(bench, "fused", sets, _over_runs(bench, "fused"))


def _plain(bench: BlockBench, sets: list[dict[str, Any]], *, compiled: bool) -> Contestant:
    layer = _over_runs(bench, "quadratic")
    if not compiled:
        return _contestant(bench, "eager", sets, layer, "plain layer, not compiled")
    found = torch.compile(layer, dynamic=False)
    return _contestant(bench, "compiled", sets, found, "plain layer under torch.compile")


def _over_runs(bench: BlockBench, backend: str) -> Callable[[Weights, Tensor], Tensor]:
    """(weights, x) to the layer's output; with several runs each has its own of both."""
    layer = layer_of(bench, backend)

    def one(weights: Weights, x: Tensor) -> Tensor:
        return functional_call(layer, weights, (x, None, False))[0]

    return one if bench.runs == 1 else torch.vmap(one)


def _contestant(
    bench: BlockBench, name: str, sets: list[dict[str, Any]],
    layer: Callable[[Weights, Tensor], Tensor], note: str = "",
) -> Contestant:  # fmt: skip
    def call(given: dict[str, Any]) -> Callable[[], Sequence[Tensor]]:
        weights, x, out_grad = given["weights"], given["x"], given["out_grad"]

        def forward() -> Sequence[Tensor]:
            with torch.no_grad():
                return (layer(weights, x),)

        def both() -> Sequence[Tensor]:
            out = layer(weights, x)
            return (out, *torch.autograd.grad(out, [x, *weights.values()], out_grad))

        return both if bench.direction == "both" else forward

    calls = tuple(call(given) for given in sets)
    calls[0]()  # what is compiled, or broken, shows here and not while others are timed
    return Contestant(name, calls, calls[0], note=note)
