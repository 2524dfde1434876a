from __future__ import annotations

import pytest
import torch

from lib.analysis.activations import (
    activation_names,
    record_activations,
    replace_activations,
)
from lib.experiments.achilles import mamba2_model, third_party_model
from lib.models.language_model import build_language_model


def test_names_are_the_same_in_every_layer() -> None:
    model = build_language_model(mamba2_model(2, None, d_state=8), seed=0)
    names = activation_names(model)
    for layer in (0, 1):
        for name in ("pre_conv", "post_conv", "dt", "B", "C", "x", "S", "y", "z"):
            assert f"layers.{layer}.mixer.{name}" in names
        assert f"layers.{layer}.resid" in names
    assert "embed" in names


def test_recording_sees_what_flows_and_changes_nothing() -> None:
    model = build_language_model(mamba2_model(2, None, d_state=8), seed=0)
    tokens = torch.arange(20, 28)[None]
    with torch.no_grad():
        expected = model(tokens)
        with record_activations(model) as found:
            logits = model(tokens)
        assert torch.equal(logits, expected)
        S = found["layers.0.mixer.S"]
        assert S.shape == (1, 1, 8, 8) and torch.equal(S, S.tril())
        head = model.head(model.final_norm(found["layers.1.resid"]))
        assert torch.equal(head, expected)
        assert torch.equal(found["embed"], model.embedding(tokens))
    assert not any(module._forward_hooks for module in model.modules())


def test_mamba1_and_wrong_names() -> None:
    model = build_language_model(third_party_model(1, 1.0), seed=0)
    with torch.no_grad(), record_activations(model, "mixer.dt") as found:
        model(torch.arange(8)[None])
    assert found["layers.0.mixer.dt"].shape == (1, 8, 64)
    with (
        pytest.raises(ValueError, match=r"no activation ends in 'mixer.S'"),
        record_activations(model, "mixer.S"),
    ):
        pass


MODELS = {
    "mamba1": lambda: build_language_model(third_party_model(2, 1.0), seed=0),
    "mamba2": lambda: build_language_model(mamba2_model(2, None, d_state=8), seed=0),
}
TOKENS = torch.arange(20, 36).view(2, 8)


@pytest.mark.parametrize("kind", MODELS)
def test_replacing_nothing_or_by_itself_is_the_same_to_the_bit(kind: str) -> None:
    model = MODELS[kind]()
    with torch.no_grad():
        expected = model(TOKENS)
        with record_activations(model) as found, replace_activations(model, {}):
            assert torch.equal(model(TOKENS), expected)
            assert not model._forward_hooks
        with replace_activations(model, dict.fromkeys(activation_names(model), lambda old: None)):
            assert torch.equal(model(TOKENS), expected)
        with replace_activations(model, found):
            assert torch.equal(model(TOKENS), expected)
        assert torch.equal(model(TOKENS), expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("kind", MODELS)
def test_replacing_an_activation_replaces_what_follows(kind: str) -> None:
    model = MODELS[kind]()
    with torch.no_grad():
        with record_activations(model) as first:
            expected = model(TOKENS[:1])
        # the whole stream after block 0 is that of the other sequence: so is the answer
        with replace_activations(model, {"layers.0.resid": first["layers.0.resid"]}):
            assert torch.equal(model(TOKENS[1:]), expected)
        half = {"layers.1.mixer.y": lambda y: y / 2}
        with replace_activations(model, half), record_activations(model, "1.mixer.y") as seen:
            model(TOKENS[:1])
        # a recording set later sees what the replacement left
        assert torch.equal(seen["layers.1.mixer.y"], first["layers.1.mixer.y"] / 2)


def test_misfits_are_named() -> None:
    model = MODELS["mamba2"]()
    with (
        pytest.raises(ValueError, match=r"no activation is named 'layers.0.mixer.Z'; there are \["),
        replace_activations(model, {"layers.0.mixer.Z": lambda z: z}),
    ):
        pass
    for new, message in (
        (torch.zeros(1, 8, 32), r"embed is replaced by shape .*\[1, 8, 32\].*\[2, 8, 32\]"),
        (lambda x: x.double(), r"embed is replaced by dtype torch.float64, allowed: torch.float32"),
    ):
        with pytest.raises(ValueError, match=message), replace_activations(model, {"embed": new}):
            model(TOKENS)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_replacement_that_is_never_reached_is_an_error() -> None:
    model = MODELS["mamba2"]()
    long = torch.full((1, 65), 20)  # beyond one chunk S is never formed
    with replace_activations(model, {"layers.1.mixer.S": torch.zeros_like}):
        model(long[:, :64])
        with pytest.raises(RuntimeError, match=r"layers.1.mixer.S: replaced, but not computed"):
            model(long)
