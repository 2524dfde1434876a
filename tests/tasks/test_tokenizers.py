"""Round trips, counts of bytes and refusals of all tokenizers; the hub is faked."""

from __future__ import annotations

import itertools
import json
import unicodedata
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from lib.config import from_dict, to_dict
from lib.tasks import tokenizers
from lib.tasks.corpus import Corpus, CorpusConfig, Part, StoryText, TextUnavailable
from lib.tasks.stories import StoryConfig, story
from lib.tasks.tokenizers import (
    BPEConfig,
    BPETokenizer,
    BytesConfig,
    ByteTokenizer,
    PretrainedConfig,
    Tokenizer,
    open_tokenizer,
    train_bpe,
)

TEXTS = [story(StoryConfig(), index) for index in range(60)]
SMALL = BPEConfig(vocab_size=600)
# half of the examples are made of what byte-level BPE could get wrong
AWKWARD = [
    "<|endoftext|>", " ", "  ", "     ", "\n", "\r\n", "\t", "\0", "the", "'s", "\u0120", "\u010a",
    "\u00e9", "e\u0301", "\ufb01", "\u212b", "\ufffd", "\U0001f642", "\U0001f469\u200d\U0001f467",
]  # fmt: skip
ANY = st.text() | st.lists(st.sampled_from(AWKWARD)).map("".join)


def like_neox(normal: bool = True) -> Backend:
    """A tokenizer built as GPT-NeoX's: end of text first, NFC, runs of spaces as added tokens."""
    backend = Backend(models.BPE())
    if normal:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|endoftext|>", "<|padding|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_tokens([AddedToken(" " * count, normalized=True) for count in (4, 3, 2)])
    return backend


BPE = train_bpe(SMALL, TEXTS)
NEOX = BPETokenizer(like_neox(), "<|endoftext|>")
EXACT: dict[str, Tokenizer] = {
    "bytes": ByteTokenizer(),
    "bpe": BPE,
    "published": BPETokenizer(like_neox(normal=False), "<|endoftext|>"),
}
each = pytest.mark.parametrize("name", EXACT)


@pytest.fixture(scope="module")
def part() -> Part:
    source = StoryText(StoryConfig(), documents=60)
    return Corpus(CorpusConfig(source, validation=0)).train


# -- round trip -----------------------------------------------------------------------------


@each
@given(text=ANY)
@example(text="<|endoftext|><|padding|>")
@example(text="    four spaces,  two and e\u0301")
def test_any_text_comes_back_to_the_letter(name: str, text: str) -> None:
    tokenizer = EXACT[name]
    tokens = tokenizer.encode(text)
    assert tokenizer.exact and tokenizer.decode(tokens) == text
    assert all(0 <= token < tokenizer.vocab_size and token != tokenizer.eos for token in tokens)
    assert tokenizer.decode([tokenizer.eos, *tokens, tokenizer.eos]) == text
    assert tokenizer.decode(np.array(tokens, dtype=np.int64)) == text


@each
@given(texts=st.lists(ANY, max_size=5))
def test_a_batch_is_its_texts(name: str, texts: list[str]) -> None:
    batch = EXACT[name].encode_batch(texts)
    assert [tokens.tolist() for tokens in batch] == [EXACT[name].encode(text) for text in texts]
    assert all(tokens.dtype == np.int64 and tokens.ndim == 1 for tokens in batch)


@given(text=ANY)
def test_a_published_normal_form_is_what_comes_back(text: str) -> None:
    assert not NEOX.exact
    normal = unicodedata.normalize("NFC", text)
    tokens = NEOX.encode(text)
    assert NEOX.decode(tokens) == normal
    assert NEOX.count_bytes(np.array(tokens, np.int64)) == len(normal.encode())


@each
def test_cut_characters_become_replacement_characters(name: str) -> None:
    tokens = EXACT[name].encode("🙂")
    assert len(tokens) == 4  # no text that was trained on has one
    assert set(EXACT[name].decode(tokens[:3])) == {"�"}


def test_plain_bytes() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("aé") == [97, 195, 169]
    assert (tokenizer.vocab_size, tokenizer.eos) == (257, 256)


# -- bytes ----------------------------------------------------------------------------------


@each
@given(text=ANY)
def test_bytes_of_tokens_add_up_to_those_of_the_text(name: str, text: str) -> None:
    tokenizer = EXACT[name]
    tokens = np.array([tokenizer.eos, *tokenizer.encode(text), tokenizer.eos], np.int64)
    assert tokenizer.count_bytes(tokens) == len(text.encode())
    assert tokenizer.count_bytes(tokens[:, None]) == len(text.encode())


@each
def test_only_the_end_of_text_has_no_bytes(name: str) -> None:
    sizes = EXACT[name].token_bytes
    assert sizes.shape == (EXACT[name].vocab_size,)
    assert np.flatnonzero(sizes == 0).tolist() == [EXACT[name].eos]


def test_bytes_of_a_token_are_those_that_it_decodes_to() -> None:
    for token in range(BPE.vocab_size - 1):
        text = BPE.decode([token])
        assert "�" in text or BPE.token_bytes[token] == len(text.encode())


# -- training -------------------------------------------------------------------------------


def test_bpe_is_deterministic_and_shortens_text() -> None:
    again = train_bpe(SMALL, TEXTS)
    assert again.backend.to_str() == BPE.backend.to_str() and again.fingerprint == BPE.fingerprint
    assert (BPE.vocab_size, BPE.eos) == (600, 599)
    text = story(StoryConfig(seed=9), 0)
    assert len(BPE.encode(text)) < len(text.encode()) / 2
    assert train_bpe(BPEConfig(vocab_size=599), TEXTS).fingerprint != BPE.fingerprint


def test_training_stops_after_its_bytes() -> None:
    drawn = []

    def documents() -> Any:
        for number in itertools.count():
            drawn.append(number)
            yield TEXTS[number % len(TEXTS)]

    sizes = np.cumsum([len(text.encode()) for text in TEXTS])
    train_bpe(BPEConfig(vocab_size=300, training_bytes=int(sizes[2]) + 1), documents())
    # four documents, and a fifth that is looked at but not used
    assert drawn == [0, 1, 2, 3, 4]


def test_two_bytes_and_no_merges() -> None:
    assert train_bpe(BPEConfig(vocab_size=257), ["ab"]).encode("ab") == BPE.encode(
        "a"
    ) + BPE.encode("b")


def test_too_little_text_for_the_vocabulary() -> None:
    with pytest.raises(ValueError, match=r"vocab_size is 600, allowed: up to 258, since the text"):
        train_bpe(SMALL, ["ab"])


def test_the_cache_is_used_and_keyed_by_text_and_config(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "folder"
    first = open_tokenizer(SMALL, part, folder)
    (file,) = folder.iterdir()
    assert json.loads(file.read_text())["model"]["type"] == "BPE"
    calls = []

    def train(config: BPEConfig, documents: Part) -> BPETokenizer:
        calls.append((config, documents.fingerprint))
        return BPE

    monkeypatch.setattr(tokenizers, "train_bpe", train)
    cached = open_tokenizer(SMALL, part, folder)
    assert calls == []
    assert cached.fingerprint == first.fingerprint
    assert (cached.eos, cached.vocab_size) == (599, 600)
    assert cached.encode(TEXTS[0]) == first.encode(TEXTS[0])
    other = BPEConfig(vocab_size=500)
    open_tokenizer(other, part, folder)
    open_tokenizer(SMALL, part[:20], folder)
    assert calls == [(other, part.fingerprint), (SMALL, part[:20].fingerprint)]
    assert len(list(folder.iterdir())) == 3
    monkeypatch.setattr(tokenizers, "VERSION", -1)
    open_tokenizer(SMALL, part, folder)
    assert len(calls) == 3


# -- published tokenizers -------------------------------------------------------------------


def test_a_local_folder_or_file_instead_of_an_id(tmp_path: Path) -> None:
    like_neox().save(str(tmp_path / "tokenizer.json"))
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        found = open_tokenizer(PretrainedConfig(str(name)))
        assert (found.eos, found.vocab_size) == (0, 503)  # as GPT-NeoX: the end of text comes first
        assert found.fingerprint == NEOX.fingerprint
        assert found.encode("Once    upon") == NEOX.encode("Once    upon")


def test_special_tokens_padding_and_cuts_of_a_published_tokenizer_do_not_act() -> None:
    backend = like_neox()
    backend.enable_padding(length=3000)
    backend.enable_truncation(max_length=3)
    cut = backend.encode(TEXTS[0]).ids
    assert BPETokenizer(backend, "<|endoftext|>").encode(TEXTS[0]) == NEOX.encode(TEXTS[0])
    assert cut[:3] == NEOX.encode(TEXTS[0])[:3] and len(cut) == 3000
    assert len(NEOX.encode("<|endoftext|>")) > 1


def test_a_space_in_front_is_not_exact() -> None:
    backend = like_neox(normal=False)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    found = BPETokenizer(backend, "<|endoftext|>")
    assert not found.exact and found.decode(found.encode("a")) == " a"


def test_the_hub_is_asked_for_the_pinned_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    like_neox().save(str(tmp_path / "tokenizer.json"))
    calls = []

    def download(*names: str, **options: str) -> str:
        calls.append((names, options))
        return str(tmp_path / "tokenizer.json")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    config = PretrainedConfig()
    assert open_tokenizer(config).fingerprint == NEOX.fingerprint
    asked = ("EleutherAI/gpt-neox-20b", "tokenizer.json")
    assert calls == [(asked, {"revision": config.revision})]


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("not in the local cache"),
        HFValidationError("Repo id must be in the form"),
        ConnectionError("no route"),
    ],
)
def test_without_the_hub_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def download(*names: str, **options: str) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    config = PretrainedConfig()
    with pytest.raises(TextUnavailable) as caught:
        open_tokenizer(config)
    for hint in (config.name, config.revision, "hf download", "HF_HOME", "tokenizer.json",
                 str(error)):  # fmt: skip
        assert hint in str(caught.value)


def test_unfit_tokenizers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the folder has no tokenizer\.json"):
        open_tokenizer(PretrainedConfig(str(tmp_path)))
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer"):
        open_tokenizer(PretrainedConfig(str(tmp_path)))
    like_neox().save(str(file))
    with pytest.raises(ValueError, match=r"eos is '</s>', which the tokenizer lacks"):
        open_tokenizer(PretrainedConfig(str(tmp_path), eos="</s>"))
    plain = Backend(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    plain.save(str(file))
    with pytest.raises(ValueError, match=r"not byte-level"):
        open_tokenizer(PretrainedConfig(str(tmp_path), eos="</s>"))


# -- settings -------------------------------------------------------------------------------


def test_fingerprints_tell_tokenizers_apart() -> None:
    found = [*EXACT.values(), NEOX, BPETokenizer(like_neox(), "<|padding|>")]
    assert len({tokenizer.fingerprint for tokenizer in found}) == len(found)
    assert open_tokenizer(BytesConfig()).fingerprint == EXACT["bytes"].fingerprint


@pytest.mark.parametrize("config", [BytesConfig(), SMALL, PretrainedConfig("a/b")])
def test_configs_survive_their_records(config: Any) -> None:
    assert from_dict(type(config), to_dict(config)) == config
    assert to_dict(config)["kind"] == config.kind


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BPEConfig(vocab_size=256), r"vocab_size is 256, allowed: at least 257"),
        (lambda: BPEConfig(training_bytes=0), r"training_bytes is 0, allowed: at least 1"),
        (lambda: PretrainedConfig(""), r"name is ''"),
        (lambda: PretrainedConfig(revision="main"), r"revision is 'main', allowed: a commit"),
        (lambda: open_tokenizer(SMALL), r"part is None, allowed: the documents"),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
