"""Experts against a loop over tokens, in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.analysis.language import next_token_loss
from lib.models.config import AttentionConfig, InitialisationConfig, LanguageModelConfig, MoEConfig
from lib.models.language_model import LanguageModel, build_language_model
from lib.models.moe import MoEMixer, balance, balance_loss, grouped

CONFIG = MoEConfig(d_model=8, d_hidden=6, n_experts=5, top_k=2)


def make(config: MoEConfig = CONFIG, dtype: torch.dtype = torch.float64) -> MoEMixer:
    mixer = MoEMixer(config).to(dtype)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) / 2)
    return mixer


def tokens_in(count: tuple[int, ...] = (3, 4), dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(*count, 8, generator=draw, dtype=torch.float64).to(dtype)


def by_hand(mixer: MoEMixer, x: Tensor) -> Tensor:
    """Token by token, expert by expert."""
    c, out = mixer.config, []
    for token in x.reshape(-1, c.d_model):
        scores = mixer.router.weight @ token
        best = scores.argsort(descending=True)[: c.top_k]
        total = sum(math.exp(float(scores[e])) for e in best)
        y = torch.zeros_like(token)
        for e in best.tolist():
            hidden = mixer.in_weight[e] @ token
            if c.activation == "swiglu":
                hidden = F.silu(hidden[: c.d_hidden]) * hidden[c.d_hidden :]
            else:
                hidden = F.silu(hidden) if c.activation == "silu" else F.gelu(hidden)
            y = y + torch.exp(scores[e]) / total * (mixer.out_weight[e] @ hidden)
        out.append(y)
    return torch.stack(out).view(x.shape)


@pytest.mark.parametrize("activation", ["swiglu", "silu", "gelu"])
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_each_token_gets_its_best_experts(activation: str, top_k: int) -> None:
    mixer = make(dataclasses.replace(CONFIG, activation=activation, top_k=top_k))  # type: ignore[arg-type]
    x = tokens_in()
    torch.testing.assert_close(mixer(x), by_hand(mixer, x))
    state = mixer.initial_state(3, x.device, x.dtype)
    for position in range(x.shape[1]):
        y, state = mixer.step(x[:, position], state)
        torch.testing.assert_close(y, by_hand(mixer, x[:, position]))


def test_gradients_reach_router_and_experts_and_are_those_of_the_loop() -> None:
    mixer, x = make(), tokens_in().requires_grad_()
    weights = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(2)).double()
    leaves = [x, *mixer.parameters()]
    found = torch.autograd.grad((mixer(x) * weights).sum(), leaves)

    def loop(x: Tensor) -> Tensor:  # gates with gradients, too
        out = []
        for token in x.reshape(-1, 8):
            best = (mixer.router.weight @ token).topk(2)
            gates = best.values.softmax(-1)
            parts = []
            for e in best.indices.tolist():
                gate, up = (mixer.in_weight[e] @ token).chunk(2)
                parts.append(mixer.out_weight[e] @ (F.silu(gate) * up))
            out.append(gates @ torch.stack(parts))
        return torch.stack(out).view(x.shape)

    expected = torch.autograd.grad((loop(x) * weights).sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert all(float(gradient.norm()) > 0 for gradient in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_groups_may_be_empty_and_of_any_size(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(10, 16, generator=draw).to(dtype).requires_grad_()
    weight = torch.randn(4, 8, 16, generator=draw).to(dtype).requires_grad_()
    ends = torch.tensor([0, 4, 4, 10])
    out = grouped(rows, weight, ends)
    expected = torch.cat([rows[:4] @ weight[1].t(), rows[4:] @ weight[3].t()])
    torch.testing.assert_close(out, expected)
    seed = torch.randn(10, 8, generator=draw).to(dtype)
    mine = torch.autograd.grad(out, (rows, weight), seed)
    theirs = torch.autograd.grad(expected, (rows, weight), seed)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert not mine[1][0].any() and not mine[1][2].any()


def test_balance_is_one_when_all_are_alike_and_their_number_when_one_does_all() -> None:
    even = torch.zeros(20, 5)
    chosen = torch.arange(40).view(20, 2) % 5
    assert float(balance(even, chosen)) == pytest.approx(1.0)
    one = torch.full((20, 5), -50.0)
    one[:, 3] = 50.0
    assert float(balance(one, torch.full((20, 1), 3))) == pytest.approx(5.0)
    # by hand: shares 3/4 and 1/4, mean probabilities 0.6 and 0.4
    scores = torch.log(torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.2, 0.8]]))
    found = balance(scores, torch.tensor([[0], [0], [0], [1]]))
    assert float(found) == pytest.approx(2 * (0.75 * 0.6 + 0.25 * 0.4))


def stack(**changes: object) -> LanguageModelConfig:
    attention = AttentionConfig(d_model=8, n_heads=2, d_qk=8, d_v=8, rope_theta=10_000.0)
    block = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return LanguageModelConfig(20, 4, (attention, block))


def model_of(**changes: object) -> LanguageModel:
    return build_language_model(stack(**changes), seed=0)


def test_the_balance_is_part_of_the_loss_in_training_alone() -> None:
    model = model_of(balance=0.5)
    tokens = torch.randint(20, (2, 9), generator=torch.Generator().manual_seed(0))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    assert balance_loss(model) is None
    model.eval()
    plain, _ = next_token_loss(model, inputs, targets)
    model.train()
    with_it, _ = next_token_loss(model, inputs, targets)
    terms = [layer.mixer.balance for layer in model.layers[1::2]]
    assert len(terms) == 2 and all(1 <= float(term.detach()) <= 5 for term in terms)
    torch.testing.assert_close(with_it - plain, 0.5 * sum(terms))
    with_it.backward()
    grad = model.layers[1].mixer.router.weight.grad
    assert grad is not None and float(grad.norm()) > 0


def test_later_tokens_change_nothing_before_them() -> None:
    """What a token gets does not hang on how many others chose its expert."""
    model = model_of(top_k=1).double().eval()
    tokens = torch.randint(20, (4, 10), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(tokens)
        for cut in (1, 5, 9):
            other = tokens.clone()
            other[:, cut:] = (other[:, cut:] + 7) % 20
            torch.testing.assert_close(model(other)[:, :cut], whole[:, :cut], rtol=0, atol=1e-12)
            assert not torch.allclose(model(other)[:, cut:], whole[:, cut:])


def test_experts_start_as_large_as_a_feed_forward_block() -> None:
    """By the fan-in of one expert, not of all that are stacked in one tensor."""
    block = MoEConfig(d_model=64, d_hidden=128, n_experts=4)
    model = build_language_model(LanguageModelConfig(20, 1, (block,)), seed=0)
    mixer = model.layers[0].mixer
    for weight, fan_in in ((mixer.in_weight, 64), (mixer.out_weight, 128)):
        for expert in weight:
            assert float(expert.detach().std()) == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)
    scaled = LanguageModelConfig(20, 1, (block,), initialisation=InitialisationConfig(gamma=1.0))
    mixer = build_language_model(scaled, seed=0).layers[0].mixer
    assert float(mixer.in_weight.detach().std()) == pytest.approx(1 / 64, rel=0.05)
    assert float(mixer.out_weight.detach().std()) == pytest.approx(1 / 128, rel=0.05)


def test_experts_that_cannot_be_say_so() -> None:
    with pytest.raises(ValueError, match=r"top_k is 6, allowed: 1\.\.5 \(n_experts\), whole"):
        dataclasses.replace(CONFIG, top_k=6)
    with pytest.raises(ValueError, match="n_experts is 0, allowed: at least 1"):
        dataclasses.replace(CONFIG, n_experts=0)
    with pytest.raises(ValueError, match="balance is -1"):
        dataclasses.replace(CONFIG, balance=-1)
    with pytest.raises(ValueError, match="activation is 'relu', allowed: silu, gelu, swiglu"):
        dataclasses.replace(CONFIG, activation="relu")  # type: ignore[arg-type]


def test_by_mistake_the_fan_in_of_the_stack_starts_experts_too_small() -> None:
    """As torch's own initialisers take a tensor (experts, out, in)."""
    block = MoEConfig(d_model=64, d_hidden=128, n_experts=4)
    start = InitialisationConfig(expert_fan="stack")
    config = LanguageModelConfig(30, 1, (block,), initialisation=start)
    mixer = build_language_model(config, seed=0).layers[0].mixer
    assert isinstance(mixer, MoEMixer)
    theirs = torch.empty_like(mixer.in_weight)
    torch.nn.init.kaiming_uniform_(theirs, a=math.sqrt(5))  # nn.Linear's
    found = float(mixer.in_weight.detach().abs().max())
    assert found == pytest.approx(float(theirs.abs().max()), rel=0.01)
    assert float(mixer.out_weight.detach().abs().max()) == pytest.approx(
        (64 * 128) ** -0.5, rel=0.01
    )
    with pytest.raises(ValueError, match="expert_fan is 'all', allowed: expert, stack"):
        InitialisationConfig(expert_fan="all")  # type: ignore[arg-type]
