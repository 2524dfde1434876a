"""The registry of backends: openly chosen, never silently replaced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.ops import backends

CPU = torch.device("cpu")
SHORT = {"length": 8, "kept": 0, "dtype": torch.float32, "widths": (32, 64)}  # of attention


@pytest.fixture
def op(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An op with three backends: one missing, one that serves short calls only, one for all."""
    monkeypatch.setattr(backends, "_OPS", {})
    backends.register(
        "add", "absent", max, missing=lambda device: f"not on {device}", prefers=lambda facts: True
    )
    backends.register(
        "add", "short", min, prefers=lambda facts: True,
        refuses=lambda facts: "too long; 'plain' serves it" if facts["length"] > 4 else None,
    )  # fmt: skip
    backends.register("add", "plain", sum, prefers=lambda facts: True)
    backends.register("add", "slow", sum)
    yield "add"


def test_auto_takes_the_first_that_can(op: str) -> None:
    assert backends.resolve(op, "auto", device=CPU, length=3) == "short"
    assert backends.resolve(op, "auto", device=CPU, length=5) == "plain"
    backends.register(op, "fused", any, prefers=lambda facts: facts["length"] == 3, first=True)
    assert backends.resolve(op, "auto", device=CPU, length=3) == "fused"
    assert backends.resolve(op, "auto", device=CPU, length=4) == "short"
    assert backends.backends(op) == ("fused", "absent", "short", "plain", "slow")
    assert backends.call(op, "fused") is any


def test_a_named_backend_serves_or_raises(op: str) -> None:
    assert backends.resolve(op, "slow", device=CPU, length=3) == "slow"
    with pytest.raises(backends.BackendError, match="'absent' of add is missing: not on cpu"):
        backends.resolve(op, "absent", device=CPU, length=3)
    with pytest.raises(backends.BackendError, match=r"'short' of add cannot .*'plain' serves it"):
        backends.resolve(op, "short", device=CPU, length=5)
    with pytest.raises(ValueError, match="'fast', allowed: auto, absent, short, plain, slow"):
        backends.resolve(op, "fast", device=CPU, length=3)
    with pytest.raises(ValueError, match="'fast', allowed: absent, short"):
        backends.missing(op, "fast", CPU)
    with pytest.raises(ValueError, match="op is 'subtract', allowed: add"):
        backends.resolve("subtract", "auto", device=CPU)


def test_auto_says_so_when_nothing_serves(op: str) -> None:
    backends.register("lone", "short", min, prefers=lambda facts: False)
    with pytest.raises(backends.BackendError, match=r"no backend of lone can serve.*length"):
        backends.resolve("lone", "auto", device=CPU, length=9)


def test_names_are_registered_once(op: str) -> None:
    with pytest.raises(ValueError, match="'plain' of add is registered twice"):
        backends.register(op, "plain", sum)
    with pytest.raises(ValueError, match="name is 'auto'"):
        backends.register(op, "auto", sum)


def test_recording_holds_what_ran_inside_it(op: str) -> None:
    backends.resolve(op, "plain", device=CPU, length=3)
    with backends.recording() as outer:
        backends.resolve(op, "slow", device=CPU, length=3)
        with backends.recording() as inner:
            backends.resolve(op, "plain", device=CPU, length=3)
            backends.resolve(op, "auto", device=CPU, length=3)
        with pytest.raises(backends.BackendError):
            backends.resolve(op, "absent", device=CPU, length=3)
    backends.resolve(op, "auto", device=CPU, length=3)
    assert inner == {"add": ["plain", "short"]}
    assert outer == {"add": ["slow"]}


def test_recording_ends_with_an_error(op: str) -> None:
    with pytest.raises(KeyError), backends.recording() as used:
        raise KeyError
    backends.resolve(op, "plain", device=CPU, length=3)
    assert used == {}


def test_the_report_covers_all_ops() -> None:
    report = backends.report(CPU)
    assert set(report) == set(backends.operations()) >= {"selective_scan", "ssd", "causal_conv1d"}
    for op, names in report.items():
        assert tuple(names) == backends.backends(op)
        assert names["reference"] == "available"
    assert "GPU only" in report["selective_scan"]["mamba_ssm"]


def test_mamba_ssm_is_not_imported_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    backends._mamba_ssm_error.cache_clear()
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)  # an import would say something else
    reason = backends.missing("selective_scan", "mamba_ssm", torch.device("cuda"))
    backends._mamba_ssm_error.cache_clear()
    assert reason is not None and "no CUDA device" in reason and "requirements-gpu.txt" in reason


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError, TypeError])
def test_a_broken_mamba_ssm_is_missing_with_its_reason(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.startswith("mamba_ssm"):
                raise error("undefined symbol")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        monkeypatch.delitem(sys.modules, name)
    backends._mamba_ssm_error.cache_clear()
    reason = backends.missing("selective_scan", "mamba_ssm", torch.device("cuda"))
    backends._mamba_ssm_error.cache_clear()
    assert reason is not None and f"{error.__name__}: undefined symbol" in reason
    assert backends.INSTALL_MAMBA_SSM in reason


def test_a_compiler_asks_about_mamba_ssm_without_tracing_it() -> None:
    torch.compiler.reset()
    missing = backends.mamba_ssm_missing(torch.device("cuda")) is not None

    @torch.compile(fullgraph=True, backend="eager")
    def shifted(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if backends.mamba_ssm_missing(torch.device("cuda")) is not None else x

    assert shifted(torch.zeros(1)).item() == float(missing)


def test_a_new_module_is_enough_to_add_a_backend(root: Path, tmp_path: Path) -> None:
    """The package imports whatever stands in lib/ops; here one more folder is on its path."""
    (tmp_path / "more.py").write_text(
        "from lib.ops import backends\nbackends.register('ssd', 'more', max)\n"
    )
    code = (
        "import pkgutil\n"
        "found = pkgutil.iter_modules\n"
        f"extra = {str(tmp_path)!r}\n"
        "def both(path=None, prefix=''):\n"
        "    if path and str(path[0]).endswith('ops') and extra not in path: path.append(extra)\n"
        "    return found(path, prefix)\n"
        "pkgutil.iter_modules = both\n"
        "from lib.ops import backends\n"
        "print(backends.backends('ssd'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert "'more'" in done.stdout, done.stderr


def test_preferences_are_of_this_block_alone_and_known() -> None:
    assert backends.resolve("attention", "auto", device=CPU, **SHORT) == "reference"
    texts = ["attention=reference", "linear=reference"]
    with backends.preferences(texts, CPU):
        assert backends._preferred == {"attention": "reference", "linear": "reference"}
        with backends.preferring("linear", "tensor_cores"):
            assert backends._preferred["linear"] == "tensor_cores"
        assert backends._preferred["linear"] == "reference"
    assert backends._preferred == {}
    for text, message in (
        ("linear", "backend of linear is '', allowed: tensor_cores, reference"),
        ("linear=fast", "backend of linear is 'fast', allowed: tensor_cores, reference"),
        ("abacus=fast", "op is 'abacus', allowed: "),
    ):
        with pytest.raises(ValueError, match=message), backends.preferences([text], CPU):
            raise AssertionError("nothing runs")
    with (
        pytest.raises(backends.BackendError, match="'mamba_ssm' of selective_scan is missing"),
        backends.preferences(["selective_scan=mamba_ssm"], CPU),
    ):
        raise AssertionError("nothing runs")
    assert backends._preferred == {}


def test_what_is_preferred_comes_first_where_it_can_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    there = replace(backends._OPS["attention"]["fused"], missing=backends.never)
    monkeypatch.setitem(backends._OPS["attention"], "fused", there)
    with backends.preferring("attention", "fused"):
        assert backends.resolve("attention", "auto", device=CPU, **SHORT) == "fused"
        assert backends.resolve("attention", "auto", device=CPU, **{**SHORT, "length": 99}) == (
            "reference"
        )
        # a name counts for more
        assert backends.resolve("attention", "reference", device=CPU, **SHORT) == "reference"
