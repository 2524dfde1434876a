"""Generation: equal to recomputing everything, alone or in a batch, for ours and for theirs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from lib.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
    Mamba3Config,
)
from lib.models.generation import OwnDecoder, decoder_of, generate, state_bytes, stream
from lib.models.language_model import LanguageModel, build_language_model
from lib.models.sampling import SamplingConfig

transformers.logging.set_verbosity_error()

VOCAB = 40
FEED = FeedForwardConfig(32, 48)
MODELS: dict[str, LanguageModelConfig] = {
    "mamba1": LanguageModelConfig(VOCAB, 3, (Mamba1Config(32, d_state=8),)),
    "mamba2": LanguageModelConfig(VOCAB, 3, (Mamba2Config(32, d_state=8, headdim=16),)),
    "mamba3": LanguageModelConfig(VOCAB, 3, (Mamba3Config(32, d_state=8, headdim=16),)),
    "mamba and feed-forward": LanguageModelConfig(VOCAB, 4, (Mamba1Config(32, d_state=8), FEED)),
    "rotary": LanguageModelConfig(
        VOCAB, 4, (AttentionConfig(32, n_heads=2, rope_theta=1e4, conv_kind="standard"), FEED)
    ),
    "hybrid": LanguageModelConfig(
        VOCAB, 4, (Mamba1Config(32, d_state=8), AttentionConfig(32, n_heads=2))
    ),
    "learned positions": LanguageModelConfig(
        VOCAB, 2, (Mamba1Config(32, d_state=8),), positional_encoding="learned", max_length=32
    ),
}
LENGTHS = (5, 1, 9, 5, 2)


def built(name: str) -> LanguageModel:
    """A model whose weights are large enough for its text to depend on all of the prompt."""
    model = build_language_model(MODELS[name], seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(VOCAB, (n,), generator=generator).tolist() for n in LENGTHS]


@torch.no_grad()
def recomputed(model: nn.Module, prompt: list[int], count: int) -> list[int]:
    """Greedy text by reading everything again for every token: no state, no batch."""
    tokens = list(prompt)
    for _ in range(count):
        out = model(torch.tensor([tokens]))
        logits = out if isinstance(out, torch.Tensor) else out.logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("name", MODELS)
def test_prompts_of_unequal_length_get_the_text_that_each_gets_alone(name: str) -> None:
    model = built(name)
    expected = [recomputed(model, prompt, 14) for prompt in prompts()]
    assert len({tuple(text) for text in expected}) == len(expected)  # else a mix-up would not show
    assert generate(model, prompts(), max_new_tokens=14) == expected
    assert [list(stream(model, p, max_new_tokens=14)) for p in prompts()] == expected


def test_only_states_of_one_size_go_on_in_one_batch() -> None:
    joined = {name for name, config in MODELS.items() if OwnDecoder(LanguageModel(config)).joins}
    assert joined == {"mamba1", "mamba2", "mamba3", "mamba and feed-forward"}


@pytest.mark.parametrize("name", ["mamba2", "hybrid"])
def test_sampled_text_is_the_same_in_a_batch_and_by_its_seed_alone(name: str) -> None:
    model, config = built(name), SamplingConfig(0.8, top_k=20, top_p=0.9, seed=11)
    texts = generate(model, prompts(), max_new_tokens=12, sampling=config)
    for row, prompt in enumerate(prompts()):
        own = dataclasses.replace(config, seed=11 + row)
        assert list(stream(model, prompt, max_new_tokens=12, sampling=own)) == texts[row]
    other = dataclasses.replace(config, seed=30)
    assert generate(model, prompts(), max_new_tokens=12, sampling=other) != texts


@pytest.mark.parametrize("name", ["mamba1", "rotary"])
def test_a_stop_token_ends_its_own_text_and_no_other(name: str) -> None:
    model = built(name)
    free = generate(model, prompts(), max_new_tokens=14)
    stop = free[0][6]
    expected = [text[: text.index(stop)] if stop in text else text for text in free]
    assert len({len(text) for text in expected}) > 1
    assert generate(model, prompts(), max_new_tokens=14, stop=[stop]) == expected
    assert list(stream(model, prompts()[0], max_new_tokens=14, stop=[stop])) == expected[0]


def test_the_state_of_mamba_never_grows_and_that_of_attention_does() -> None:
    sizes: dict[str, list[int]] = {}
    for name in ("mamba1", "mamba2", "mamba3", "rotary"):
        model = built(name)
        with torch.no_grad():
            _, states = model(torch.zeros(1, 3, dtype=torch.long), return_states=True)
            sizes[name] = [state_bytes(states)]
            for position in range(3, 40):
                _, states = model.step(torch.zeros(1, dtype=torch.long), states, position)
                sizes[name].append(state_bytes(states))
    for name in ("mamba1", "mamba2", "mamba3"):
        assert set(sizes[name]) == {sizes[name][0]} != {0}
    # keys and values of a token: 2 x 32 numbers of 4 bytes in each of two layers
    steps = {b - a for a, b in zip(sizes["rotary"][:-1], sizes["rotary"][1:], strict=True)}
    assert steps == {2 * 32 * 4 * 2}


def test_a_stream_makes_a_token_only_when_asked_and_leaves_gradients_as_they_were() -> None:
    model, calls = built("mamba1"), []
    decoder = OwnDecoder(model)
    step = decoder.step
    decoder.step = lambda *args: calls.append(1) or step(*args)  # type: ignore[method-assign]
    tokens = stream(decoder, [1, 2], max_new_tokens=1000)
    for _ in range(5):
        next(tokens)
        assert torch.is_grad_enabled()
    assert len(calls) == 4


def theirs(kind: str) -> nn.Module:
    torch.manual_seed(2)
    if kind == "gpt_neox":
        config: Any = transformers.GPTNeoXConfig(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=48, max_position_embeddings=32,
        )  # fmt: skip
        model: nn.Module = transformers.GPTNeoXForCausalLM(config)
    else:
        config = transformers.MambaConfig(
            vocab_size=VOCAB, hidden_size=32, state_size=8, num_hidden_layers=2
        )
        model = transformers.MambaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.eval()


@pytest.mark.parametrize("kind", ["gpt_neox", "mamba"])
def test_models_of_transformers_generate_as_they_do_by_themselves(kind: str) -> None:
    model: Any = theirs(kind)
    expected = []
    for prompt in prompts():
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        expected.append(out[0, len(prompt) :].tolist())
    assert generate(model, prompts(), max_new_tokens=12) == expected


def test_more_tokens_than_a_model_has_positions_are_refused() -> None:
    for model in (built("learned positions"), theirs("gpt_neox")):
        whole = [1] * 32
        assert len(list(stream(model, whole, max_new_tokens=1))) == 1
        with pytest.raises(ValueError, match="prompt 1 has 33 tokens, allowed: up to 32"):
            generate(model, [[1], [1] * 33], max_new_tokens=1)
        with pytest.raises(ValueError, match=r"max_new_tokens is 4, allowed: up to 3 after the 30"):
            stream(model, [1] * 30, max_new_tokens=4)
        assert len(list(stream(model, [1] * 30, max_new_tokens=3))) == 3
    list(stream(built("rotary"), [1] * 50, max_new_tokens=2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "prompts is empty"),
        ([[1], []], "prompt 1 has no tokens"),
        ([[1, 40]], r"prompt 0 has token 40, allowed: 0\.\.39"),
        ([[-1]], "prompt 0 has token -1"),
    ],
)
def test_prompts_that_are_none_are_refused(wrong: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(built("mamba1"), wrong, max_new_tokens=2)
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        generate(built("mamba1"), [[1]], max_new_tokens=0)


def test_what_cannot_generate_is_refused() -> None:
    with pytest.raises(TypeError, match="model is a Linear, which cannot generate"):
        decoder_of(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="GPTNeoXForCausalLM is in training mode"):
        decoder_of(theirs("gpt_neox").train())
