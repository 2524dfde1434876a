from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch

from lib.analysis.forgetting import token_accuracy
from lib.analysis.memory_controls import (
    in_batches,
    language_model_alone,
    perplexity,
    shuffle,
    surprise,
)
from lib.analysis.memory_writing import write_all
from lib.models.autoencoder import AutoencoderConfig, Decoded, StateAutoencoder
from lib.models.config import LanguageModelConfig, Mamba2Config
from lib.models.language_model import build_language_model

LENGTH, VOCAB = 4, 12


@pytest.fixture(scope="module")
def trained() -> Iterator[StateAutoencoder]:
    """A decoder that can write four tokens of ten from memory, whatever they are."""
    config = LanguageModelConfig(VOCAB, 1, (Mamba2Config(32, d_state=16, headdim=16),))
    model = StateAutoencoder(build_language_model(config, seed=0), AutoencoderConfig(LENGTH))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        optimizer.zero_grad()
        model.loss(torch.randint(1, VOCAB, (64, LENGTH), generator=generator)).backward()
        optimizer.step()
    yield model


def chunks(count: int = 100) -> torch.Tensor:
    return torch.randint(1, VOCAB, (count, LENGTH), generator=torch.Generator().manual_seed(9))


def accuracy(reference: torch.Tensor, written: list[list[int]]) -> float:
    return float(token_accuracy(reference.tolist(), written).mean())


def test_only_the_right_state_gives_the_text(trained: StateAutoencoder) -> None:
    x = chunks()
    found = write_all(trained, x)
    assert accuracy(x, found[""].rows()) > 0.9
    # of random tokens nothing can be guessed: 1 of 11
    for name in ("zero_", "untrained_", "alone_"):
        assert accuracy(x, found[name].rows()) < 0.25, name
    assert accuracy(shuffle(x), found["shuffled_"].rows()) > 0.9
    assert accuracy(x, found["shuffled_"].rows()) < 0.6


def test_zero_state_is_that_of_a_model_that_has_read_nothing(trained: StateAutoencoder) -> None:
    x = chunks(3)
    fresh = trained.decode(trained.decoder.initial_states(3), 3)
    assert write_all(trained, x)["zero_"].rows() == fresh.rows()
    # and the same for all chunks
    assert (fresh.tokens == fresh.tokens[:1]).all()


def test_the_untrained_decoder_is_the_encoder(trained: StateAutoencoder) -> None:
    x = chunks(5)
    swapped = copy.deepcopy(trained)
    swapped.decoder.load_state_dict(trained.encoder.state_dict())
    found = write_all(trained, x)["untrained_"].rows()
    assert found == swapped.reconstruct(x).rows() != trained.reconstruct(x).rows()


def test_language_model_alone_guesses_from_the_true_text_before(trained: StateAutoencoder) -> None:
    x = chunks(6)
    found = language_model_alone(trained, x)
    assert found.lengths.tolist() == [LENGTH] * 6
    for row, chunk in enumerate(x.tolist()):
        for place in range(LENGTH):
            before = torch.tensor([[0, *chunk[:place]]])
            with torch.no_grad():
                guess = int(trained.encoder(before)[0, -1].argmax())
            assert int(found.tokens[row, place]) == guess


def test_perplexity_by_hand() -> None:
    config = LanguageModelConfig(VOCAB, 1, (Mamba2Config(16, d_state=8, headdim=8),))
    model = build_language_model(config, seed=3)
    x = chunks(2)
    found = perplexity(model, x, bos=5)
    for row, chunk in enumerate(x.tolist()):
        total = 0.0
        for place, token in enumerate(chunk):
            with torch.no_grad():
                logits = model(torch.tensor([[5, *chunk[:place]]]))[0, -1]
            total -= float(logits.log_softmax(-1)[token])
        assert float(found[row]) == pytest.approx(math.exp(total / LENGTH), rel=1e-4)
    with torch.no_grad():
        model.head.weight.zero_()
    assert perplexity(model, x).tolist() == pytest.approx([VOCAB] * 2)


def test_the_loss_of_a_text_counts_what_stands_before_its_end() -> None:
    config = LanguageModelConfig(VOCAB, 1, (Mamba2Config(16, d_state=8, headdim=8),))
    model = build_language_model(config, seed=3)
    rows = [[1, 2, 3, 4], [5, 6], [7]]
    found = surprise(model, Decoded.of(rows, end=9), bos=5).tolist()
    for loss, row in zip(found, rows, strict=True):
        alone = perplexity(model, torch.tensor([row]), bos=5)
        assert loss == pytest.approx(len(row) * math.log(float(alone)), rel=1e-4)


def test_shuffling_keeps_tokens_and_loses_order() -> None:
    x = torch.arange(20).repeat(50, 1)
    found = shuffle(x)
    assert torch.equal(found.sort(1).values, x)
    assert len({tuple(row) for row in found.tolist()}) == 50
    assert torch.equal(shuffle(x), found) and not torch.equal(shuffle(x, 1), found)


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_batches_change_nothing(trained: StateAutoencoder, size: int) -> None:
    x, sizes = chunks(7), []

    def write(part: torch.Tensor):  # type: ignore[no-untyped-def]
        sizes.append(len(part))
        return trained.reconstruct(part)

    found, whole = in_batches(write, x, size), trained.reconstruct(x)
    assert torch.equal(found.tokens, whole.tokens) and torch.equal(found.lengths, whole.lengths)
    assert sum(sizes) == 7 and max(sizes) == min(size, 7)
    with pytest.raises(ValueError, match="batch_size is 0 of 7 chunks"):
        in_batches(write, x, 0)
