"""Reading a model's named activations: what passes through ``lib.models.layers.Activation``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lib.models.layers import Activation


def activation_names(model: nn.Module) -> list[str]:
    """Names of all activations, such as ``layers.0.mixer.dt``, in the order of the modules."""
    return [
        _plain(name) for name, module in model.named_modules() if isinstance(module, Activation)
    ]


@contextmanager
def record_activations(model: nn.Module, ending: str = "") -> Iterator[dict[str, Tensor]]:
    """Collect, during the block, the activations whose name ends with `ending`, by name.

    Raises:
        ValueError: no activation of that name.
    """
    chosen = {
        _plain(name): module
        for name, module in model.named_modules()
        if isinstance(module, Activation) and _plain(name).endswith(ending)
    }
    if not chosen:
        raise ValueError(f"no activation ends in {ending!r}; there are {activation_names(model)}")
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = output.detach()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in chosen.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _plain(name: str) -> str:
    """``layers.0.mixer.act_dt`` is known as ``layers.0.mixer.dt``."""
    return ".".join(part.removeprefix("act_") for part in name.split("."))
