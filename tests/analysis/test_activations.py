from __future__ import annotations

import pytest
import torch

from lib.analysis.activations import activation_names, record_activations
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
