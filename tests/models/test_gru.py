from __future__ import annotations

import math

import torch

from lib.models.config import GRUConfig, InitialisationConfig, LanguageModelConfig
from lib.models.gru import GRUMixer, GRUState
from lib.models.language_model import build_language_model


def test_one_step_by_the_equations() -> None:
    """Reset r, update z, candidate n; h' = (1 - z) n + z h (arXiv 1406.1078, eqs. 5 to 8, with the
    library's r outside the matrix)."""
    torch.manual_seed(0)
    mixer = GRUMixer(GRUConfig(3, 2)).double()
    x, h = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    p = {name: value.detach() for name, value in mixer.gru.named_parameters()}
    into = (x @ p["weight_ih_l0"].T + p["bias_ih_l0"]).chunk(3, 1)
    over = (h @ p["weight_hh_l0"].T + p["bias_hh_l0"]).chunk(3, 1)
    r, z = torch.sigmoid(into[0] + over[0]), torch.sigmoid(into[1] + over[1])
    new = (1 - z) * torch.tanh(into[2] + r * over[2]) + z * h
    with torch.no_grad():
        y, state = mixer.step(x, GRUState(h))
    torch.testing.assert_close(state.hidden, new)
    torch.testing.assert_close(y, new @ mixer.out_proj.weight.detach().T)


def test_weights_come_from_the_seed() -> None:
    config = LanguageModelConfig(9, 2, (GRUConfig(8, 16),))
    torch.manual_seed(0)
    first = build_language_model(config, seed=3).state_dict()
    torch.manual_seed(1)
    second = build_language_model(config, seed=3).state_dict()
    other = build_language_model(config, seed=4).state_dict()
    name = "layers.0.mixer.gru.weight_hh_l0"
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not torch.equal(first[name], other[name])
    # uniform within 1 / sqrt(16): variance a third of 1 / 16
    assert first[name].abs().max() <= 0.25
    assert math.isclose(float(first[name].std()), 0.25 / 3**0.5, rel_tol=0.1)


def test_biases_start_at_zero_where_all_do() -> None:
    start = InitialisationConfig(zero_biases=True)
    config = LanguageModelConfig(9, 1, (GRUConfig(8, 16),), initialisation=start)
    gru = build_language_model(config, seed=0).layers[0].mixer.gru
    assert not gru.bias_ih_l0.any() and not gru.bias_hh_l0.any() and gru.weight_hh_l0.any()
