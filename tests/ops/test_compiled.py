"""The kernels compiled for an H100, of which the interpreter can tell nothing: that the compiler
takes them, and that what is meant to stay in registers does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.ops import backends
from tests.conftest import ROOT

MISSING = backends.triton_missing("cpu")
on_cpu = pytest.mark.skipif(MISSING is not None, reason="needs Triton and its interpreter")
SCANS = ["forward", "backward", "long_forward", "long_backward"]
ATTENTION = ["attend", "attend_backward"]
PACKED = ["packed_attend", "packed_values_backward", "packed_keys_backward"]
PRODUCTS = ["rows_product", "weight_gradient", "rows_of"]
BLOCK = ["out_backward", "gate_backward", "states_backward", "project_in_backward"]


@on_cpu
def test_the_kernels_compile_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "tests/ops/compile_for_gpu.py"], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name.split()[0] for name in found} == {
        *SCANS, *BLOCK, *ATTENTION, *PACKED, *PRODUCTS
    }  # fmt: skip
    assert "forward l8" in found and "backward l8" in found  # of the convolution
    assert "long_forward ends" in found
    for name, used in found.items():
        kernel = name.split()[0]
        if kernel.endswith("forward") or kernel in PRODUCTS:
            assert used["stack"] == 0, f"{name} spills"
        else:
            assert used["stack"] <= 300, f"{name} spills {used['stack']} bytes a thread"
        assert used["inner_lanes"], name
        assert used["shared"] <= 227 * 1024, name  # of an H100's processor
        if kernel in PACKED:
            assert used["shared"] == 0, name  # rows lie alike, and nothing moves to make them
        if kernel == "long_backward":
            assert used["registers"] <= 168, name  # room for twelve warps a processor
