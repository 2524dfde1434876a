"""The fused Mamba-2 block inside models: the same numbers, and no silent way around it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lib.analysis.activations import record_activations
from lib.models.config import LanguageModelConfig, Mamba2Config
from lib.models.language_model import LanguageModel, build_language_model
from lib.ops import backends
from lib.ops.block import OP

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MISSING = backends.missing(OP, "fused", DEVICE)
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"fused block: {MISSING}")


def model(backend: str, block: dict[str, Any] | None = None, **config: Any) -> LanguageModel:
    mamba2 = Mamba2Config(**{"d_model": 16, "d_state": 16, "headdim": 32, **(block or {})})
    whole = LanguageModelConfig(30, 2, (mamba2,), **config)
    return build_language_model(whole, seed=1, device=DEVICE, backend=backend)


def tokens() -> Tensor:
    return torch.randint(30, (3, 5), generator=torch.Generator().manual_seed(0)).to(DEVICE)


NORMS: dict[str, dict[str, Any]] = {
    "before": {}, "none": {"pre_norm": False}, "after": {"norm_place": "after"},
}  # fmt: skip
KERNELS: dict[str, dict[str, Any]] = {
    "standard": {}, "palindromic": {"conv_kind": "palindromic"}, "frozen": {"conv_frozen": True},
}  # fmt: skip
CASES = [(norm, "standard", last) for norm in NORMS for last in (False, True)]
CASES += [("before", "palindromic", False), ("before", "frozen", True)]


@pytest.mark.parametrize(("norm", "kernel", "last"), CASES)
def test_equals_the_plain_layers(norm: str, kernel: str, last: bool) -> None:
    found, expected = (model(b, KERNELS[kernel], **NORMS[norm]) for b in ("fused", "quadratic"))
    logits = [m(tokens(), last_token_only=last) for m in (found, expected)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    for out in logits:
        out.square().mean().backward()
    for (name, a), b in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_the_record_says_what_ran() -> None:
    with backends.recording() as used:
        model("fused")(tokens())
    assert used == {OP: ["fused"]}


@pytest.mark.skipif(DEVICE.type != "cpu", reason="on a GPU auto takes the fused block")
def test_auto_never_takes_the_interpreter() -> None:
    with backends.recording() as used:
        model("auto")(tokens())
    assert OP not in used and used["ssd"] == ["quadratic"]


def test_watched_activations_are_refused() -> None:
    watched = model("fused")
    with (
        record_activations(watched, ".S"),
        pytest.raises(backends.BackendError, match=r"activations are watched.*use auto"),
    ):
        watched(tokens())


def test_states_are_refused() -> None:
    with pytest.raises(backends.BackendError, match="neither takes nor returns a state"):
        model("fused")(tokens(), return_states=True)


@pytest.mark.parametrize("bypass", ["residual", "gated"])
def test_what_passes_the_convolution_by_is_refused(bypass: str) -> None:
    with pytest.raises(backends.BackendError, match=f"conv_bypass is {bypass}; use auto"):
        model("fused", {"conv_bypass": bypass})(tokens())


@pytest.mark.parametrize(
    "block", [{"headdim": 16}, {"bias": True}, {"conv_kind": "none"}], ids=["heads", "bias", "conv"]
)
def test_blocks_of_another_kind_are_refused(block: dict[str, Any]) -> None:
    with pytest.raises(backends.BackendError, match="one head, no bias"):
        model("fused", block)(tokens())


def test_a_kernel_of_ones_is_never_trained() -> None:
    ones = model("fused", {"conv_kind": "all_one"})
    ones(tokens()).square().mean().backward()
    assert "layers.0.mixer.conv.weight" not in dict(ones.named_parameters())
    assert torch.equal(ones.layers[0].mixer.conv.weight, torch.ones(64, 4, device=DEVICE))  # type: ignore[union-attr]
