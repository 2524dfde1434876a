"""Reading and replacing a model's named activations.

What passes through a :class:`lib.models.layers.Activation` can be recorded or replaced, by plain
forward hooks, in every block and without a second implementation of any of them. Hooks run in the
order in which they were set: a recording sees what earlier replacements left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lib.models.layers import Activation

# a tensor to put in place, or a function of the activation; None from it leaves it as it is
Replacement = Tensor | Callable[[Tensor], Tensor | None]


def activation_names(model: nn.Module) -> list[str]:
    """Names of all activations, such as ``layers.0.mixer.dt``, in the order of the modules."""
    return list(_activations(model))


@contextmanager
def record_activations(model: nn.Module, ending: str = "") -> Iterator[dict[str, Tensor]]:
    """Collect, during the block, the activations whose name ends with `ending`, by name.

    Raises:
        ValueError: no activation of that name.
    """
    chosen = {name: m for name, m in _activations(model).items() if name.endswith(ending)}
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


@contextmanager
def replace_activations(
    model: nn.Module, replacements: Mapping[str, Replacement]
) -> Iterator[None]:
    """During the block, put something else in the place of activations.

    Args:
        replacements: full name (of :func:`activation_names`) to a tensor, or to a function that is
            given the activation and returns what to put in its place, or None to leave it. A
            function that returns None may be used to look on. What is put in place must have the
            activation's shape, dtype and device.

    Raises:
        ValueError: a name that the model lacks; from the model's call, a misfitting tensor.
        RuntimeError: from the model's call, an activation that this call never computes, as S of a
            Mamba-2 block where the sequence is longer than a chunk. Without this, an intervention
            that did nothing would look like one that made no difference.
    """
    known = _activations(model)
    for name in replacements:
        if name not in known:
            raise ValueError(f"no activation is named {name!r}; there are {list(known)}")
    if not replacements:
        yield
        return
    reached: set[str] = set()

    def put(name: str, replacement: Replacement) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
            reached.add(name)
            new = replacement if isinstance(replacement, Tensor) else replacement(output)
            if new is not None:
                _check(name, new, output)
            return new

        return hook

    def begin(module: nn.Module, inputs: Any) -> None:
        reached.clear()

    def end(module: nn.Module, inputs: Any, output: Any) -> None:
        missed = [name for name in replacements if name not in reached]
        if missed:
            raise RuntimeError(f"{', '.join(missed)}: replaced, but not computed in this call")

    handles = [known[n].register_forward_hook(put(n, new)) for n, new in replacements.items()]
    handles += [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(name: str, new: Tensor, old: Tensor) -> None:
    for what in ("shape", "dtype", "device"):
        given, allowed = getattr(new, what), getattr(old, what)
        if given != allowed:
            raise ValueError(f"{name} is replaced by {what} {given}, allowed: {allowed}")


def _activations(model: nn.Module) -> dict[str, Activation]:
    """All activations by name, in the order of the modules."""
    return {_plain(n): m for n, m in model.named_modules() if isinstance(m, Activation)}


def _plain(name: str) -> str:
    """``layers.0.mixer.act_dt`` is known as ``layers.0.mixer.dt``."""
    return ".".join(part.removeprefix("act_") for part in name.split("."))
