from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lib.config import from_dict, to_dict
from lib.tasks.corpus import CorpusConfig, StoryText
from lib.tasks.language import LanguageTask, build
from lib.tasks.tokenizers import BPEConfig, BytesConfig

TEXT = CorpusConfig(StoryText(documents=300), validation=0.1)
TASK = LanguageTask(TEXT, BPEConfig(vocab_size=300, training_bytes=50_000), length=32)


def test_both_sides_are_tokens_of_one_tokenizer(tmp_path: Path) -> None:
    data = build(TASK, tmp_path)
    assert data.tokenizer.vocab_size == 300
    assert len(data.train) > 5 * len(data.valid) > 0
    for packed in (data.train, data.valid):
        assert packed.tokenizer is data.tokenizer and packed.length == 32
    targets = data.valid.take(range(len(data.valid)))[:, 1:]  # rows overlap in one token
    text = data.tokenizer.decode(targets.flatten().tolist())
    assert data.corpus.validation[0] in text and data.corpus.train[0] not in text
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = build(TASK, tmp_path)
    assert files == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert again.tokenizer.fingerprint == data.tokenizer.fingerprint


def test_a_task_survives_its_record() -> None:
    for tokenizer in (BytesConfig(), BPEConfig()):
        task = dataclasses.replace(TASK, tokenizer=tokenizer)
        again = from_dict(LanguageTask, to_dict(task))
        assert again == task and type(again.tokenizer) is type(tokenizer)


def test_a_task_that_cannot_be_says_so() -> None:
    with pytest.raises(ValueError, match="length is 0, allowed: 1 or more"):
        dataclasses.replace(TASK, length=0)
    with pytest.raises(ValueError, match="epoch_tokens is 31, allowed: None, or length 32"):
        dataclasses.replace(TASK, epoch_tokens=31)
    with pytest.raises(
        ValueError, match=r"corpus is .* allowed: a corpus that holds documents out"
    ):
        dataclasses.replace(TASK, corpus=dataclasses.replace(TEXT, validation=0.0))
    with pytest.raises(ValueError, match="valid_rows is 0"):
        dataclasses.replace(TASK, valid_rows=0)
