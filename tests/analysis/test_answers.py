"""The loss of answers against cross-entropy with ignored targets; answers against generate()."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lib.analysis.answers import answer_loss, answer_nats, logits_of, respond
from lib.models.batch_decoding import decode_batch
from lib.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    Mamba1Config,
    Mamba2Config,
)
from lib.models.generation import generate
from lib.models.language_model import LanguageModel, build_language_model
from lib.models.presets import preset
from lib.tasks.question_answers import pack
from lib.tasks.tokenizers import ByteTokenizer
from lib.training.ensemble import Ensemble

BYTES = ByteTokenizer()
PATTERNS = {
    "mamba1": (Mamba1Config(16, d_state=4),),
    "mamba2": (Mamba2Config(16, d_state=8, headdim=8),),
    "transformer": (
        AttentionConfig(d_model=16, n_heads=2, d_qk=16, d_v=16, rope_theta=1e4),
        FeedForwardConfig(d_model=16, d_hidden=32, activation="swiglu"),
    ),
}


def small(kind: str, seed: int = 1) -> LanguageModel:
    config = LanguageModelConfig(257, 2 * len(PATTERNS[kind]), PATTERNS[kind], tie_embeddings=True)
    model = build_language_model(config, seed=seed)
    with torch.no_grad():  # else all say the same letter
        model.embedding.weight.mul_(20)
    return model.eval()


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_nats_of_given_answers_are_those_of_each_token_alone(at_once: int) -> None:
    model = small("mamba2")
    prompts, answers = ["what?", "who is it?", "a"], ["a flute", "Mivel", "nobody at all"]
    nats, begun, tokens = 0.0, 0.0, 0
    for prompt, answer in zip(prompts, answers, strict=True):
        row = torch.tensor([[*BYTES.encode(prompt), *BYTES.encode(answer), BYTES.eos]])
        log = model(row[:, :-1])[0].detach().log_softmax(-1)
        for place in range(len(prompt) - 1, row.shape[1] - 1):
            nats -= float(log[place, row[0, place + 1]])
            tokens += 1
        begun -= float(log[len(prompt) - 1, row[0, len(prompt)]])
    found, beginning = answer_nats(model, pack(prompts, answers, BYTES), at_once)
    assert found == pytest.approx(nats / tokens, rel=1e-5)
    assert beginning == pytest.approx(begun / 3, rel=1e-5)


@pytest.mark.parametrize("kind", list(PATTERNS))
def test_the_loss_is_cross_entropy_over_answers_and_padding_changes_nothing(kind: str) -> None:
    model = small(kind)
    prompts, answers = ["what?", "who is it?"], ["a flute", "Mivel"]
    rows = pack(prompts, answers, BYTES)
    loss, right = answer_loss(model, *rows.tensors)
    labels = rows.tokens[:, 1:].clone()
    for row in range(2):
        labels[row, : rows.first[row]] = -100
        labels[row, rows.last[row] :] = -100
    logits = model(rows.tokens[:, :-1])
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(loss, expected)
    assert int(right) == 0
    wider = pack(prompts, answers, BYTES, length=rows.tokens.shape[1] + 7)
    torch.testing.assert_close(answer_loss(model, *wider.tensors)[0], loss)


def test_a_row_is_right_if_every_scored_target_is() -> None:
    rows = pack(["ab", "cd"], ["xy", "z"], BYTES, 6)
    sure = F.one_hot(rows.tokens[:, 1:], 257).float() * 50
    sure[0, 0] = 0  # a target of the prompt, which is not scored
    loss, right = answer_loss(lambda tokens: SimpleNamespace(logits=sure), *rows.tensors)
    assert int(right) == 2 and float(loss) < 1e-6
    sure[0, int(rows.last[0]) - 1] = 0
    assert int(answer_loss(lambda tokens: sure, *rows.tensors)[1]) == 1
    assert logits_of(lambda tokens: sure, rows.tokens) is sure


@pytest.mark.parametrize("kind", list(PATTERNS))
def test_runs_of_an_ensemble_have_the_loss_of_each_alone(kind: str) -> None:
    models = [small(kind, seed) for seed in (1, 2)]
    rows = pack(["what?", "who?"], ["a flute", "Mivel"], BYTES)
    stacked = [torch.stack([tensor, tensor]) for tensor in rows.tensors]
    losses, _ = Ensemble(models).map(answer_loss, *stacked)
    alone = torch.stack([answer_loss(model, *rows.tensors)[0] for model in models])
    torch.testing.assert_close(losses, alone)


@pytest.mark.parametrize("kind", list(PATTERNS))
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(kind: str) -> None:
    model = small(kind)
    prompts = [[5], [1, 2, 3, 4, 5, 6, 7], [9, 9], [1, 2, 3, 4, 5, 6, 7], [200, 100, 50]]
    stop = generate(model, [prompts[1]], max_new_tokens=6)[0][3]  # so that some rows end early
    expected = generate(model, prompts, max_new_tokens=12, stop=[stop])
    assert decode_batch(model, prompts, 12, stop) == expected
    assert {len(text) for text in expected} != {12}
    assert decode_batch(model, prompts[1:2], 1, stop) == [expected[1][:1]]


def test_respond_gives_texts_in_order_and_in_parts() -> None:
    model = small("mamba2")
    prompts = ["one", "a longer one", "x"]
    whole = respond(model, BYTES, prompts, 8)
    assert whole == respond(model, BYTES, prompts, 8, rows=1)
    wanted = [BYTES.decode(generate(model, [list(p.encode())], max_new_tokens=8,
                                    stop=[BYTES.eos])[0]) for p in prompts]  # fmt: skip
    assert whole == wanted


def test_bad_prompts_are_named() -> None:
    model = small("mamba1")
    for prompts in ([], [[1], []]):
        with pytest.raises(ValueError, match="prompts is empty or has an empty one"):
            decode_batch(model, prompts, 3, 0)
    with pytest.raises(ValueError, match="max_new_tokens is 0, allowed: at least 1"):
        decode_batch(model, [[1]], 0, 0)


def test_presets_of_equal_size_answer_too() -> None:
    model = build_language_model(preset("transformer", "1M", 257), seed=1).eval()
    assert len(decode_batch(model, [[1, 2], [3]], 2, 300)) == 2
