"""Sources of text and their split, with files written here and a hub that is faked."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.config import from_dict, to_dict
from lib.tasks import stories
from lib.tasks.corpus import (
    PILE_10K,
    TINY_STORIES,
    Corpus,
    CorpusConfig,
    HubText,
    LocalText,
    StoryText,
    TextUnavailable,
    open_source,
    place,
)
from lib.tasks.stories import StoryConfig, story

STORIES = StoryText(StoryConfig(beats_min=1, beats_max=2), documents=400)
REVISION = "0123456789abcdef0123456789abcdef01234567"


def lines_of(texts: list[str], **more: str) -> str:
    return "".join(json.dumps({"text": text, **more}) + "\n" for text in texts)


def zipped(raw: bytes) -> bytes:
    """Without the time of day, which would be part of a test's name: the workers must agree."""
    return gzip.compress(raw, mtime=0)


def local(folder: Path, **files: str | bytes) -> LocalText:
    """Files by name, with ``__`` for the dots."""
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(zipped(raw) if path.suffix == ".gz" else raw)
    return LocalText(str(folder))


# -- split ----------------------------------------------------------------------------------


@given(
    texts=st.lists(st.text(min_size=1), min_size=1, max_size=40),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_sides_are_disjoint_and_complete(texts: list[str], share: float, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "all.jsonl")
        path.write_text(lines_of(texts + texts))  # every document twice
        config = CorpusConfig(LocalText(str(path)), seed=seed, validation=share)
        solid = [text for text in texts if text.strip()]
        held = [text for text in solid if place(text) < share]
        if not solid or len(held) in (0, len(solid)):
            with pytest.raises(ValueError, match=r"empty|no document of"):
                Corpus(config)
            return
        corpus = Corpus(config)
        train, valid = Counter(corpus.train), Counter(corpus.validation)
        assert not set(train) & set(valid)
        assert not {t.strip() for t in train} & {v.strip() for v in valid}
        assert train + valid == Counter(solid + solid) and valid == Counter(held + held)


def test_the_share_is_met_and_a_larger_one_keeps_a_smaller_one() -> None:
    held = {}
    for share in (0.1, 0.3):
        corpus = Corpus(CorpusConfig(STORIES, validation=share))
        held[share] = set(corpus.validation)
        assert len(corpus.train) + len(held[share]) == 400
        # four standard errors of a binomial count
        assert abs(len(held[share]) - 400 * share) < 4 * (400 * share * (1 - share)) ** 0.5
    assert held[0.1] < held[0.3]


def test_place_is_uniform_and_ignores_space_around() -> None:
    places = [place(f"document {number}") for number in range(4000)]
    counts = Counter(int(10 * p) for p in places)
    assert set(counts) == set(range(10)) and min(counts.values()) > 320
    assert place(" a b\n") == place("a b") != place("a  b")


def test_order_is_the_seed_s_and_sides_are_not() -> None:
    one, same, other = (Corpus(CorpusConfig(STORIES, seed=s, validation=0.2)) for s in (1, 1, 2))
    assert list(one.train) == list(same.train) != list(other.train)
    assert sorted(one.train) == sorted(other.train)
    assert sorted(one.validation) == sorted(other.validation)
    in_order = [story(STORIES.stories, index) for index in range(400)]
    trained = set(one.train)
    assert list(one.train) != [text for text in in_order if text in trained]


def test_a_limit_keeps_the_first_of_the_order() -> None:
    whole = Corpus(CorpusConfig(STORIES, validation=0.2))
    part = Corpus(CorpusConfig(STORIES, validation=0.2, limit=100))
    assert len(part.train) + len(part.validation) == 100
    assert list(part.train) == list(whole.train)[: len(part.train)]
    assert list(part.validation) == list(whole.validation)[: len(part.validation)]


def test_fingerprints_tell_texts_apart() -> None:
    base = CorpusConfig(STORIES, validation=0.2)
    variants = [
        base,
        CorpusConfig(STORIES, seed=1, validation=0.2),
        CorpusConfig(STORIES, validation=0.3),
        CorpusConfig(STORIES, validation=0.2, limit=300),
        CorpusConfig(StoryText(STORIES.stories, 399), validation=0.2),
        CorpusConfig(StoryText(StoryConfig(1, beats_min=1, beats_max=2), 400), validation=0.2),
    ]
    corpora = [Corpus(config) for config in variants]
    prints = [part.fingerprint for c in corpora for part in (c.train, c.validation)]
    assert len(set(prints)) == 2 * len(variants)
    assert Corpus(base).train.fingerprint == corpora[0].train.fingerprint


def test_parts_are_sequences() -> None:
    train = Corpus(CorpusConfig(STORIES, validation=0.2)).train
    texts = list(train)
    assert [train[i] for i in range(len(train))] == texts and train[-1] == texts[-1]
    cut = train[3:9]
    assert list(cut) == texts[3:9] and cut.fingerprint != train.fingerprint
    assert cut.fingerprint != train[3:10].fingerprint
    with pytest.raises(IndexError):
        train[len(train)]


def test_nothing_held_out_on_request() -> None:
    corpus = Corpus(CorpusConfig(STORIES, validation=0))
    assert len(corpus.train) == 400 and list(corpus.validation) == []


# -- files ----------------------------------------------------------------------------------


def test_all_kinds_of_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder.txt").mkdir()
    local(tmp_path / "sub", a__txt="last\n")
    source = local(
        tmp_path,
        b__txt="one\n<|endoftext|>\n\ttwo  \r\n<|endoftext|>\n",
        a__jsonl=lines_of(["x", " ", "y"], source="?") + '\n"bare"\n',
        c__txt__gz="three\n",
        d__jsonl__gz=lines_of(["four"]),
        stats__json="{}",
        notes__md="not text of the corpus",
    )
    texts = open_source(source)
    # blanks are out; what is one document keeps its last line end
    assert list(texts) == ["x", "y", "bare", "one", "\ttwo  ", "three\n", "four", "last\n"]
    assert len(texts) == 8 and texts[3] == "one"
    chosen = LocalText(str(tmp_path), pattern="[ac].*")
    assert list(open_source(chosen)) == ["x", "y", "bare", "three\n", "last\n"]
    assert list(open_source(LocalText(str(tmp_path / "c.txt.gz")))) == ["three\n"]


def test_what_is_held_out_can_be_files_of_their_own(tmp_path: Path) -> None:
    """Less what both have, and blank documents; the training side is all of the source."""
    both, blank = "both have this", " \n"
    folder = local(tmp_path, train__jsonl=lines_of(["a", both, "b", blank]),
                   valid__jsonl=lines_of(["c", blank, f" {both}", "d"]))  # fmt: skip
    source, held_out = (LocalText(folder.path, f"{name}.jsonl") for name in ("train", "valid"))
    config = CorpusConfig(source, validation=0.0, held_out=held_out)
    corpus = Corpus(config)
    assert sorted(corpus.train) == ["a", "b", both] and sorted(corpus.validation) == ["c", "d"]
    alone = Corpus(CorpusConfig(source, validation=0.0))
    assert alone.train.fingerprint == corpus.train.fingerprint  # whose tokens are the same
    other = LocalText(folder.path, "valid.jsonl", separator="|")
    assert Corpus(CorpusConfig(source, 1, 0.0, held_out=held_out)).validation.fingerprint != (
        corpus.validation.fingerprint
    )
    assert corpus.describe()["validation_documents"] == 2
    assert from_dict(CorpusConfig, to_dict(config)) == config
    assert "held_out" not in to_dict(CorpusConfig(source)) and "held_out" in to_dict(config)
    with pytest.raises(ValueError, match=r"left to hold out: CorpusConfig.held_out, allowed"):
        Corpus(CorpusConfig(source, validation=0.0, held_out=source))
    wrong = LocalText(other.path, "valid.jsonl", fingerprint="0" * 64)
    with pytest.raises(ValueError, match="fingerprint"):
        Corpus(CorpusConfig(source, validation=0.0, held_out=wrong))


@given(texts=st.lists(st.text(), max_size=8), repeat=st.sampled_from([1, 50_000]))
def test_any_unicode_text_comes_back_as_it_was(texts: list[str], repeat: int) -> None:
    texts = [*(text for text in texts if text.strip()), "é" * repeat]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.jsonl")
        path.write_text(lines_of(texts))
        assert list(open_source(LocalText(str(path)))) == texts


@pytest.mark.parametrize("length", [2**20 - 20, 2**20 - 5, 2**20, 2**20 + 3])
def test_separators_across_the_chunks_that_a_file_is_read_in(tmp_path: Path, length: int) -> None:
    texts = ["a" * length, "ü" * 2**19, "end"]
    source = local(tmp_path, big__txt="<|endoftext|>".join(texts))
    assert list(open_source(source)) == texts


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    source = local(tmp_path, a__txt=b"\xef\xbb\xbfhello", b__jsonl=b'\xef\xbb\xbf"you"\n')
    assert list(open_source(source)) == ["hello", "you"]


def test_the_fingerprint_is_of_the_text_and_its_documents(tmp_path: Path) -> None:
    def of(name: str, **files: str) -> str:
        (tmp_path / name).mkdir()
        return open_source(local(tmp_path / name, **files)).fingerprint

    plain = of("plain", a__jsonl=lines_of(["one", "two"]))
    assert plain == of("zipped", z__jsonl__gz=lines_of(["one", "two"]))
    assert plain == of("files", a__txt="one", b__txt="two")
    assert len({plain, of("joined", a__txt="onetwo"), of("order", a__txt="two", b__txt="one"),
                of("cut", a__txt="onet", b__txt="wo")}) == 4  # fmt: skip


def test_a_recorded_fingerprint_is_checked(tmp_path: Path) -> None:
    source = local(tmp_path, a__txt="one", b__txt="two")
    right = open_source(source).fingerprint
    assert len(open_source(LocalText(str(tmp_path), fingerprint=right))) == 2
    (tmp_path / "b.txt").write_text("twos")
    with pytest.raises(ValueError, match=f"expected: {right}"):
        open_source(LocalText(str(tmp_path), fingerprint=right))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a.txt is empty"),
        ("a.txt", b" \n\t\n", r"a.txt is empty"),
        ("a.jsonl", b"", r"a.jsonl is empty"),
        ("a.jsonl", b'{"text": " "}\n', r"a.jsonl is empty"),
        ("a.txt", b"text\0more", r"a.txt is binary: a zero byte at offset 4"),
        ("a.txt", b"x" * 2**20 + b"12\0", r"a zero byte at offset 1048578"),
        ("a.txt", b"caf\xe9", r"a.txt is binary, or not UTF-8: .* position 3"),
        ("a.jsonl", b'{"text": "\0"}\n', r"a.jsonl line 1 is binary"),
        ("a.jsonl", b'"a"\n{"text": \n', r"a.jsonl line 2 is no JSON"),
        ("a.jsonl", b'"caf\xe9"\n', r"a.jsonl line 1 is no JSON: .*utf-8"),
        ("a.jsonl", b'{"body": "b", "id": 1}\n', r"no text under 'text'; it has: \['body', 'id'\]"),
        ("a.jsonl", b'{"text": 5}\n', r"line 1 has no text under 'text'"),
        ("a.jsonl", b"[1]\n", r"line 1 has no text under 'text'; it has: list"),
        ("a.jsonl", b'"\\ud800"\n', r"line 1 holds half of a surrogate pair"),
        ("a.txt.gz", b"not zipped", r"a.txt.gz is no whole gzip file"),
        ("a.txt.gz", zipped(b"text" * 99)[:-9], r"a.txt.gz is no whole gzip file"),
        ("a.txt.gz", zipped(b"text")[:10] + b"\xff" * 9, r"is no whole gzip file"),
    ],
)
def test_unfit_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=message):
            open_source(LocalText(str(path)))


def test_one_bad_file_among_good_ones_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"b\.txt is empty"):
        open_source(local(tmp_path, a__txt="fine", b__txt="", c__txt="fine"))


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere': there is no such file or folder"):
        open_source(LocalText(str(tmp_path / "nowhere")))
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(ValueError, match=r"no file '\*' that ends in one of \.txt, \.jsonl"):
        open_source(LocalText(str(tmp_path)))


# -- hub ------------------------------------------------------------------------------------


def fake_hub(monkeypatch: pytest.MonkeyPatch, data: Any) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def load_dataset(path: str, **options: Any) -> Any:
        calls.append({"path": path, **options})
        if isinstance(data, Exception):
            raise data
        return data

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_the_hub_is_asked_for_the_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"story {number}" for number in range(2500)]
    data = datasets.Dataset.from_dict({"text": [*rows, "", " \n"], "meta": list(range(2502))})
    calls = fake_hub(monkeypatch, data)
    corpus = Corpus(CorpusConfig(TINY_STORIES, validation=0.1))
    assert calls == [
        {"path": "roneneldan/TinyStories", "split": "train", "revision": TINY_STORIES.revision}
    ]
    assert sorted([*corpus.train, *corpus.validation]) == sorted(rows)
    assert list(corpus.texts) == [*rows, "", " \n"]
    assert corpus.describe()["source"]["revision"] == TINY_STORIES.revision
    assert corpus.describe()["train_documents"] == len(corpus.train)
    assert open_source(PILE_10K).fingerprint != corpus.source_fingerprint


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'roneneldan/TinyStories' on the Hub"),
        datasets.exceptions.DatasetNotFoundError("Dataset doesn't exist on the Hub"),
        FileNotFoundError("no such snapshot"),
    ],
)
def test_without_the_hub_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fake_hub(monkeypatch, error)
    with pytest.raises(TextUnavailable) as caught:
        Corpus(CorpusConfig(TINY_STORIES))
    message = str(caught.value)
    for part in ("roneneldan/TinyStories", TINY_STORIES.revision, "load_dataset(", "HF_HOME",
                 "LocalText(folder)", str(error)):  # fmt: skip
        assert part in message


def test_a_column_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, datasets.Dataset.from_dict({"story": ["a"]}))
    with pytest.raises(ValueError, match=r"column is 'text', allowed: \['story'\]"):
        open_source(TINY_STORIES)


# -- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        CorpusConfig(TINY_STORIES),
        CorpusConfig(LocalText("folder", fingerprint="00"), seed=3, validation=0.5),
        CorpusConfig(STORIES, limit=7),
    ],
)
def test_configs_survive_their_records(config: CorpusConfig) -> None:
    assert from_dict(CorpusConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HubText("a/b", "main"), r"revision is 'main', allowed: a commit, 40 hex digits"),
        (lambda: HubText("a/b", REVISION.upper()), r"revision is '0123456789ABC"),
        (lambda: HubText("", REVISION), r"dataset is ''"),
        (lambda: LocalText(""), r"path is ''"),
        (lambda: LocalText("a", pattern=""), r"pattern is ''"),
        (lambda: LocalText("a", separator=""), r"separator is ''"),
        (lambda: StoryText(documents=0), r"documents is 0, allowed: at least 1"),
        (lambda: CorpusConfig(STORIES, seed=-1), r"seed is -1, allowed: at least 0"),
        (lambda: CorpusConfig(STORIES, validation=1.0), r"validation is 1.0, allowed: 0 up to"),
        (lambda: CorpusConfig(STORIES, validation=-0.1), r"validation is -0.1"),
        (lambda: CorpusConfig(STORIES, limit=0), r"limit is 0, allowed: at least 1"),
        (
            lambda: CorpusConfig(STORIES, validation=0.0, held_out=LocalText("a")),
            r"source is .*allowed: LocalText beside held_out",
        ),
        (
            lambda: CorpusConfig(LocalText("a"), held_out=LocalText("b")),
            r"validation is 0.02, allowed: 0 beside held_out",
        ),
        (
            lambda: CorpusConfig(LocalText("a"), validation=0.0, limit=1, held_out=LocalText("b")),
            r"limit is 1, allowed: None beside held_out",
        ),
        (
            lambda: Corpus(CorpusConfig(STORIES, limit=1, validation=0.01)),
            r"left to hold out: .*validation is 0.01",
        ),
        (
            lambda: Corpus(CorpusConfig(STORIES, limit=1, validation=0.99)),
            r"left to train on: .*validation is 0.99",
        ),
    ],
)
def test_bad_settings_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_relative_path_is_from_the_repository(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's working folder is not the repository's, and a record's config has no machine."""
    monkeypatch.chdir(tmp_path)
    texts = open_source(LocalText("README.md"))
    assert list(texts) == [(root / "README.md").read_text()]


def test_a_part_is_read_in_its_order() -> None:
    corpus = Corpus(CorpusConfig(StoryText(documents=60), validation=0.2))
    for part in (corpus.train, corpus.validation, corpus.train[3:9]):
        assert list(part) == [part[index] for index in range(len(part))]


def test_where_documents_stand_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look at made-up text makes none of it again, and comes to the same sides."""
    config = CorpusConfig(StoryText(documents=40), seed=3, validation=0.3)
    plain, first = Corpus(config), Corpus(config, tmp_path)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    with monkeypatch.context() as without:
        without.setattr(stories, "story", None)  # whoever makes a document fails
        again = Corpus(config, tmp_path)
        others = Corpus(CorpusConfig(StoryText(documents=40), seed=4, validation=0.5), tmp_path)
        with pytest.raises(TypeError):
            Corpus(CorpusConfig(StoryText(documents=41), validation=0.3), tmp_path)
    for corpus in (first, again):
        assert corpus.train.rows.tolist() == plain.train.rows.tolist()
        assert corpus.validation.rows.tolist() == plain.validation.rows.tolist()
    # places are of the text: seed and share are not among what decides them
    assert set(plain.validation.rows) < set(others.validation.rows)
    kept.write_bytes(whole[:-8])  # damaged
    assert Corpus(config, tmp_path).train.rows.tolist() == plain.train.rows.tolist()
    assert kept.read_bytes() == whole


def test_blank_documents_stay_left_out_of_what_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one", " ", "two")))
    config = CorpusConfig(LocalText(str(file)), validation=0.0)
    sides = [len(Corpus(config, tmp_path / "kept").train) for _ in range(2)]
    assert sides == [2, 2]
