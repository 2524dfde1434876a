"""Models in float32, in half precision and under autocast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from lib.models.config import BlockConfig, LanguageModelConfig, Mamba1Config, Mamba2Config
from lib.models.language_model import LanguageModel, build_language_model

BLOCKS: dict[str, BlockConfig] = {
    "mamba1": Mamba1Config(32, d_state=8),
    "mamba2": Mamba2Config(32, d_state=16, headdim=16, n_groups=2, chunk_size=16),
    "palindromic": Mamba1Config(32, d_state=8, conv_kind="palindromic", conv_bypass="residual"),
    "gated": Mamba2Config(32, d_state=16, headdim=64, conv_bypass="gated", chunk_size=16),
}
# relative to the largest logit; bfloat16 has 8 bits, float16 has 11
ALLOWED = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def make(block: str) -> LanguageModel:
    return build_language_model(LanguageModelConfig(40, 2, (BLOCKS[block],)), seed=0)


def tokens(length: int = 24) -> Tensor:
    return torch.randint(40, (2, length), generator=torch.Generator().manual_seed(0))


def gap(found: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    return float((found.double() - expected).abs().max() / expected.abs().max())


def decode(model: LanguageModel, sequence: Tensor) -> tuple[Tensor, list[torch.dtype]]:
    states, found = model.initial_states(len(sequence)), []
    for token in sequence.unbind(1):
        logits, states = model.step(token, states)
        found.append(logits)
    return torch.stack(found, 1), [state.ssm.dtype for state in states]


@pytest.mark.parametrize("dtype", list(ALLOWED), ids=str)
@pytest.mark.parametrize("block", list(BLOCKS))
def test_full_pass_and_decoding_in_every_precision(block: str, dtype: torch.dtype) -> None:
    sequence = tokens()
    with torch.no_grad():
        model = make(block).to(dtype)
        start = model.initial_states(2)
        # the rounded weights, exactly: what remains is the rounding of the computation
        exact = make(block).to(dtype).double()(sequence)
        full, kept = model(sequence, return_states=True)
        steps, state_dtypes = decode(model, sequence)
        _, resumed = model.step(sequence[:, 0], kept, sequence.shape[1])
    assert full.dtype == steps.dtype == dtype
    assert gap(full, exact) < ALLOWED[dtype] and gap(steps, exact) < ALLOWED[dtype]
    # a recurrent state in half precision would forget what is smaller than its rounding
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    held = {state.ssm.dtype for state in (*start, *kept, *resumed)}
    assert held == set(state_dtypes) == {wide}
    assert all(state.conv.dtype == dtype for state in kept)


@pytest.mark.parametrize("block", list(BLOCKS))
def test_autocast_trains_and_decodes(block: str) -> None:
    sequence, model = tokens(), make(block)
    with torch.no_grad():
        exact = make(block).double()(sequence)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(sequence)
        with torch.no_grad():
            steps, state_dtypes = decode(model, sequence)
    assert gap(logits.detach(), exact) < ALLOWED[torch.bfloat16]
    assert gap(steps, exact) < ALLOWED[torch.bfloat16] and set(state_dtypes) == {torch.float32}
    logits.float().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


# within a chunk of Mamba-2 and beyond, where different forms of the scan leave the state
@pytest.mark.parametrize("length", [8, 24])
@pytest.mark.parametrize("block", list(BLOCKS))
def test_a_state_from_autocast_can_be_used_with_and_without_it(block: str, length: int) -> None:
    model, sequence = make(block), tokens(length + 4)
    for decoding in (True, False):
        with torch.no_grad():
            exact = make(block).double()(sequence)[:, -1]
            with torch.autocast("cpu", torch.bfloat16):
                _, states = model(sequence[:, :length], return_states=True)
            assert {state.ssm.dtype for state in states} == {torch.float32}
            with torch.autocast("cpu", torch.bfloat16, enabled=decoding):
                for token in sequence[:, length:].unbind(1):
                    logits, states = model.step(token, states)
        assert gap(logits, exact) < ALLOWED[torch.bfloat16]


@pytest.mark.parametrize("block", list(BLOCKS))
def test_autocast_keeps_the_range_of_dt(block: str) -> None:
    """With no input dt is the softplus of its bias; in bfloat16 it would be off by a percent."""
    mixer = make(block).layers[0].mixer
    bias = (
        (mixer.dt_proj.bias if BLOCKS[block].kind == "mamba1" else mixer.dt_bias).detach().double()
    )
    found: list[Tensor] = []
    mixer.act_dt.register_forward_hook(lambda module, inputs, output: found.append(output))
    if BLOCKS[block].kind == "mamba1":
        mixer.conv.bias.data.zero_()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixer(torch.zeros(1, 3, 32))
    expected = softplus(bias).expand(1, 3, -1)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=0)
