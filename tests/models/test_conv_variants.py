"""Kernels that read the same both ways, that are trained from ones or never, and inputs that pass
the convolution by."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.analysis.activations import record_activations
from lib.config import to_dict
from lib.experiments import find
from lib.models.config import (
    BlockConfig,
    InitialisationConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
)
from lib.models.language_model import LanguageModel, build_language_model
from lib.models.layers import CausalConv
from lib.ops.conv import causal_conv1d
from lib.provenance import ROOT
from lib.store import Store
from lib.training.ensemble import Ensemble

BLOCKS: dict[str, BlockConfig] = {
    "mamba1": Mamba1Config(d_model=16, d_state=4),
    "mamba2": Mamba2Config(d_model=16, d_state=8, headdim=32),
}
CHANGES: dict[str, dict[str, Any]] = {
    "palindromic": {"conv_kind": "palindromic"},
    "palindromic of five": {"conv_kind": "palindromic", "d_conv": 5},
    "trained from ones": {"conv_kind": "all_one", "conv_frozen": False},
    "frozen": {"conv_frozen": True},
    "residual": {"conv_bypass": "residual"},
    "gated": {"conv_bypass": "gated"},
    "palindromic, gated": {"conv_kind": "palindromic", "conv_bypass": "gated"},
}


def make(kind: str, change: dict[str, Any], seed: int = 0, **options: Any) -> LanguageModel:
    block = dataclasses.replace(BLOCKS[kind], **change)
    return build_language_model(LanguageModelConfig(30, 2, (block,), **options), seed=seed).double()


def tokens(length: int = 11, seed: int = 0) -> Tensor:
    return torch.randint(30, (2, length), generator=torch.Generator().manual_seed(seed))


def convs(model: LanguageModel) -> list[CausalConv]:
    return [module for module in model.modules() if isinstance(module, CausalConv)]


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("kind", BLOCKS)
def test_step_by_step_equals_the_full_pass(kind: str, change: dict[str, Any]) -> None:
    model, sequence = make(kind, change), tokens()
    with torch.no_grad():
        expected = model(sequence)
        states, found = model.initial_states(2), []
        for token in sequence.unbind(1):
            logits, states = model.step(token, states)
            found.append(logits)
        torch.testing.assert_close(torch.stack(found, 1), expected)
        for cut in range(1, 11):
            first, states = model(sequence[:, :cut], return_states=True)
            rest = model(sequence[:, cut:], states)
            torch.testing.assert_close(torch.cat([first, rest], 1), expected)


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("kind", BLOCKS)
def test_runs_of_an_ensemble_are_runs_alone(kind: str, change: dict[str, Any]) -> None:
    models = [make(kind, change, seed) for seed in range(3)]
    given = torch.stack([tokens(seed=seed) for seed in range(3)])
    together = Ensemble(models)
    out = together(given)
    out.square().mean((1, 2, 3)).sum().backward()
    grads = {name: p.grad for name, p in together.stacked.named_parameters()}
    for run, model in enumerate(models):
        alone = model(given[run])
        torch.testing.assert_close(out[run], alone)
        alone.square().mean().backward()
        for name, p in model.named_parameters():
            torch.testing.assert_close(grads[name][run], p.grad)  # type: ignore[index]


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5])
def test_a_palindromic_kernel_stays_one_and_is_free_otherwise(taps: int) -> None:
    model = make("mamba2", {"conv_kind": "palindromic", "d_conv": taps})
    before = [conv.kernel().detach().clone() for conv in convs(model)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(3):
        optimizer.zero_grad()
        model(tokens(seed=step)).square().mean().backward()
        optimizer.step()
    for conv, start in zip(convs(model), before, strict=True):
        kernel = conv.kernel()
        assert kernel.shape == (48, taps) and torch.equal(kernel, kernel.flip(1))
        assert not torch.equal(kernel, start)
        names = {name: p.shape for name, p in conv.named_parameters()}
        assert names == {"first_half": (48, (taps + 1) // 2), "bias": (48,)}


def test_a_palindromic_kernel_gives_reversed_windows_one_answer() -> None:
    conv = CausalConv(3, 4, "palindromic", True, "auto").double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        conv.first_half.copy_(torch.randn(3, 2, dtype=torch.float64, generator=generator))
        window = torch.randn(1, 4, 3, dtype=torch.float64, generator=generator)
        there, back = (conv(x, None, False)[0][:, -1] for x in (window, window.flip(1)))
        torch.testing.assert_close(there, back)
        conv.first_half[:, 0] += 1  # still, since the far tap follows
        moved = conv(window, None, False)[0][:, -1]
        torch.testing.assert_close(moved, conv(window.flip(1), None, False)[0][:, -1])
        assert not torch.allclose(moved, there)


@pytest.mark.parametrize("gamma", [None, 0.5])
def test_each_tap_starts_as_a_standard_one_does(gamma: float | None) -> None:
    scope = ("embedding", "linear", "conv", "head")
    start = InitialisationConfig(gamma=gamma, scope=scope)
    stds = []
    for kind in ("standard", "palindromic"):
        block = dataclasses.replace(BLOCKS["mamba2"], d_state=2_000, conv_kind=kind)
        config = LanguageModelConfig(30, 1, (block,), initialisation=start)
        (conv,) = convs(build_language_model(config, seed=0))
        stds.append(conv.kernel().std(0).tolist())
    assert stds[0] == pytest.approx(stds[1], rel=0.06)
    assert stds[0][0] == pytest.approx(12**-0.5 if gamma is None else 0.5, rel=0.06)


@pytest.mark.parametrize("kind", BLOCKS)
def test_what_is_frozen_stays_and_what_is_not_moves(kind: str) -> None:
    for change, moves, first in (
        ({"conv_kind": "all_one"}, False, 1.0),
        ({"conv_kind": "all_one", "conv_frozen": True}, False, 1.0),
        ({"conv_kind": "all_one", "conv_frozen": False}, True, 1.0),
        ({"conv_frozen": True}, False, None),
        ({"conv_frozen": False}, True, None),
    ):
        model = make(kind, change)
        (before, _) = [conv.kernel().detach().clone() for conv in convs(model)]
        assert (before == 1).all() if first else before.std() > 0.1
        model(tokens()).square().mean().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        assert torch.equal(convs(model)[0].kernel(), before) is not moves


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_frozen_kernel_starts_as_the_trained_one(kind: str) -> None:
    plain, frozen = make(kind, {}), make(kind, {"conv_frozen": True})
    for a, b in zip(convs(plain), convs(frozen), strict=True):
        assert torch.equal(a.kernel(), b.kernel())
    torch.testing.assert_close(plain(tokens()), frozen(tokens()))


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("bypass", ["residual", "gated"])
def test_what_passes_the_convolution_by(kind: str, bypass: str) -> None:
    model = make(kind, {"conv_bypass": bypass})
    with record_activations(model) as found, torch.no_grad():
        model(tokens())
    name = "layers.0.mixer"
    x, given = found[f"{name}.pre_conv"], found[f"{name}.post_conv"]
    conv = convs(model)[0]
    kernel, bias = conv.kernel(), conv.bias
    assert bias is not None
    padded = F.pad(x, (0, 0, 3, 0))
    plain = sum(padded[:, k : k + x.shape[1]] * kernel[:, k] for k in range(4)) + bias
    convolved = F.silu(plain)
    expected = convolved + x if bypass == "residual" else convolved * x
    torch.testing.assert_close(given, expected)
    torch.testing.assert_close(convolved, causal_conv1d(x.mT, kernel, bias, "silu").mT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_kind": "mirror"}, "conv_kind is 'mirror', allowed: standard, all_one, palindromic"),
        ({"conv_kind": "palindromic", "conv_frozen": True}, "conv_frozen is True, allowed: None"),
        ({"conv_kind": "none", "conv_frozen": False}, "conv_frozen is False, allowed: None"),
        ({"conv_bypass": "around"}, "conv_bypass is 'around', allowed: none, residual, gated"),
        ({"conv_kind": "none", "conv_bypass": "gated"}, "conv_bypass is 'gated', allowed: none"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", BLOCKS)
def test_bad_choices_are_refused(kind: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BLOCKS[kind], **change)


def test_published_records_keep_their_identity() -> None:
    """The fields are newer than the records: at their defaults they are no part of a cell."""
    name = "achilles.phase_diagram"
    experiment, store = find(name), Store.at(ROOT)
    files = sorted((ROOT / "book" / "results" / name).glob("*.json"))
    cells = experiment.cells("paper")
    assert "conv_bypass" not in json.dumps(to_dict(cells[0]))
    found = store.records(name, experiment.protocol, cells)
    assert sum(record is not None for record in found) == len(files) > 0
