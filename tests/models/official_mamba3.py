"""The Mamba-3 module of mamba_ssm on a processor, held against ours: a script of its own, since it
changes Triton's interpreter and PyTorch for the whole process.

    python tests/models/official_mamba3.py FOLDER {kernels,steps} [BLOCK ...]

FOLDER holds the package's sources as released (a folder ``mamba_ssm``); none of its compiled parts
is needed. The last line is JSON: block and length to the largest relative difference of the output
and of each gradient from ours in float64.

kernels: the module with its Triton kernels in Triton's interpreter. Their casts to bfloat16 are
left out, for they would hide what is asked: whether both compute the same.
steps: the module token by token in float64, by the package's own references in plain PyTorch.
"""

# mypy: ignore-errors
from __future__ import annotations

import ast
import contextlib
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter
from triton.runtime.autotuner import Autotuner

from lib.models.config import Mamba3Config
from lib.models.mamba3 import Mamba3Mixer
from tests.models.test_mamba3_gpu import BLOCKS, LENGTHS, randomise, relative, run

BESIDE = {"cos.approx.f32": np.cos, "sin.approx.f32": np.sin, "tanh.approx.f32": np.tanh}


class Torch(types.ModuleType):
    """PyTorch with other types under some names, for the globals of one of their modules."""

    def __init__(self, **names: torch.dtype) -> None:
        super().__init__("torch")
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


# -- what stands in the way on a processor --------------------------------------------------


def teach_the_interpreter() -> None:
    """What their kernels ask for and the interpreter lacks: a size without trying them all, three
    instructions of the device, and integers of arrays as NumPy 2.4 wants them."""
    Autotuner.run = lambda self, *given, **more: self.fn.run(
        *given, **more, **self.configs[0].all_kwargs()
    )

    def inline_asm(self, asm, constraints, values, types_, is_pure, pack):
        (value,) = values
        found = BESIDE[asm.split(" ")[0]](value.data.astype(np.float32)).astype(np.float32)
        handle = interpreter.TensorHandle(found, tl.float32)
        return types.SimpleNamespace(get_result=lambda index: handle)

    interpreter.InterpreterBuilder.create_inline_asm = inline_asm
    patch = interpreter._patch_lang_tensor

    def with_integers(tensor, scope):
        patch(tensor, scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = with_integers
    torch.cuda.device = lambda *given, **more: contextlib.nullcontext()
    torch.cuda.get_device_properties = lambda *given: types.SimpleNamespace(multi_processor_count=2)


@contextlib.contextmanager
def on_a_device() -> Iterator[None]:
    """They assert that tensors are on one."""
    torch.Tensor.is_cuda = property(lambda self: True)
    try:
        yield
    finally:
        del torch.Tensor.is_cuda


def open_package(folder: Path) -> Any:
    """Their module's file, without the package's own start, which wants compiled parts."""
    package = types.ModuleType("mamba_ssm")
    package.__path__ = [str(folder / "mamba_ssm")]
    sys.modules["mamba_ssm"] = package
    from mamba_ssm.modules import mamba3

    assert Path(mamba3.__file__).is_relative_to(folder), mamba3.__file__
    return mamba3


# -- the two ways ---------------------------------------------------------------------------


def by_kernels(theirs: Any) -> Callable[[Tensor], Tensor]:
    """The module itself, without its casts."""
    from mamba_ssm.ops.triton.mamba3 import mamba3_siso_combined, mamba3_siso_fwd

    for module in (mamba3_siso_combined, mamba3_siso_fwd):
        module.torch = Torch(bfloat16=torch.float32)
    return theirs.forward


def by_steps(module: Any, folder: Path) -> Callable[[Any], Callable[[Tensor], Tensor]]:
    """A way to write a module's step over a sequence, its kernels replaced by their references."""
    from mamba_ssm.ops.triton import layernorm_gated
    from mamba_ssm.ops.triton.mamba3.mamba3_mimo_rotary_step import (
        apply_rotary_qk_inference_reference,
    )

    # one function of a file whose imports want CUTLASS
    name = "selective_state_update_fused_ref_v2"
    source = (folder / "mamba_ssm/ops/cute/mamba3/mamba3_step_fn.py").read_text()
    (node,) = (part for part in ast.parse(source).body if getattr(part, "name", "") == name)
    space: dict[str, Any] = {"torch": torch}
    exec(compile(ast.Module([node], []), name, "exec"), space)

    def update(state, Bstate, Xstate, A, B, C, D, x, dt, trap, xproj, outproj, state_out, out, z,
               zproj, **_):  # fmt: skip
        y, new = space[name](
            state, A, B, C, xproj, x, zproj, z, dt, Bstate, Xstate, trap, D, outproj,
            compute_dtype=torch.float64,
        )  # fmt: skip
        out.copy_(y)
        state.copy_(new)

    def rotary(q, k, angle_state, angle_proj, dt, bias_q, bias_k, conjugate, inplace,
               rotate_pairwise):  # fmt: skip
        return apply_rotary_qk_inference_reference(
            q, k, angle_state, angle_proj, dt, bias_q, bias_k, conjugate, rotate_pairwise
        )

    def norm(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True):
        return layernorm_gated.rms_norm_ref(x, weight, bias, z, eps, group_size, norm_before_gate)

    module.mamba3_step_fn, module.apply_rotary_qk_inference_fwd = update, rotary
    layernorm_gated.rmsnorm_fn = norm
    # their casts to float32 would hide digits
    module.torch = Torch(float32=torch.float64)
    torch.Tensor.float = torch.Tensor.double

    def of(theirs: Any) -> Callable[[Tensor], Tensor]:
        theirs.double()

        def forward(x: Tensor) -> Tensor:
            cache = theirs.allocate_inference_cache(len(x), x.shape[1], dtype=torch.float64)
            cache = tuple(part.double() for part in cache)
            out = [theirs.step(x[:, at], *cache)[0] for at in range(x.shape[1])]
            return torch.stack(out, 1)

        return forward

    return of


class Called:
    """A module, called in another way."""

    def __init__(self, forward: Callable[[Tensor], Tensor], module: Any) -> None:
        self.forward, self.named_parameters = forward, module.named_parameters

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)


def compare(
    config: Mamba3Config, length: int, module: Any,
    way: Callable[[Any], Callable[[Tensor], Tensor]], exact: bool,
) -> dict[str, float]:  # fmt: skip
    """Relative differences from ours in float64, by name of output or gradient."""
    theirs = module.Mamba3(
        config.d_model, d_state=config.d_state, expand=config.expand, headdim=config.headdim,
        ngroups=config.n_groups, rope_fraction=config.rope_fraction, A_floor=config.A_floor,
        is_outproj_norm=config.outproj_norm, chunk_size=config.chunk_size, layer_idx=0,
    )  # fmt: skip
    ours = Mamba3Mixer(config)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())  # strict: every name and shape
    generator = torch.Generator().manual_seed(length)
    x, weight = (torch.randn(2, length, config.d_model, generator=generator) for _ in range(2))
    expected = run(ours.double(), x.double(), weight)
    forward = way(theirs)
    asked = contextlib.nullcontext() if exact else on_a_device()
    with torch.autograd.graph.allow_mutation_on_saved_tensors(), asked:
        found = run(Called(forward, theirs), x.double() if exact else x, weight)
    return {name: relative(found[name], value) for name, value in expected.items()}


def main(folder: str, mode: str, *blocks: str) -> None:
    """All lengths of the named blocks, or of all."""
    torch.set_num_threads(1)
    teach_the_interpreter()
    place = Path(folder).resolve()
    module = open_package(place)
    way = by_steps(module, place) if mode == "steps" else by_kernels
    found = {
        f"{block}-{length}": compare(BLOCKS[block], length, module, way, mode == "steps")
        for block in blocks or BLOCKS
        for length in LENGTHS
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
