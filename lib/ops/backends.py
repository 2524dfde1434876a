"""Which implementation serves an op: what there is, what was asked for, what ran.

An op registers its backends by name. A named backend that is missing, or that cannot serve the
call, raises; "auto" takes the first of the op's preferences that can. Nothing falls back silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

INSTALL_MAMBA_SSM = "pip install --no-build-isolation --no-cache-dir -r requirements-gpu.txt"


class BackendError(RuntimeError):
    """A backend that was asked for by name and is missing, or cannot serve the call."""


@dataclass(frozen=True)
class Backend:
    """One implementation of an op.

    Attributes:
        call: the implementation.
        missing: device to the reason why it cannot be used there, or None.
        refuses: facts of a call (length, dtype, initial_state ...) to the reason why it cannot
            serve it, naming the backend that does, or None.
        prefers: facts of a call, device included, to whether "auto" should take it.
    """

    call: Callable[..., Any]
    missing: Callable[[torch.device], str | None]
    refuses: Callable[[dict[str, Any]], str | None]
    prefers: Callable[[dict[str, Any]], bool]


_OPS: dict[str, dict[str, Backend]] = {}
# set only inside `recording`: None keeps resolve() free of side effects, so it can be compiled
_used: dict[str, list[str]] | None = None
_preferred: dict[str, str] = {}  # op to the backend that :func:`preferring` names


def never(_: Any) -> None:
    """A backend that is never missing, or that refuses nothing."""
    return None


def register(
    op: str,
    name: str,
    call: Callable[..., Any],
    *,
    missing: Callable[[torch.device], str | None] = never,
    refuses: Callable[[dict[str, Any]], str | None] = never,
    prefers: Callable[[dict[str, Any]], bool] = lambda facts: False,
    first: bool = False,
) -> None:
    """Add a backend to an op; "auto" asks backends in order of registration, `first` ones before.

    A new module in lib/ops that calls this is enough: the package imports all its modules.

    Raises:
        ValueError: the op has a backend of that name, or the name is "auto".
    """
    if name == "auto":
        raise ValueError("name is 'auto', allowed: any other name")
    known = _OPS.setdefault(op, {})
    if name in known:
        raise ValueError(f"backend {name!r} of {op} is registered twice")
    entry = {name: Backend(call, missing, refuses, prefers)}
    _OPS[op] = {**entry, **known} if first else {**known, **entry}


def operations() -> tuple[str, ...]:
    """Names of all ops that have backends."""
    return tuple(_OPS)


def backends(op: str) -> tuple[str, ...]:
    """Names of the backends of `op`."""
    return tuple(_known(op))


def _known(op: str) -> dict[str, Backend]:
    if op not in _OPS:
        raise ValueError(f"op is {op!r}, allowed: {', '.join(_OPS)}")
    return _OPS[op]


def missing(op: str, name: str, device: torch.device) -> str | None:
    """Why backend `name` of `op` cannot be used on `device`, or None if it can."""
    known = _known(op)
    if name not in known:
        raise ValueError(f"backend of {op} is {name!r}, allowed: {', '.join(known)}")
    return known[name].missing(device)


def require(op: str, name: str, device: torch.device) -> None:
    """Raise a BackendError unless backend `name` of `op` can be used on `device`."""
    reason = missing(op, name, device)
    if reason is not None:
        raise BackendError(f"backend {name!r} of {op} is missing: {reason}")


def resolve(op: str, asked: str, *, device: torch.device, **facts: Any) -> str:
    """Name of the backend that serves a call.

    Args:
        op: name of the op.
        asked: name of a backend, or "auto".
        device: where the tensors are.
        facts: of the call, such as ``length=8, dtype=torch.float32, initial_state=False``.

    Raises:
        ValueError: no backend of that name; the message lists the names.
        BackendError: the named backend is missing or cannot serve this call.
    """
    known = _known(op)
    if asked != "auto":
        if asked not in known:
            raise ValueError(f"backend of {op} is {asked!r}, allowed: auto, {', '.join(known)}")
        require(op, asked, device)
        reason = known[asked].refuses(facts)
        if reason is not None:
            raise BackendError(f"backend {asked!r} of {op} cannot serve this call: {reason}")
        name = asked
    else:
        able = [name for name in known if suits(op, name, device=device, **facts)]
        if not able:
            raise BackendError(f"no backend of {op} can serve this call on {device}: {facts}")
        name = able[0]
    if _used is not None:
        _used[op] = sorted({*_used.get(op, []), name})
    return name


def suits(op: str, name: str, *, device: torch.device, **facts: Any) -> bool:
    """Whether "auto" may take backend `name` for a call: preferred, there, and able to serve it.
    Of an op for which :func:`preferring` names one that can serve, that one alone."""
    chosen = _preferred.get(op)
    if chosen is not None and _able(op, chosen, device, facts):
        return name == chosen
    backend = _known(op)[name]
    return backend.prefers({**facts, "device": device}) and _able(op, name, device, facts)


def _able(op: str, name: str, device: torch.device, facts: dict[str, Any]) -> bool:
    backend = _known(op)[name]
    return backend.missing(device) is None and backend.refuses(facts) is None


def call(op: str, name: str) -> Callable[..., Any]:
    """The implementation `name` of `op`."""
    return _OPS[op][name].call


@contextmanager
def recording() -> Iterator[dict[str, list[str]]]:
    """Collect op to names of the backends that serve calls inside the block (for records)."""
    global _used
    outer, _used = _used, {}
    mine = _used
    try:
        yield mine
    finally:
        _used = outer


@contextmanager
def preferring(op: str, name: str) -> Iterator[None]:
    """Inside, "auto" takes backend `name` of `op` wherever it is there and can serve the call: to
    measure what nothing prefers yet.

    Raises:
        ValueError: no op, or no backend, of that name.
    """
    if name not in _known(op):
        raise ValueError(f"backend of {op} is {name!r}, allowed: {', '.join(_known(op))}")
    before = dict(_preferred)
    _preferred[op] = name
    try:
        yield
    finally:
        _preferred.clear()
        _preferred.update(before)


@contextmanager
def called(op: str, name: str, call: Callable[..., Any]) -> Iterator[None]:
    """Inside, backend `name` of `op` is `call`: for whoever watches its calls."""
    own = _known(op)[name]
    _OPS[op][name] = replace(own, call=call)
    try:
        yield
    finally:
        _OPS[op][name] = own


@contextmanager
def preferences(texts: Iterable[str], device: torch.device) -> Iterator[None]:
    """:func:`preferring` of texts such as ``linear=tensor_cores``.

    Raises:
        ValueError: no op, or no backend, of that name.
        BackendError: a backend that is missing on `device`.
    """
    with ExitStack() as all_of_them:
        for text in texts:
            op, _, name = text.partition("=")
            all_of_them.enter_context(preferring(op, name))
            require(op, name, device)
        yield


def report(device: torch.device) -> dict[str, dict[str, str]]:
    """Op to backend to "available" or the reason why it is not."""
    return {
        op: {name: missing(op, name, device) or "available" for name in _OPS[op]}
        for op in operations()
    }


@torch.compiler.assume_constant_result  # a compiler must ask once, not trace the import
def mamba_ssm_error() -> str | None:
    """Why mamba_ssm's compiled kernels cannot be used, or None."""
    return _mamba_ssm_error()


@lru_cache(maxsize=1)
def _mamba_ssm_error() -> str | None:
    # asked first, because importing the package costs seconds and may fail without a driver
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: F401
    except Exception as error:  # a wrong build raises OSError, RuntimeError or TypeError
        return f"{type(error).__name__}: {error}"
    return None


def mamba_ssm_missing(device: torch.device) -> str | None:
    """Reason for :class:`Backend.missing` of the backends that call mamba_ssm's CUDA kernels."""
    if device.type != "cuda":
        return f"mamba_ssm runs on a GPU only, the tensors are on {device.type}; use chunked"
    error = mamba_ssm_error()
    if error is None:
        return None
    return f"mamba_ssm cannot be used ({error}); on a GPU install it: {INSTALL_MAMBA_SSM}"


def triton_missing(kind: str, instead: str = "chunked") -> str | None:
    """Why Triton's kernels cannot run on devices of type `kind`, and what can, or None."""
    reason = _triton_missing(kind)
    return None if reason is None else f"{reason}; use {instead}"


@torch.compiler.assume_constant_result  # a compiler must ask once, not trace the import
def _triton_missing(kind: str) -> str | None:
    return _without_triton(kind)


@lru_cache
def _without_triton(kind: str) -> str | None:
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error}), install it: pip install triton"
    if kind != "cuda" and not triton.knobs.runtime.interpret:
        return (
            f"Triton's kernels run on a GPU, the tensors are on {kind} (for tests, "
            "TRITON_INTERPRET=1 runs them on a processor)"
        )
    return None
