"""What is read from a model for drawing, against loops over its parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lib.analysis.flow import cosine_by_chance, flow, kernel_cosines, logit_lens, read_later
from lib.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
)
from lib.models.language_model import LanguageModel, build_language_model
from tests.analysis.test_cuts import Attention

LENGTH = 5
TOKENS = torch.tensor([3, 1, 4, 1, 5])
MAMBA2 = Mamba2Config(8, d_state=3, headdim=8, n_groups=2, chunk_size=LENGTH)
BLOCKS: dict[str, Any] = {"mamba1": Mamba1Config(8, d_state=3), "mamba2": MAMBA2}


def make(*blocks: Any, **changes: Any) -> LanguageModel:
    config = LanguageModelConfig(9, 2, blocks, **changes)
    return build_language_model(config, seed=3).double().requires_grad_(False)


@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
def test_the_lens_reads_what_a_shorter_model_would_say(block: str, final_norm: bool) -> None:
    model = make(BLOCKS[block], final_norm=final_norm)
    lens = logit_lens(model, TOKENS)
    assert lens.tokens.shape == lens.probabilities.shape == (3, LENGTH)
    for depth in range(3):
        shorter = make(BLOCKS[block], final_norm=final_norm)
        shorter.load_state_dict(model.state_dict())
        shorter.layers = shorter.layers[:depth]
        odds = shorter(TOKENS[None])[0].softmax(-1)
        for at in range(LENGTH):
            best = max(range(9), key=lambda token: float(odds[at, token]))
            assert int(lens.tokens[depth, at]) == best
            assert float(lens.probabilities[depth, at]) == pytest.approx(float(odds[at, best]))


def activations(model: LanguageModel, name: str) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    handles = [
        getattr(layer.mixer, f"act_{name}").register_forward_hook(
            lambda module, inputs, value: found.append(value[0])
        )
        for layer in model.layers
    ]
    model(TOKENS[None])
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("head", [0, 1])
def test_flow_of_mamba2_is_S_of_one_head_at_any_length(head: int) -> None:
    model = make(MAMBA2)
    S = flow(model, TOKENS, head)
    expected = torch.stack([found[head] for found in activations(model, "S")])
    assert S.shape == (2, LENGTH, LENGTH) and torch.equal(S, expected)
    longer = flow(model, torch.cat([TOKENS, TOKENS]), head)  # where S is never formed
    torch.testing.assert_close(longer[:, :LENGTH, :LENGTH], S, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"head is 2, allowed: 0..1"):
        flow(model, TOKENS, 2)


def test_flow_of_mamba1_is_the_root_mean_square_over_channels() -> None:
    model = make(BLOCKS["mamba1"])
    S = flow(model, TOKENS)
    parts = zip(*(activations(model, name) for name in ("dt", "B", "C")), strict=True)
    for number, (dt, B, C) in enumerate(parts):
        A = -torch.exp(model.layers[number].mixer.A_log)
        for i in range(LENGTH):
            for j in range(LENGTH):
                total = 0.0
                for d in range(16):
                    gap = float(dt[j + 1 : i + 1, d].sum())
                    entry = sum(
                        float(C[i, n] * B[j, n]) * math.exp(float(A[d, n]) * gap) for n in range(3)
                    )
                    total += entry**2 / 16
                expected = math.sqrt(total) if i >= j else 0.0
                assert float(S[number, i, j]) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_flow_of_other_blocks_is_their_S() -> None:
    model = make(MAMBA2)
    model.layers[1].mixer = Attention()
    S = flow(model, TOKENS)
    assert torch.equal(S[1], torch.ones(LENGTH, LENGTH).tril().double())
    model.layers[1].mixer = torch.nn.Identity()
    model.layers[1].mixer.forward = lambda x, state, return_state: x  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=r"layers.1.mixer is a Identity, which has no S"):
        flow(model, TOKENS)


@pytest.mark.parametrize("part", [None, "x", "B", "C"])
def test_cosines_between_taps(part: str | None) -> None:
    model = make(MAMBA2)
    channels = {None: (0, 28), "x": (0, 16), "B": (16, 22), "C": (22, 28)}[part]
    found = kernel_cosines(model, part)
    assert len(found) == 2
    for layer, matrix in zip(model.layers, found, strict=True):
        taps = [layer.mixer.conv.weight[slice(*channels), tap].tolist() for tap in range(4)]
        for i, one in enumerate(taps):
            for j, two in enumerate(taps):
                dot = sum(a * b for a, b in zip(one, two, strict=True))
                cosine = dot / (math.hypot(*one) * math.hypot(*two))
                assert float(matrix[i, j]) == pytest.approx(cosine, abs=1e-12)


def test_cosines_of_special_kernels() -> None:
    (ones, _) = kernel_cosines(make(Mamba1Config(8, conv_kind="all_one")))
    torch.testing.assert_close(ones, torch.ones(4, 4).double())
    model = make(BLOCKS["mamba1"])
    model.layers[0].mixer.conv.weight.zero_()[:4] = torch.eye(4)
    assert torch.equal(kernel_cosines(model)[0], torch.eye(4).double())
    with pytest.raises(ValueError, match=r"part is 'B', allowed in layer 0: None, x"):
        kernel_cosines(model, "B")
    with pytest.raises(ValueError, match=r"layer 0 has no kernel"):
        kernel_cosines(make(Mamba1Config(8, conv_kind="none")))


def test_a_transformers_flow_and_kernels() -> None:
    """Feed-forward layers hand nothing from token to token and have no kernel."""
    mixer = AttentionConfig(d_model=8, n_heads=2, d_qk=8, d_v=16, conv_kind="standard")
    model = make(mixer, FeedForwardConfig(d_model=8, d_hidden=8))
    S = flow(model, TOKENS, head=1)
    assert S.shape == (2, LENGTH, LENGTH)
    torch.testing.assert_close(S[0].sum(-1), torch.ones(LENGTH).double())
    assert torch.equal(S[0], S[0].tril()) and torch.equal(S[1], torch.eye(LENGTH).double())
    weight = model.layers[0].mixer.conv.weight.detach()
    places = {None: (0, 32), "q": (0, 8), "k": (8, 16), "v": (16, 32)}
    for part, (first, end) in places.items():
        (found,) = kernel_cosines(model, part)
        taps = weight[first:end].double()
        norms = taps.square().sum(0).sqrt()
        expected = (taps.T @ taps) / (norms[:, None] * norms)
        torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match=r"part is 'x', allowed in layer 0: None, q, k, v"):
        kernel_cosines(model, "x")
    with pytest.raises(ValueError, match=r"head is 2, allowed: 0..1"):
        flow(model, TOKENS, head=2)


def test_attention_without_a_convolution_has_no_cosines_but_a_flow() -> None:
    plain = AttentionConfig(d_model=8, n_heads=2)
    model = make(plain, FeedForwardConfig(d_model=8, d_hidden=8))
    for part in (None, "q"):
        with pytest.raises(ValueError, match=r"layer 0 has no kernel, allowed: layers with a conv"):
            kernel_cosines(model, part)
    assert torch.equal(flow(model, TOKENS)[0], activations_of(model.layers[0].mixer, model))
    # a hybrid names the layer that lacks one, counted with the feed-forward layers
    mixed = make(FeedForwardConfig(d_model=8, d_hidden=8), plain)
    with pytest.raises(ValueError, match=r"layer 1 has no kernel"):
        kernel_cosines(mixed)


def activations_of(mixer: Any, model: LanguageModel) -> torch.Tensor:
    """S of the first head, as the block itself computes it."""
    found: list[torch.Tensor] = []
    handle = mixer.act_S.register_forward_hook(lambda module, inputs, value: found.append(value))
    model(TOKENS[None])
    handle.remove()
    return found[0][0, 0]


def test_lines_from_places_are_compared_with_the_others_that_end_there() -> None:
    S = torch.randn(2, LENGTH, LENGTH, dtype=torch.float64).tril()
    places = (1, 2)
    rows = range(3, LENGTH)
    for layer, found in zip(S, read_later(S, places), strict=True):
        chosen = [abs(float(layer[i, j])) for i in rows for j in places]
        others = [abs(float(layer[i, j])) for i in rows for j in range(i + 1) if j not in places]
        wanted = sum(chosen) / len(chosen) / (sum(others) / len(others))
        assert float(found) == pytest.approx(wanted)
    assert read_later(torch.ones(1, LENGTH, LENGTH).tril(), places).tolist() == [1.0]
    cut = S.clone()
    cut[:, 3:, 1:3] = 0
    assert read_later(cut, places).tolist() == [0.0, 0.0]
    for wrong in ((), (LENGTH - 1,), (-1, 2)):
        with pytest.raises(ValueError, match=r"places are .*, allowed: of 0..3, at least one"):
            read_later(S, wrong)


def test_chance_gives_fewer_channels_larger_cosines() -> None:
    # two vectors of one number are parallel; of many, nearly orthogonal
    assert cosine_by_chance(1) == pytest.approx(1) and cosine_by_chance(10_000) < 0.03
    found = [cosine_by_chance(channels) for channels in (4, 16, 64, 256)]
    assert found == sorted(found, reverse=True)
    assert cosine_by_chance(64, taps=2) < cosine_by_chance(64)
