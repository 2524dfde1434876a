"""Packed rows against a stream that is written out here, one document after the other."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.tasks import packing
from lib.tasks.corpus import Corpus, CorpusConfig, Part, StoryText, Texts
from lib.tasks.packing import Packed, PackedBatches, build_stream
from lib.tasks.stories import StoryConfig
from lib.tasks.tokenizers import BPEConfig, BPETokenizer, ByteTokenizer, Tokenizer, train_bpe
from lib.training.batches import TensorBatches

EOS = 256
DOCUMENTS = st.lists(st.text(max_size=12), min_size=1, max_size=12)


class Listed(Texts):
    """Documents that a test names."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.fingerprint = list(texts), repr(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str:
        return self.texts[index]


def part_of(texts: Sequence[str]) -> Part:
    listed = Listed(texts)
    return Part(listed, np.arange(len(texts)), listed.fingerprint)


class Wide(ByteTokenizer):
    """Bytes with numbers that need more than 16 bits, or exactly 16."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift, self.vocab_size, self.eos = shift, EOS + shift + 1, EOS + shift
        self.fingerprint = f"wide {shift}"
        self._bytes = np.concatenate([np.zeros(shift, np.int64), self._bytes])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [tokens + self.shift for tokens in super().encode_batch(texts)]


def packed_of(texts: Sequence[str], length: int, tokenizer: Tokenizer | None = None) -> Packed:
    tokenizer = tokenizer or ByteTokenizer()
    return Packed(build_stream(part_of(texts), tokenizer), tokenizer, length)


def by_hand(texts: Sequence[str]) -> list[int]:
    stream = [EOS]
    for text in texts:
        stream += [*text.encode(), EOS]
    return stream


@pytest.fixture(scope="module")
def corpus() -> Part:
    source = StoryText(StoryConfig(beats_min=1, beats_max=2), documents=2500)
    return Corpus(CorpusConfig(source, validation=0)).train


@pytest.fixture(scope="module")
def bpe(corpus: Part) -> BPETokenizer:
    return train_bpe(BPEConfig(vocab_size=512, training_bytes=50_000), corpus)


# -- rows -----------------------------------------------------------------------------------


def test_the_example_of_the_module() -> None:
    packed = packed_of(["aaa", "b", "cccc"], 4)
    a, b, c = 97, 98, 99
    assert packed.tensor().tolist() == [[EOS, a, a, a, EOS], [EOS, b, EOS, c, c]]
    assert packed.dropped == 3  # the last row would be: c c c EOS


@given(texts=DOCUMENTS, data=st.data())
def test_every_token_but_the_first_is_a_target_once(texts: list[str], data: st.DataObject) -> None:
    stream = by_hand(texts)
    length = data.draw(st.integers(1, len(stream) - 1))
    packed = packed_of(texts, length)
    rows = packed.tensor()
    assert rows.dtype == torch.int64 and rows.shape == (len(packed), length + 1)
    assert rows[:, 1:].flatten().tolist() == stream[1 : 1 + len(packed) * length]
    assert rows[:, :-1].flatten().tolist() == stream[: len(packed) * length]
    assert len(packed) * length + packed.dropped == len(stream) - 1
    assert 0 <= packed.dropped < length


@given(texts=DOCUMENTS)
def test_the_documents_come_back(texts: list[str]) -> None:
    stream = build_stream(part_of(texts), ByteTokenizer())
    packed = Packed(stream, ByteTokenizer(), len(stream.tokens) - 1)
    (row,) = packed.tensor().tolist()
    ends = [place for place, token in enumerate(row) if token == EOS]
    found = [bytes(row[i + 1 : j]).decode() for i, j in itertools.pairwise(ends)]
    assert found == texts


@given(texts=DOCUMENTS, data=st.data())
def test_bytes_of_targets(texts: list[str], data: st.DataObject) -> None:
    size = sum(len(text.encode()) for text in texts)
    stream = build_stream(part_of(texts), ByteTokenizer())
    assert (stream.facts.text_bytes, stream.facts.documents) == (size, len(texts))
    assert stream.facts.tokens == size + len(texts) + 1 == len(stream.tokens)
    length = data.draw(st.integers(1, len(stream.tokens) - 1))
    packed = Packed(stream, ByteTokenizer(), length)
    rows = data.draw(st.lists(st.integers(0, len(packed) - 1), max_size=5))
    expected = [(row[1:] != EOS).sum() for row in packed.tensor()[rows]]
    assert packed.target_bytes(rows).tolist() == expected


def test_bytes_do_not_depend_on_the_tokenizer(corpus: Part, bpe: BPETokenizer) -> None:
    size = sum(len(text.encode()) for text in corpus)
    for tokenizer in (bpe, ByteTokenizer()):
        stream = build_stream(corpus, tokenizer)
        assert stream.facts.text_bytes == size
        packed = Packed(stream, tokenizer, 64)
        rest = np.asarray(stream.tokens[len(stream.tokens) - packed.dropped :])
        kept = int(packed.target_bytes(range(len(packed))).sum())
        assert kept + tokenizer.count_bytes(rest) == size


def test_rows_are_checked() -> None:
    packed = packed_of(["aaa", "b", "cccc"], 4)
    assert packed.take([]).shape == (0, 5)
    assert torch.equal(packed.take(torch.tensor([1, 0, 1])), packed.tensor()[[1, 0, 1]])
    for rows in ([2], [-1], [0, 2]):
        with pytest.raises(IndexError, match="of 2"):
            packed.take(rows)


@pytest.mark.parametrize("length", [0, 11, 12])
def test_lengths_that_give_no_row(length: int) -> None:
    with pytest.raises(ValueError, match=rf"length is {length}, allowed: 1..10 "):
        packed_of(["aaa", "bbbbb"], length)


def test_no_documents() -> None:
    with pytest.raises(ValueError, match="part has no documents"):
        build_stream(part_of([]), ByteTokenizer())


# -- files ----------------------------------------------------------------------------------


@given(texts=DOCUMENTS, wide=st.booleans())
def test_a_file_holds_the_stream(texts: list[str], wide: bool) -> None:
    tokenizer: Tokenizer = Wide(70_000) if wide else ByteTokenizer()
    part = part_of(texts)
    with tempfile.TemporaryDirectory() as folder:
        kept = build_stream(part, tokenizer, folder)
        memory = build_stream(part, tokenizer)
        assert isinstance(kept.tokens, np.memmap) and not isinstance(memory.tokens, np.memmap)
        assert kept.tokens.tolist() == memory.tokens.tolist()
        assert kept.facts == memory.facts
        again = build_stream(part, tokenizer, folder)
        assert again.tokens.tolist() == kept.tokens.tolist() and again.facts == kept.facts
        files = sorted(Path(folder).iterdir())
        assert [file.suffix for file in files] == [".bin", ".json"]
        assert files[0].stat().st_size == len(memory.tokens) * (4 if wide else 2)


def test_documents_beyond_one_batch_of_encoding(corpus: Part, tmp_path: Path) -> None:
    assert len(corpus) > 2 * packing._AT_ONCE
    stream = build_stream(corpus, ByteTokenizer(), tmp_path)
    assert stream.tokens.tolist() == by_hand(corpus)


def whole_rows(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Inputs and targets as the rows that they are cut from, (rows, length + 1)."""
    inputs, targets = batch
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    return torch.cat([inputs, targets[:, -1:]], 1)


@pytest.mark.parametrize(
    ("largest", "dtype"), [(2**16 - 2, "<u2"), (2**16 - 1, "<u2"), (2**16, "<u4")]
)
def test_the_smallest_type_that_holds_every_token(largest: int, dtype: str) -> None:
    tokenizer = Wide(largest - EOS)
    assert tokenizer.eos == largest
    packed = packed_of(["aé", "b"], 3, tokenizer)
    assert packed.stream.facts.dtype == dtype
    expected = [token + largest - EOS for token in by_hand(["aé", "b"])[:4]]
    assert packed.tensor()[0].tolist() == expected
    batch = whole_rows(PackedBatches(packed, len(packed), seed=0).at(0))
    assert sorted(batch.tolist()) == sorted(packed.tensor().tolist())


def test_the_file_is_read_and_not_built_again(
    corpus: Part, bpe: BPETokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_stream(corpus[:50], bpe, tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("encoded again")

    with monkeypatch.context() as patch:
        patch.setattr(BPETokenizer, "encode_batch", refuse)
        patch.setattr(ByteTokenizer, "encode_batch", refuse)
        again = build_stream(corpus[:50], bpe, tmp_path)
        assert again.tokens.tolist() == first.tokens.tolist()
        for part, tokenizer in ((corpus[:51], bpe), (corpus[:50], ByteTokenizer())):
            with pytest.raises(AssertionError, match="encoded again"):
                build_stream(part, tokenizer, tmp_path)
        patch.setattr(packing, "VERSION", -1)
        with pytest.raises(AssertionError, match="encoded again"):
            build_stream(corpus[:50], bpe, tmp_path)
    # what was cut short has left nothing behind
    assert len(list(tmp_path.iterdir())) == 2


def test_writing_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    part = part_of(["aaa", "b", "cccc"])
    build_stream(part, ByteTokenizer(), tmp_path)
    (facts,) = tmp_path.glob("*.json")
    (tokens,) = tmp_path.glob("*.bin")
    facts.unlink()
    tokens.write_bytes(b"half")
    assert build_stream(part, ByteTokenizer(), tmp_path).tokens.tolist() == by_hand(list(part))
    tokens.unlink()
    assert build_stream(part, ByteTokenizer(), tmp_path).tokens.tolist() == by_hand(list(part))


def test_a_file_of_the_wrong_size_is_named(tmp_path: Path) -> None:
    part = part_of(["aaa", "b", "cccc"])
    build_stream(part, ByteTokenizer(), tmp_path)
    (tokens,) = tmp_path.glob("*.bin")
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"\.bin has 22 bytes, which 12 tokens of type <u2"):
        build_stream(part, ByteTokenizer(), tmp_path)


def test_training_cannot_change_the_file(tmp_path: Path) -> None:
    part = part_of(["aaa", "b", "cccc"])
    stream = build_stream(part, ByteTokenizer(), tmp_path)
    PackedBatches(Packed(stream, ByteTokenizer(), 4), 1, seed=0).stream.zero_()
    assert build_stream(part, ByteTokenizer(), tmp_path).tokens.tolist() == by_hand(list(part))


def test_facts_are_what_a_record_needs(corpus: Part, tmp_path: Path) -> None:
    stream = build_stream(corpus, ByteTokenizer(), tmp_path)
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text()) == vars(stream.facts)
    assert stream.facts.text == corpus.fingerprint
    assert stream.facts.tokenizer == ByteTokenizer().fingerprint


# -- batches --------------------------------------------------------------------------------


@given(
    size=st.integers(1, 9),
    seed=st.integers(0, 5),
    drop=st.booleans(),
    wide=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_batches_are_those_of_rows_laid_out(
    size: int, seed: int, drop: bool, wide: bool, epoch: int
) -> None:
    tokenizer: Tokenizer = Wide(65_000) if wide else ByteTokenizer()
    packed = packed_of([f"document {number}" for number in range(20)], 11, tokenizer)
    view = PackedBatches(packed, size, seed, drop_last=drop)
    whole = TensorBatches([packed.tensor()], size, seed, drop_last=drop)
    assert (view.steps, view.even, view.rows, view.shape) == (
        whole.steps, whole.even, whole.rows, whole.shape,
    )  # fmt: skip
    view.begin_epoch(epoch)
    whole.begin_epoch(epoch)
    for position in range(whole.steps):
        found, (expected,) = whole_rows(view.gather(position)), whole.gather(position)
        assert found.dtype == torch.int64 and torch.equal(found, expected)
    at = torch.tensor(0)
    found, (expected,) = whole_rows(view.gather(at)), whole.gather(at)
    assert torch.equal(found, expected)


def test_an_epoch_has_every_row_once_and_orders_differ() -> None:
    packed = packed_of([f"document {number}" for number in range(60)], 11)
    rows = sorted(packed.tensor().tolist())
    batches = PackedBatches(packed, 7, seed=1, drop_last=False)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * batches.steps, (epoch + 1) * batches.steps)
        epochs.append([row for step in steps for row in whole_rows(batches.at(step)).tolist()])
    assert all(sorted(epoch) == rows for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    other = PackedBatches(packed, 7, seed=2, drop_last=False)
    assert other.at(0)[0].tolist() != batches.at(0)[0].tolist()


def test_a_run_goes_on_at_any_step() -> None:
    packed = packed_of([f"document {number}" for number in range(60)], 11)
    through = PackedBatches(packed, 7, seed=1)
    expected = [through.at(step)[0] for step in range(3 * through.steps)]
    for start in range(len(expected)):
        fresh = PackedBatches(packed, 7, seed=1)
        assert torch.equal(fresh.at(start)[0], expected[start])
    # and steps in any order
    for step in reversed(range(len(expected))):
        assert torch.equal(through.at(step)[0], expected[step])


def test_an_order_is_laid_out_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = PackedBatches(packed_of(["x" * 100], 11), 2, seed=1)
    begun = []
    monkeypatch.setattr(TensorBatches, "begin_epoch", lambda self, epoch: begun.append(epoch))
    for step in range(3 * batches.steps):
        batches.at(step)
    assert begun == [0, 1, 2] and batches.steps > 1


def test_batches_of_a_mapped_file(corpus: Part, bpe: BPETokenizer, tmp_path: Path) -> None:
    mapped, memory = build_stream(corpus, bpe, tmp_path), build_stream(corpus, bpe)
    found, expected = (
        whole_rows(PackedBatches(Packed(stream, bpe, 32), 16, seed=3).at(5))
        for stream in (mapped, memory)
    )
    assert torch.equal(found, expected) and found.shape == (16, 33)
    text = bpe.decode(found.flatten().tolist())
    assert any(word in text for word in ("Once upon a time", "In the end"))


@pytest.mark.parametrize("epoch_rows", [7, 20, 23, 50])
def test_epochs_may_be_stretches_of_one_long_order(epoch_rows: int) -> None:
    """Each pass has every row once, wherever epochs begin; and any epoch can be entered at once."""
    packed = packed_of([f"document {number}" for number in range(20)], 11)
    count, laid_out = len(packed), packed.tensor().tolist()
    batches = PackedBatches(packed, 5, seed=1, drop_last=False, epoch_rows=epoch_rows)
    assert (batches.rows, batches.steps) == (epoch_rows, -(-epoch_rows // 5))
    epochs = range(4 * count // epoch_rows + 1)
    steps = [batches.at(step) for step in range(len(epochs) * batches.steps)]
    seen = [row for batch in steps for row in whole_rows(batch).tolist()]
    passes = [seen[at : at + count] for at in range(0, len(seen) - count + 1, count)]
    assert len(passes) >= 3 and all(sorted(one) == sorted(laid_out) for one in passes)
    assert passes[0] != passes[1]
    late = PackedBatches(packed, 5, seed=1, drop_last=False, epoch_rows=epoch_rows)
    assert torch.equal(late.at(len(steps) - 1)[0], steps[-1][0])


def test_without_stretches_an_epoch_is_the_pass_of_other_batches() -> None:
    packed = packed_of([f"document {number}" for number in range(20)], 11)
    one, other = (PackedBatches(packed, 5, seed=1, epoch_rows=rows) for rows in (None, len(packed)))
    assert all(torch.equal(one.at(step)[0], other.at(step)[0]) for step in range(2 * one.steps))


def test_too_large_a_batch_is_refused() -> None:
    packed = packed_of(["aaa", "b", "cccc"], 4)
    with pytest.raises(ValueError, match=r"batch_size is 3, allowed: 1..2"):
        PackedBatches(packed, 3, seed=0)
    with pytest.raises(ValueError, match=r"batch_size is 3, allowed: 1..2 \(rows of an epoch\)"):
        PackedBatches(packed, 3, seed=0, epoch_rows=2)
    assert PackedBatches(packed, 3, seed=0, epoch_rows=6).steps == 2  # three passes an epoch
