"""What calls of Triton kernels share: sizes of grids, strides, and ``torch.vmap`` over custom ops
whose tensors have an axis of runs in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The smallest one that is at least n."""
    return 1 << (n - 1).bit_length()


def strided(*tensors: Tensor | None) -> list[Any]:
    """Each tensor and its strides, as the kernels take them."""
    return [x for t in tensors for x in (t, None if t is None else t.stride())]


def channels_last(t: Tensor) -> Tensor:
    """t, whose channels come last, or a copy in which they are next to each other."""
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def empty_as(t: Tensor) -> Tensor:
    """Room for a tensor like t (r, b, d, l), without gaps: channels are neighbours in memory if
    they are in t, else steps. (``torch.empty_like`` makes steps neighbours if t has gaps, as a half
    of a projection has; what is read and written next to it then lies elsewhere.)"""
    r, b, d, length = t.shape
    if t.stride(2) <= t.stride(3):
        return t.new_empty(r, b, length, d).transpose(2, 3)
    return t.new_empty(r, b, d, length)


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Start a kernel on a flat grid."""
    kernel[(programs,)](*arguments, **constants)


def fold_runs(tensor: Any, axis: int | None, size: int) -> Any:
    """A vmapped argument's axis put in front of its axis of runs, and both made one; a view if it
    can be, else a copy with the same neighbours in memory."""
    if not isinstance(tensor, Tensor):
        return tensor
    front = tensor.expand(size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
    if front.dim() > 3 and front.stride(-2) == 1:
        return front.mT.flatten(0, 1).mT
    return front if front.dim() == 1 else front.flatten(0, 1)


def over_runs(op: Any, dense: bool = False) -> Any:
    """The rule by which `op`, whose tensors have an axis of runs in front, is mapped by vmap; with
    `dense` it gets tensors without gaps, in order."""

    def batched(info: Any, axes: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        size = info.batch_size
        folded = [fold_runs(t, axis, size) for t, axis in zip(arguments, axes, strict=True)]
        if dense:
            folded = [t.contiguous() if isinstance(t, Tensor) else t for t in folded]
        results = op(*folded)
        if isinstance(results, Tensor):
            return results.unflatten(0, (size, -1)), 0
        # an empty vector stands for none
        none = [t.dim() == 1 and not t.numel() for t in results]
        out = [
            t.expand(size, 0) if absent else t.unflatten(0, (size, -1))
            for t, absent in zip(results, none, strict=True)
        ]
        return type(results)(out), type(results)(0 for _ in out)

    return batched
