from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch

from lib.analysis import memory_controls as controls
from lib.analysis import memory_writing as writing
from lib.models.autoencoder import (
    AutoencoderConfig,
    Decoded,
    StateAutoencoder,
    States,
    map_states,
)
from lib.models.config import (
    AttentionConfig,
    InitialisationConfig,
    LanguageModelConfig,
    Mamba1Config,
)
from lib.models.language_model import build_language_model
from lib.tasks.memory_text import Asked
from lib.tasks.reconstruction import Chunks

VOCAB, LENGTH = 40, 6
START = InitialisationConfig(gamma=0.0, scope=("embedding",))


def autoencoder(slots: int = 0) -> StateAutoencoder:
    """A decoder that has begun to learn, so that what it writes hangs on the state."""
    attention = AttentionConfig(16, n_heads=2, rope_theta=100.0)
    block = attention if slots else Mamba1Config(16, d_state=4)
    config = LanguageModelConfig(VOCAB, 2, (block,), initialisation=START)
    model = StateAutoencoder(
        build_language_model(config, seed=0).double(), AutoencoderConfig(LENGTH, 39, 39, slots)
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(chunks()).backward()
        optimizer.step()
    return model.eval()


def chunks(count: int = 7) -> torch.Tensor:
    return torch.randint(0, 38, (count, LENGTH), generator=torch.Generator().manual_seed(1))


# -- parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [0, 2])
def test_writing_together_is_writing_one_by_one(slots: int) -> None:
    model, x = autoencoder(slots), chunks()
    found = writing.write_all(model, x, at_once=3)
    expected = {
        "": model.reconstruct,
        "untrained_": lambda part: model.decode(model.encode(part), len(part), untrained=True),
        "zero_": lambda part: model.decode(
            map_states(model.encode(part), torch.zeros_like), len(part)
        ),
        "shuffled_": lambda part: model.reconstruct(controls.shuffle(part)),
        "alone_": lambda part: controls.language_model_alone(model, part),
    }  # fmt: skip
    assert list(found) == list(expected) == list(writing.WRITERS)
    for name, write in expected.items():
        assert found[name].rows() == write(x).rows(), name
    assert found[""].rows() != found["zero_"].rows() != found["untrained_"].rows()
    assert writing.write(model, x, 2).rows() == found[""].rows()


@pytest.mark.parametrize("slots", [0, 2])
def test_parts_change_nothing_of_what_is_written(
    slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are written, or read, at once; orders of disordered chunks are of parts that do
    not hang on it."""
    monkeypatch.setattr(writing, "AT_ONCE", 4)
    model, x = autoencoder(slots), chunks()
    states = writing.read(model, x)
    whole, perplexity = writing.write_all(model, x), writing.perplexities(model, x)
    disorder = [model.reconstruct(controls.shuffle(part)).rows() for part in x.split(4)]
    assert whole["shuffled_"].rows() == [row for part in disorder for row in part]
    monkeypatch.setattr(writing, "READ_TOKENS", 2 * LENGTH)
    monkeypatch.setattr(writing, "READ_LOGITS", LENGTH * VOCAB)
    assert (writing._few(model), writing._few(model, logits=True)) == (2, 1)
    for name, part in zip(writing.read(model, x), states, strict=True):
        for ours, expected in zip(name, part, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert writing.perplexities(model, x) == pytest.approx(perplexity, rel=1e-12)
    for at_once in (1, 2, 3, 100):
        found = writing.write_all(model, x, at_once)
        assert {name: one.rows() for name, one in found.items()} == {
            name: one.rows() for name, one in whole.items()
        }


def test_no_more_states_are_held_than_are_written_from(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = autoencoder(), chunks()
    held: list[weakref.ref[Any]] = []
    decoded: list[int] = []
    read, decode = writing.read, StateAutoencoder.decode

    def reading(model: StateAutoencoder, tokens: torch.Tensor) -> States:
        assert not any(one() is not None for one in held)  # the states before these are gone
        states = read(model, tokens)
        held.extend(weakref.ref(part) for state in states for part in state)
        return states

    def decoding(self: StateAutoencoder, states: States, batch: int, **more: Any) -> Decoded:
        decoded.append(batch)
        return decode(self, states, batch, **more)

    monkeypatch.setattr(writing, "read", reading)
    monkeypatch.setattr(StateAutoencoder, "decode", decoding)
    writing.write_all(model, x, at_once=3)
    # its own and the untrained one's, in disorder; of zeros one, whatever the chunk
    assert decoded == [3, 3, 3, 3, 3, 3, 1, 1, 1, 1] and len(held) == 6 * 4


def test_as_many_are_written_at_once_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = autoencoder()
    size = 8 * 2 * 32 * (4 + 3)  # bytes: layers, channels, state and convolution
    for room, count in ((0, 1), (1, 1), (4 * size * 5, 5), (4 * size * 6 - 1, 5), (2**40, 2048)):
        monkeypatch.setattr(writing, "ROOM", room)
        assert writing.chunks_at_once(model) == count
    # attention keeps each token that it writes: 2 slots, then BOS and 6 tokens, keys and values
    model = autoencoder(slots=2)
    size = 8 * 2 * (2 + LENGTH + 1) * 32
    monkeypatch.setattr(writing, "ROOM", 4 * size * 5)
    assert writing.chunks_at_once(model) == 5
    batches: list[int] = []
    decode = StateAutoencoder.decode

    def decoding(self: StateAutoencoder, states: States, batch: int, **more: Any) -> Decoded:
        batches.append(batch)
        return decode(self, states, batch, **more)

    monkeypatch.setattr(StateAutoencoder, "decode", decoding)
    writing.write_all(model, chunks())
    writing.write(model, chunks())
    assert max(batches) == 5


def test_on_a_gpu_it_is_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    assert writing._room(torch.device("cuda")) == int(writing.SHARE * 1400)
    assert writing._room(torch.device("cpu")) == writing.ROOM


# -- similarity -----------------------------------------------------------------------------


def texts(rows: list[list[int]]) -> Decoded:
    return Decoded.of(rows, end=4)


def test_similarity_by_hand() -> None:
    # token 1 is like token 0, token 2 opposite; the mean of what is asked for is the origin
    embedding = torch.tensor([[1.0, 0.0], [1.0, 0.2], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    asked = texts([[0, 0], [2, 2], [3, 4]])
    found = writing.similarity(embedding, asked, texts([[0, 0], [0], []]))
    assert found == pytest.approx([1.0, -1.0, 0.0])
    like = writing.similarity(embedding, asked, texts([[1, 1], [1, 1], [1, 1]]))
    assert 0.9 < like[0] < 1


def test_texts_of_any_lengths_are_compared() -> None:
    """By their means: what stands after the end counts on neither side."""
    embedding = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))
    asked, written = [[0, 1, 2], [3], [5, 5]], [[2, 1], [3, 3, 3, 3], [0]]
    centre = embedding[torch.tensor([token for row in asked for token in row])].mean(0)
    expected = []
    for own, other in zip(asked, written, strict=True):
        a, b = ((embedding[torch.tensor(row)] - centre).mean(0) for row in (own, other))
        expected.append(float(torch.cosine_similarity(a, b, dim=0)))
    found = writing.similarity(embedding, texts(asked), texts(written))
    assert found == pytest.approx(expected, abs=1e-6)
    assert found[1] == pytest.approx(1)


def test_answers_are_also_compared_with_other_chunks() -> None:
    """Of those that have a partner, in the order of the chunks."""
    model, x = autoencoder(), chunks()
    names = np.array(["code", "prose", "code", "prose", "prose", "code", "one"])
    own = Chunks(x, np.arange(7), np.zeros(7, int), names, names)
    found = writing.observe(model, Asked(own, []))
    assert set(found.rows) == set(writing.WRITERS)
    assert set(found.similarity) == {*writing.WRITERS, writing.SWAPPED}
    partner = controls.swaps(own)
    assert set(partner) == set(range(6))  # the last one is the only one of its kind
    answers = Decoded.of([found.rows[""][partner.get(n, n)] for n in range(7)], end=39)
    asked = Decoded(x, torch.full((7,), LENGTH))
    expected = writing.similarity(model.encoder.embedding.weight, asked, answers)
    swapped = found.similarity[writing.SWAPPED]
    assert swapped == pytest.approx(expected) and len(swapped) == 7
    assert np.mean(swapped[:6]) < np.mean(found.similarity[""][:6])
