from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.analysis.language import HeldOut, held_out, next_token_loss, prediction
from lib.tasks.corpus import Corpus, CorpusConfig, StoryText
from lib.tasks.packing import Packed, build_stream
from lib.tasks.tokenizers import ByteTokenizer


class Table(nn.Module):
    """Logits by a table of the token: a bigram model."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(vocab, vocab, generator=draw))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def by_hand(model: Table, rows: Tensor) -> tuple[float, int]:
    nats, right = 0.0, 0
    for row in rows.tolist():
        for token, target in itertools.pairwise(row):
            odds = model.table[token].detach().double().softmax(-1)
            nats -= math.log(float(odds[target]))
            right += int(odds.argmax()) == target
    return nats, right


def test_the_loss_is_the_mean_over_all_next_tokens() -> None:
    model = Table(7)
    rows = torch.randint(7, (5, 9), generator=torch.Generator().manual_seed(1))
    loss, right = next_token_loss(model, rows[:, :-1], rows[:, 1:])
    nats, hits = by_hand(model, rows)
    assert float(loss.detach()) == pytest.approx(nats / 40, rel=1e-6) and int(right) == hits
    with torch.autocast("cpu", torch.bfloat16):
        assert next_token_loss(model, rows[:, :-1], rows[:, 1:])[0].dtype == torch.float32


@pytest.mark.parametrize("batch_rows", [1, 3, 5, 8])
def test_held_out_text_is_measured_in_pieces_of_any_size(batch_rows: int) -> None:
    model = Table(7)
    rows = torch.randint(7, (5, 9), generator=torch.Generator().manual_seed(1), dtype=torch.int16)
    with torch.no_grad():
        found = prediction(model, HeldOut(rows, 55.0, batch_rows))
    nats, hits = by_hand(model, rows)
    assert float(found["valid_loss"]) == pytest.approx(nats / 40, rel=1e-6)
    assert float(found["valid_bits_per_byte"]) == pytest.approx(nats / math.log(2) / 55, rel=1e-6)
    assert float(found["valid_accuracy"]) == pytest.approx(hits / 40)


def test_a_model_that_knows_nothing_needs_the_bits_of_its_alphabet() -> None:
    """Of bytes: log2(257) a byte of text, and a little for the ends of text, which are no bytes."""
    tokenizer = ByteTokenizer()
    corpus = Corpus(CorpusConfig(StoryText(documents=40), validation=0.3))
    packed = Packed(build_stream(corpus.validation, tokenizer), tokenizer, 16)
    text = held_out(packed, None, 64)
    ends = int((text.tokens[:, 1:] == tokenizer.eos).sum())
    assert text.target_bytes == 16 * len(packed) - ends and ends > 0

    class Nothing(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return F.one_hot(tokens, 257) * 0.0

    found = prediction(Nothing(), text)
    expected = math.log2(257) * 16 * len(packed) / text.target_bytes
    assert float(found["valid_bits_per_byte"]) == pytest.approx(expected, rel=1e-5)
    assert expected > math.log2(257)
    few = held_out(packed, 3, 2)
    assert torch.equal(few.tokens, text.tokens[:3]) and few.target_bytes < text.target_bytes
    with pytest.raises(ValueError, match="rows is 0, allowed: 1 or more"):
        held_out(packed, 0, 2)
    with pytest.raises(ValueError, match="batch_rows is 0, allowed: 1 or more"):
        held_out(packed, 3, 0)
