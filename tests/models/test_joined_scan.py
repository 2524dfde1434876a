"""Mamba-1 with softplus and gate in the scan's kernels: the same numbers, and nothing unseen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lib.analysis.activations import record_activations
from lib.models import mamba1
from lib.models.autoencoder import AutoencoderConfig, StateAutoencoder
from lib.models.config import LanguageModelConfig, Mamba1Config
from lib.models.language_model import LanguageModel, build_language_model
from lib.ops import backends, conv, fused_scan, scan

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MISSING = backends.missing(scan.OP, "fused", DEVICE)
LONG, SHORT = 11, 8
needs_kernels = pytest.mark.skipif(MISSING is not None, reason=f"fused scan: {MISSING}")


def model(backend: str) -> LanguageModel:
    config = LanguageModelConfig(30, 2, (Mamba1Config(8, d_state=8),))
    return build_language_model(config, seed=1, device=DEVICE, backend=backend)


def tokens(length: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(30, (3, length), generator=generator).to(DEVICE)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The (gate, bias, softplus) of each call of the scan by a Mamba-1 block."""
    calls: list[tuple[Any, ...]] = []

    def spy(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[6:9])
        return scan.selective_scan(*arguments, **options)

    monkeypatch.setattr(mamba1, "selective_scan", spy)
    return calls


@needs_kernels
def test_equals_softplus_and_gate_outside(given: list[tuple[Any, ...]]) -> None:
    found, expected = model("fused"), model("reference")
    logits = [m(tokens(LONG)) for m in (found, expected)]
    assert [softplus for _, _, softplus in given] == [True, True, False, False]
    assert all(gate is not None and bias is not None for gate, bias, _ in given[:2])
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    for out in logits:
        out.square().mean().backward()
    for (name, a), b in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and b.grad.any()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6, msg=name)


@needs_kernels
def test_states_go_in_and_out(given: list[tuple[Any, ...]]) -> None:
    found, expected = model("fused"), model("reference")
    sequence = tokens(2 * LONG)
    with torch.no_grad():
        whole = expected(sequence)
        _, states = found(sequence[:, :LONG], return_states=True)
        rest, last = found(sequence[:, LONG:], states, return_states=True)
        _, wanted = expected(sequence, return_states=True)
    assert [softplus for _, _, softplus in given] == [False] * 2 + [True] * 4 + [False] * 2
    torch.testing.assert_close(rest, whole[:, LONG:], rtol=1e-4, atol=1e-5)
    for mine, reference in zip(last, wanted, strict=True):
        torch.testing.assert_close(mine.ssm, reference.ssm, rtol=1e-4, atol=1e-5)


@needs_kernels
def test_autocast_trains(given: list[tuple[Any, ...]]) -> None:
    exact = model("reference").double()(tokens(LONG))
    exact.square().mean().backward()
    mine = model("fused")
    with torch.autocast(DEVICE.type, torch.bfloat16):
        logits = mine(tokens(LONG))
    assert given[-1][2] is True
    assert (logits.double() - exact).norm() < 0.03 * exact.norm()
    logits.float().square().mean().backward()
    for name, parameter in mine.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


@needs_kernels
def test_what_is_watched_is_made(given: list[tuple[Any, ...]]) -> None:
    """With a hook on dt or y these come into being, and the logits stay what they were."""
    mine = model("fused")
    plain = mine(tokens(LONG))
    for name in ("dt", "y"):
        given.clear()
        with record_activations(mine, f"mixer.{name}") as seen:
            logits = mine(tokens(LONG))
        assert len(seen) == 2 and not any(softplus for _, _, softplus in given)
        torch.testing.assert_close(logits, plain, rtol=1e-5, atol=1e-6)


@needs_kernels
def test_a_decoder_through_the_kernels_that_a_gpu_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen encoder, states handed over, convolution too: as in the chapter on memory."""
    found = []
    for preferred in (False, True):
        for op in (scan.OP, conv.OP):
            kernels = replace(backends._OPS[op]["fused"], prefers=lambda facts, p=preferred: p)
            monkeypatch.setitem(backends._OPS[op], "fused", kernels)
        whole = StateAutoencoder(model("auto"), AutoencoderConfig(LONG))
        with backends.recording() as used:
            loss = whole.loss(tokens(LONG))
        loss.backward()
        assert (used == {scan.OP: ["fused"], conv.OP: ["fused"]}) == preferred
        found.append((loss.detach(), {n: p.grad for n, p in whole.decoder.named_parameters()}))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("backend", ["auto", "fused", "chunked", "reference", "mamba_ssm"])
def test_short_sequences_and_other_backends_get_them_done(backend: str) -> None:
    assert not fused_scan.absorbs(torch.zeros(1, 4, SHORT, device=DEVICE), 8, backend)
    long = torch.zeros(1, 4, LONG, device=DEVICE)
    there = MISSING is None and (backend == "fused" or (backend == "auto" and long.is_cuda))
    assert fused_scan.absorbs(long, 8, backend) == there
    assert not fused_scan.absorbs(long, 256, backend)  # more than a warp's registers hold
    if backend == "auto":
        assert not fused_scan.absorbs(long.double(), 8)  # kernels have no float64


@needs_kernels
@pytest.mark.parametrize("length", [SHORT, LONG])
def test_the_last_position_alone_through_the_kernels(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last layer's scan nothing is read but its last state."""
    kernels = replace(backends._OPS[scan.OP]["fused"], prefers=lambda facts: True)
    monkeypatch.setitem(backends._OPS[scan.OP], "fused", kernels)
    mine, found = model("auto"), []
    for logits in (
        lambda text: mine(text, last_token_only=True),
        lambda text: mine(text)[:, -1],
    ):
        mine.zero_grad()
        out = logits(tokens(length))
        out.square().sum().backward()
        found.append((out.detach(), {name: p.grad for name, p in mine.named_parameters()}))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name], rtol=1e-4, atol=1e-5, msg=name)
