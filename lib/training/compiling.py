"""Compiling deep models layer by layer: equal layers share one compilation.

A stack of twenty equal blocks compiled as a whole is twenty times the code of one, and takes
minutes where a small model trains for one. Compiled by themselves, layers take their weights as
arguments, so that the code of the first serves all that are like it. What is lost is fusion across
the layers' edges: one read and one write of the residual stream for each. The steps are captured as
a CUDA graph either way, so that calls cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from lib.models.language_model import LanguageModel


def pays_to_compile(device: torch.device, used: Mapping[str, Sequence[str]]) -> bool:
    """Whether compiling a training step is worth its minute: on a GPU, unless fused blocks do all
    the work of the layers; then too little is left.

    Args:
        used: op to names of the backends that serve the model, see ``backends.recording``.
    """
    from lib.ops import block, linear, lookup

    # embedding and head stay as they are, whatever serves them
    layers = {op: list(names) for op, names in used.items() if op not in (linear.OP, lookup.OP)}
    return device.type == "cuda" and layers != {block.OP: ["fused"]}


# models that train beside each other, with encoder and decoder, in training and not, count towards
# one limit of what the code of a layer may be compiled for; beyond it layers run as written
KINDS_OF_CALL = 64


def compile_layers(model: LanguageModel, backend: str = "inductor") -> None:
    """Compile each layer of `model` in place, for the shapes that it meets; weights keep their
    names."""
    import torch._dynamo

    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, KINDS_OF_CALL)
    for layer in model.layers:
        layer.compile(backend=backend, dynamic=False)


def eagerly() -> AbstractContextManager[Any]:
    """Inside, whatever is compiled runs as it was written."""
    import torch

    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
