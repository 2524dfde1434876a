"""What a first layer makes of each token by itself, made once for each: equal logits, gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from lib.models import language_model as module
from lib.models.config import LanguageModelConfig, Mamba1Config, Mamba2Config
from lib.models.language_model import LanguageModel, Layer, build_language_model
from lib.training.ensemble import Ensemble

M, VOCAB, LENGTH, BATCH = 8, 11, 6, 50
ONE_HEAD = Mamba2Config(M, d_state=6, headdim=16, chunk_size=32)
BLOCKS = {
    "one head": ONE_HEAD,
    "one head, bias": dataclasses.replace(ONE_HEAD, bias=True),
    "one head, gated past": dataclasses.replace(ONE_HEAD, conv_bypass="gated"),
    "heads": dataclasses.replace(ONE_HEAD, headdim=4),
    "heads and groups": dataclasses.replace(ONE_HEAD, headdim=4, n_groups=2),
}
STACKS: dict[str, dict[str, Any]] = {
    "": {},
    "tied": {"tie_embeddings": True},
    "learned positions": {"positional_encoding": "learned", "max_length": LENGTH + 2},
    "sines": {"positional_encoding": "sinusoidal", "max_length": LENGTH + 2},
    "layer norms": {"norm_kind": "layer"},
    "no norm": {"pre_norm": False},
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_CHANNELS", M)
    monkeypatch.setattr(module, "FEWER", 1)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of which projections were made by table, call by call."""
    rows: list[int] = []
    plain = Layer.projected

    def projected(self: Layer, x: Tensor) -> tuple[Tensor, ...]:
        rows.append(len(x))
        return plain(self, x)

    monkeypatch.setattr(Layer, "projected", projected)
    return rows


def model_of(block: Any = ONE_HEAD, n_layers: int = 2, **stack: Any) -> LanguageModel:
    config = LanguageModelConfig(VOCAB, n_layers, (block,), **stack)
    model = build_language_model(config, seed=0).double()
    with torch.no_grad():  # norms and positions that are not those of a new model
        for k, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(k))
            parameter.add_(0.1 * noise.to(parameter.dtype))
    return model


def tokens(batch: int = BATCH, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (batch, LENGTH), generator=torch.Generator().manual_seed(seed))


def results(model: LanguageModel, **options: Any) -> tuple[Tensor, ...]:
    model.zero_grad()
    logits = model(tokens(), **options)
    (logits * torch.arange(logits.numel()).view(logits.shape).cos()).sum().backward()
    return logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("last_token_only", [True, False])
@pytest.mark.parametrize("stack", list(STACKS))
@pytest.mark.parametrize("block", list(BLOCKS))
def test_equals_what_is_made_of_every_position(
    monkeypatch: pytest.MonkeyPatch, made: list[int], block: str, stack: str, last_token_only: bool
) -> None:
    model = model_of(BLOCKS[block], **STACKS[stack])
    options: dict[str, Any] = {"last_token_only": last_token_only}
    if model.positions is not None:
        options["start"] = 2
    found = results(model, **options)
    assert made == [32 * (1 if model.positions is None else LENGTH)]  # 11 tokens, rounded up
    monkeypatch.setattr(module, "FEWER", 10**9)
    expected = results(model, **options)
    assert len(made) == 1 and len(found) == len(expected) > 10
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stack", ["tied", "learned positions"])
def test_equals_it_for_every_run_of_an_ensemble(made: list[int], stack: str) -> None:
    models = [model_of(**STACKS[stack]) for _ in range(3)]
    with torch.no_grad():
        for k, model in enumerate(models):
            for parameter in model.parameters():
                parameter.mul_(1 + 0.1 * k)
    batches = torch.stack([tokens(seed=k) for k in range(3)])
    logits = Ensemble(models)(batches)
    assert len(made) == 1
    for model, batch, mine in zip(models, batches, logits, strict=True):
        torch.testing.assert_close(mine, model(batch), rtol=1e-10, atol=1e-10)


def test_it_is_done_where_it_pays_alone(monkeypatch: pytest.MonkeyPatch, made: list[int]) -> None:
    model = model_of()
    with torch.no_grad():
        model(tokens(5))  # 30 positions, and 32 rows of a table
        assert not made
        model(tokens(6))
        assert made == [32]
        model.run_embedded(model.embedding(tokens()))  # nobody says of which tokens
        states = model(tokens(), return_states=True)[1]
        model(tokens(), states)
        model_of(n_layers=1)(tokens(), last_token_only=True)  # makes less of most positions
        model_of(Mamba1Config(M, d_state=4))(tokens())
        model_of(norm_place="after")(tokens())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model.float()(tokens())
        model_of().bfloat16()(tokens())
        assert model_of(BLOCKS["heads"]).to("meta")(tokens().to("meta")).is_meta
        assert made == [32]
        model(tokens())
        assert made == [32, 32]
        monkeypatch.setattr(module, "LEAST_CHANNELS", M + 1)
        model(tokens())
    assert made == [32, 32]


@pytest.mark.parametrize(
    "name",
    [
        "embedding",
        "positions",
        "act_embed",
        *(f"layers.0{part}" for part in ("", ".norm", ".mixer", ".mixer.in_proj")),
    ],
)
def test_not_where_somebody_watches_what_it_is_made_of(made: list[int], name: str) -> None:
    model = model_of(**STACKS["learned positions"])
    handle = model.get_submodule(name).register_forward_hook(lambda *_: None)
    before = model(tokens())
    assert not made
    handle.remove()
    torch.testing.assert_close(model(tokens()), before, rtol=1e-10, atol=1e-10)
    assert len(made) == 1


def test_what_is_made_can_be_watched_and_edited(made: list[int]) -> None:
    """As where it is made of each position: a convolution's input of zeros leaves its bias."""
    model, shapes = model_of(), []

    def zeros(_: torch.nn.Module, __: Any, out: Tensor) -> Tensor:
        shapes.append(tuple(out.shape))
        return torch.zeros_like(out)

    plain = model(tokens())
    model.get_submodule("layers.0.mixer.act_pre_conv").register_forward_hook(zeros)
    edited = model(tokens())
    assert shapes == [(BATCH, LENGTH, 16 + 2 * 6)] and len(made) == 2
    assert (edited - plain).abs().max() > 1e-3
