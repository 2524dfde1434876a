"""The Mamba-3 block against mamba_ssm's module on a processor; see :mod:`official_mamba3`.

Its sources are looked for where Python looks for packages, and need not be built::

    pip download --no-deps --no-build-isolation --no-binary :all: mamba-ssm==2.3.2.post1
    tar xzf mamba_ssm-2.3.2.post1.tar.gz
    PYTHONPATH=mamba_ssm-2.3.2.post1 python -m pytest tests/models/test_mamba3_official.py
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.ops import backends
from tests.conftest import ROOT
from tests.models.test_mamba3_gpu import BLOCKS, LENGTHS


def sources() -> Path | None:
    """Where the package lies; older ones have no Mamba-3."""
    found = importlib.util.find_spec("mamba_ssm")
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / "modules/mamba3.py").is_file():
            return Path(place).parent
    return None


FOLDER = sources()
pytestmark = [
    pytest.mark.skipif(FOLDER is None, reason="needs the sources of mamba_ssm with Mamba-3"),
    pytest.mark.skipif(
        backends.triton_missing("cpu") is not None, reason="needs Triton and its interpreter"
    ),
]


def differences(mode: str, *blocks: str) -> dict[str, dict[str, float]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.official_mamba3", str(FOLDER), mode, *blocks],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {f"{block}-{length}" for block in blocks for length in LENGTHS}
    return found


@pytest.mark.parametrize("block", list(BLOCKS))
def test_its_kernels_compute_what_ours_does(block: str) -> None:
    """In float32; sums of a few numbers a head nearly cancel in their gradients."""
    for case, found in differences("kernels", block).items():
        # after a norm of each head, gradients at length 1 are zero but for eps
        loose = 5e-5 if case == "normed-1" else 1e-5
        for name, far in found.items():
            assert far < (2e-6 if name in ("y", "x") else loose), (case, name)


def test_its_steps_compute_what_ours_does() -> None:
    """In float64. Without groups: its step cannot share B and C among some of the heads."""
    blocks = [block for block, config in BLOCKS.items() if config.n_groups == 1]
    assert len(blocks) == len(BLOCKS) - 1
    for case, found in differences("steps", *blocks).items():
        assert max(found.values()) < 1e-12, case
