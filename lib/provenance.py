"""Where a number came from: code, machine and versions, as stored in every record."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import lib

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "torch", "triton", "numpy", "pandas", "transformers", "mamba-ssm", "causal-conv1d", "plotly",
)  # fmt: skip
PATIENCE = 60  # seconds for git, which runs a filter over notebooks that it has not looked at yet


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions of `packages`; a package that is absent is left out."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def library_hash() -> str:
    """SHA-256 (16 hex digits) over the Python files of ``lib``.

    It says which code ran even where there is no git (a GPU machine that got a copy of the tree),
    and can be compared with any commit.
    """
    return hash_of({
        path.relative_to(ROOT): path.read_bytes() for path in (ROOT / "lib").rglob("*.py")
    })  # fmt: skip


def hash_of(files: Mapping[PurePath, bytes]) -> str:
    """SHA-256 (16 hex digits) over files, by their paths from the repository's root."""
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(path.as_posix().encode() + b"\0" + files[path] + b"\0")
    return total.hexdigest()[:16]


def _git(*arguments: str) -> str | None:
    """What git says; None if there is none, it fails, or takes longer than `PATIENCE`. It takes no
    lock of the index, which one that is killed would leave behind, in the way of every commit."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments], cwd=ROOT, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@lru_cache(maxsize=1)
def code() -> dict[str, Any]:
    """Commit, dirty flag (None if unknown) and library hash. ``MAMBA_BOOK_COMMIT`` names the commit
    of a copy of the tree, whose own git, if it has one, may be of an older commit."""
    commit = os.environ.get("MAMBA_BOOK_COMMIT")
    dirty: bool | None = None
    if commit is None and (commit := _git("rev-parse", "HEAD")) is not None:
        # records and pages do not change what a cell computes
        changed = _git("status", "--porcelain", "--", "lib", "notebooks", "requirements.txt")
        dirty = None if changed is None else bool(changed)
    return {
        "commit": commit,
        "dirty": dirty,
        "lib_version": lib.__version__,
        "lib_hash": library_hash(),
    }


def processor() -> str:
    """The processor's name, as people know it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def short_device(name: str) -> str:
    """A device's name as tables show it, "H100" for "NVIDIA H100 80GB HBM3"; a processor's without
    marks of trade, number of cores and clock."""
    if graphics := re.match(
        r"(?:NVIDIA|Tesla|GeForce) (?:GeForce |Tesla )?(.+?)(?: \d+ ?GB.*)?$", name
    ):
        return graphics[1]
    name = re.sub(r"\((?:R|TM|C)\)|\bCPU\b|@.*|\b\d+-Core\b|\bProcessor\b", " ", name)
    return " ".join(name.split())


def machine(device: Any = None) -> dict[str, Any]:
    """Device, driver and versions for a torch `device` (None: processor, torch not imported)."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "device": "cpu",
        "device_name": processor(),
    }
    if device is None:
        return facts
    import torch

    facts["threads"] = torch.get_num_threads()
    facts["matmul_precision"] = torch.get_float32_matmul_precision()
    if torch.device(device).type == "cuda":
        facts["device"] = "cuda"
        facts["device_name"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
        facts["driver"] = _driver()
        facts["tf32"] = bool(torch.backends.cuda.matmul.allow_tf32)
    return facts


@lru_cache(maxsize=1)
def _driver() -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else None


def now() -> str:
    """Current time, UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
