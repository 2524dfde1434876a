"""Checkpoints: tensors and a little JSON in one safetensors file, written atomically."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lib.store import StoreError, write_atomic


class CheckpointError(StoreError):
    """A checkpoint that cannot be read, or that belongs to another cell."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose content makes no sense."""


class MissingCheckpoint(CheckpointError):
    """A checkpoint that is not there."""


def serialise(tensors: dict[str, torch.Tensor], **facts: Any) -> bytes:
    """`tensors` and JSON `facts` as safetensors bytes (moved to the CPU, made contiguous)."""
    flat: dict[str, torch.Tensor] = {}
    taken = set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        # tied weights share memory, which the format refuses
        flat[name] = value.clone() if value.data_ptr() in taken else value
        taken.add(flat[name].data_ptr())
    return save(flat, metadata={name: json.dumps(fact) for name, fact in facts.items()})


def save_checkpoint(
    path: Path, identity: str, tensors: dict[str, torch.Tensor], **facts: Any
) -> None:
    """Write a checkpoint of the cell `identity`; a reader sees the old one or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, serialise(tensors, identity=identity, **facts))


def load_checkpoint(
    path: Path, identity: str | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and facts of a checkpoint.

    Raises:
        MissingCheckpoint, DamagedCheckpoint: the file is not there, or damaged.
        CheckpointError: it cannot be read, or, with `identity`, is of another cell.
    """
    try:
        # read at once: safe_open opens a file twice, between which a run may have replaced it
        content = path.read_bytes()
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = {name: json.loads(fact) for name, fact in header.get("__metadata__", {}).items()}
    except FileNotFoundError as error:
        raise MissingCheckpoint(f"checkpoint {path} cannot be read: {error}") from error
    except OSError as error:  # it may be whole: a right or a disk is missing
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    except (SafetensorError, ValueError) as error:
        raise DamagedCheckpoint(f"checkpoint {path} cannot be read: {error}") from error
    if identity is not None and facts.get("identity") != identity:
        raise CheckpointError(
            f"checkpoint {path} belongs to cell {facts.get('identity')}, not to {identity}; "
            "move it away or run the cell that it belongs to"
        )
    return tensors, facts


def take_up(
    path: Path | None, identity: str | None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """:func:`load_checkpoint` of what a run goes on from; None if there is nothing. A damaged file
    is put aside under a name ending in ``.damaged``, with a warning: the run begins again, and no
    other run waits for it.

    Raises:
        CheckpointError: it cannot be read though it may be whole, or is of another cell.
    """
    if path is None:
        return None
    try:
        tensors, facts = load_checkpoint(path, identity)
        if not isinstance(facts.get("step"), int) or not isinstance(facts.get("rows"), list):
            raise DamagedCheckpoint(f"checkpoint {path} cannot be read: no step, or no rows")
        return tensors, facts
    except MissingCheckpoint:
        return None
    except DamagedCheckpoint as error:
        aside = path.with_name(f"{path.name}.damaged")
        with contextlib.suppress(FileNotFoundError):  # another run has put it aside
            os.replace(path, aside)
        warnings.warn(f"{error}; it is {aside.name} now, and the run begins again", stacklevel=2)
        return None


def checkpoint_step(path: Path | None, identity: str) -> int:
    """Step at which the cell `identity` goes on from `path`; 0 without a checkpoint that can be
    read, see :func:`take_up`.

    Raises:
        CheckpointError: it is of another cell.
    """
    found = take_up(path, identity)
    return 0 if found is None else int(found[1]["step"])
