from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filelock import FileLock, Timeout

from lib import locks, provenance, runner
from lib.analysis.memory_reference import (
    omitted_by_length,
    omitted_by_perplexity,
    published,
)
from lib.claims import load_claims
from lib.config import from_dict, to_dict
from lib.experiments import (
    Context,
    Outcome,
    _language,
    _memory,
    _memory_cell,
    _pretraining,
    _reading,
    find,
    memory,
    stories,
)
from lib.models.config import LanguageModelConfig, Mamba1Config
from lib.models.hub import HubError, save_pretrained
from lib.models.language_model import LanguageModel, build_language_model
from lib.models.presets import non_embedding
from lib.store import Record, Store, write_atomic
from lib.tasks import memory_text
from lib.tasks.memory_text import TagsUnavailable
from lib.tasks.reconstruction import CATEGORIES, LENGTHS
from lib.training import compiling
from lib.training.abreast import by_itself
from tests.conftest import ROOT
from tests.fakes import PROVENANCE

pytestmark = pytest.mark.usefixtures("runs")


def loaded_model(language: Any, context: Context) -> _pretraining.Loaded | Outcome:
    return by_itself(_pretraining.language_model(language, context))


def short(cell: _memory_cell.MemoryCell, steps: int = 4, **change: Any) -> _memory_cell.MemoryCell:
    """A cell of a few steps, its language model too."""
    language = cell.language
    training = dataclasses.replace(language.training, epochs=1, batch_size=4)  # type: ignore[union-attr]
    task = dataclasses.replace(language.task, epoch_tokens=4 * 3 * language.task.length)
    language = dataclasses.replace(language, training=training, task=task)  # type: ignore[arg-type]
    training = dataclasses.replace(cell.training, epochs=2, batch_size=8)
    values = {"language": language, "training": training, "epoch_chunks": 4 * steps, "asked": 4}
    return dataclasses.replace(cell, **{**values, **change})


# -- cells ----------------------------------------------------------------------------------


def test_paper_cells_are_the_published_models() -> None:
    cells = memory.cells("paper")
    assert len(cells) == 28 and {cell.task.length for cell in cells} == set(LENGTHS)
    first = cells[0]
    assert (
        _memory_cell.readable(first) == "mamba-130m-hf-L4-s1" and first.training.batch_size == 200
    )
    assert first.training.lr_start == first.training.lr_peak == first.training.lr_end == 1e-5
    assert (first.model.n_layers, first.model.d_model) == (24, 768)
    tagged = {_memory_cell.readable(cell) for cell in cells if cell.tags is not None}
    assert tagged == {"mamba-130m-hf-L256-s1", "mamba-1.4b-hf-L256-s1"}
    for cell in cells:
        assert from_dict(_memory_cell.MemoryCell, to_dict(cell)) == cell


def test_matched_cells_begin_with_a_whole_comparison() -> None:
    cells = memory.cells("matched")
    assert len(set(cells)) == len(cells)
    first = cells[: 3 * len(LENGTHS)]
    assert {cell.language.task.corpus.source.kind for cell in first} == {"kinds"}
    assert {cell.seed for cell in first} == {1} and len({cell.model for cell in first}) == 3
    for cell in cells:
        assert cell.training.batch_size * cell.task.length == memory.BATCH_TOKENS
        assert cell.language.seed == cell.seed  # type: ignore[union-attr]
        # as many steps at each length
        assert cell.epoch_chunks is not None
        steps = cell.training.epochs * (cell.epoch_chunks // cell.training.batch_size)
        assert steps == memory.DECODER_STEPS
        width = cell.model.pattern[0].d_model
        assert cell.training.lr_peak == pytest.approx(1.28 / width)  # 0.01 at 128
    kept = [cell for cell in cells if cell.keep_weights]
    assert len({cell.language for cell in kept}) == 1
    size = non_embedding(kept[0].model) + kept[0].model.vocab_size * kept[0].model.d_model
    assert 2 * 2 * size < 2 * 2**20 - 200_000  # encoder, decoder and tokenizer in half precision


def test_models_of_real_text_are_those_of_the_stories_but_for_what_is_held_out() -> None:
    own = {cell.language for cell in memory.cells("matched")}
    corpus, _ = stories.TEXTS["debian"]
    real = {each for each in own if each.task.corpus.held_out is not None}
    assert {each.task.corpus.source for each in real} == {corpus.source}
    alike = {
        dataclasses.replace(each, task=dataclasses.replace(each.task, corpus=corpus))
        for each in real
    }
    assert len(alike & set(stories.cells("matched"))) == 3  # 5M, three seeds
    assert not own & set(stories.cells("matched"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"asked": 0}, "MemoryCell.asked is 0, allowed: 1 or more"),
        ({"tags": "penn"}, "MemoryCell.tags is 'penn', allowed: None, built-in, ud"),
        ({"epoch_chunks": 3}, "MemoryCell.epoch_chunks is 3, allowed: None, or a batch and more"),
        ({"seed": -1}, "seed is -1, allowed: 0 or more"),
    ],
)
def test_bad_cells_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(memory.cells("quick")[0], **change)


def test_a_chunk_longer_than_the_model_s_positions_is_named() -> None:
    cell = memory.cells("quick")[1]
    model = dataclasses.replace(
        cell.model, positional_encoding="learned", max_length=8
    )  # fmt: skip
    task = dataclasses.replace(cell.language.task, length=8)
    language = dataclasses.replace(cell.language, model=model, task=task)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"task.length is 8, allowed: less than max_length 8"):
        dataclasses.replace(cell, language=language)


# -- running --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(runs: Path) -> list[Record]:
    """The records of the quick profile."""
    store = Store(runs, runs / "none")
    done = runner.run(memory.NAME, "quick", store=store, say=lambda text: None)
    assert done.done == ["mamba1-2x48-kinds-L4-s1", "mamba1-2x48-kinds-L8-s1"]
    found = store.records(memory.NAME, 1, memory.cells("quick"))
    return [record for record in found if record is not None]


def test_a_decoder_remembers_what_no_control_knows(quick: list[Record]) -> None:
    found = quick[0].metrics
    for control in ("untrained", "zero", "shuffled", "alone"):
        assert found["token_accuracy"] > found[f"{control}_token_accuracy"] + 0.2, control
        assert found["omission"] < found[f"{control}_omission"] - 0.1, control
        assert found["similarity"] > found[f"{control}_similarity"], control
    assert found["state_floats"] == 2 * (96 * 8 + 96 * 3)
    assert {f"rouge1_{category}" for category in CATEGORIES} <= set(found)
    by_category = [found[f"omission_{category}"] for category in CATEGORIES]
    assert found["omission"] == pytest.approx(sum(by_category) / 5)  # 40 chunks of each
    assert found["chunks"] == 200 and "omission_pos_NUM" in found
    # the decoder's own answers to other chunks are no nearer than its habits
    assert found["swapped_similarity"] < found["similarity"] - 0.1
    assert found["rho_frequency_types"] >= 3
    assert found["language_final_valid_loss"] > 1


def test_lengths_share_a_language_model(quick: list[Record], runs: Path) -> None:
    kept = list((runs / "language_models").glob("*.safetensors"))
    assert len(kept) == 1
    facts = [record.provenance for record in quick]
    assert {fact["language_model"] for fact in facts} == {kept[0].name}
    assert facts[0]["text"]["train_documents"] + facts[0]["text"]["validation_documents"] == 400
    assert quick[0].config["language"] == quick[1].config["language"]


def test_tables_of_records(quick: list[Record]) -> None:
    frame = memory.frame(quick)
    assert frame["length"].tolist() == [4, 8] and set(frame["corpus"]) == {"kinds"}
    table = memory.tables(quick, "position")
    assert set(table["length"]) == {4, 8} and set(table["writer"]) == {"", "zero_", "alone_"}
    own = table[(table["length"] == 4) & (table["writer"] == "")]
    assert own["omission"].mean() == pytest.approx(quick[0].metrics["omission"])
    assert (own["low"] <= own["omission"]).all() and (own["omission"] <= own["high"]).all()
    assert len(memory.tables(quick, "training")) == 8 and not len(memory.tables([], "position"))
    assert memory.largest(quick, 8) == [quick[1]] and memory.largest(quick, 8, "local") == []
    assert memory.largest([], 4) == []


def test_the_model_that_has_run_at_most_lengths() -> None:
    rows = pd.DataFrame(
        {"parameters": [1, 1, 2, 2, 2, 3, 3, 3], "length": [4, 8, 4, 8, 8, 4, 4, 8]}
    )
    assert set(memory.most_lengths(rows)["parameters"]) == {3}  # of as many lengths the largest
    more = pd.concat([rows, pd.DataFrame({"parameters": [1], "length": [16]})])
    assert memory.most_lengths(more)["length"].tolist() == [4, 8, 16]
    assert not len(memory.most_lengths(rows[:0]))


def test_tables_for_readers(quick: list[Record]) -> None:
    plan = memory.planned()
    assert plan["chunks a batch"].tolist() == [200, 100, 50, 25, 12, 6, 3]
    assert plan.iloc[-1, -1] == "130M, 1.4B" and plan.iloc[:-1, -1].isna().all()
    shown = memory.correlations(memory.frame(quick))
    assert shown["text"].tolist() == ["made-up text"] * 2 and "with perplexity" in shown
    counts = [record.metrics["rho_frequency_types"] for record in quick]
    assert shown["different tokens, with frequency"].tolist() == counts
    older = memory.frame(quick).drop(columns="rho_frequency_types")
    assert "different tokens, with frequency" not in memory.correlations(older)
    pairs = memory.tables(quick[:1], "category_pairs")
    assert len(memory.differences(pairs)) == pairs["significant"].astype(bool).sum()
    assert not len(memory.differences(pd.DataFrame()))


def test_pairs_differ_if_they_do_in_every_seed() -> None:
    facts: dict[str, list[Any]] = {
        "group": ["a", "a", "b"], "other": ["b", "c", "c"], "difference": [0.2, 0.1, -0.1],
        "p_corrected": [0.0, 0.01, 0.02], "significant": [True, True, False],
    }  # fmt: skip
    first = pd.DataFrame(facts).assign(seed=1)
    assert memory.differing(first)["other"].tolist() == ["b", "c"]
    second = first.assign(seed=2, difference=0.4, significant=True)
    found = memory.differing(pd.concat([first, second.iloc[[0, 2]]]))  # a and c: too few words
    assert found.to_dict("list") == {
        "group": ["a"], "other": ["b"], "difference": pytest.approx([0.3]), "p_corrected": [0.0],
        "seeds": [2],
    }  # fmt: skip
    shown = memory.differences(first)
    assert shown["p, corrected"].tolist() == ["below 1e-300", 0.01]


def test_kept_decoders_read_and_write(quick: list[Record]) -> None:
    readers = _reading.readers(quick)
    assert list(readers) == [4, 8]
    text = "Ada found the old lamp near the mill."
    found = readers[8].recall(text)
    assert "".join(found.pieces) == text[: len("".join(found.pieces))]
    assert len(found.pieces) == len(found.marks) == 8 and set(found.marks) <= {"0", "1"}
    assert _reading.longest(readers, text) is readers[8]
    assert _reading.longest(readers, "Ada") is readers[4]
    with pytest.raises(ValueError, match=r"text has . tokens, allowed: at least 8"):
        readers[8].recall("Ada")
    with pytest.raises(ValueError, match="readers is empty"):
        _reading.longest({}, text)
    with pytest.raises(ValueError, match="kept no weights"):
        _memory.load_decoder(dataclasses.replace(quick[0], weights=None))
    # half precision hardly changes what is written
    model, tokenizer = _memory.load_decoder(quick[0])
    example = memory.tables(quick[:1], "example").iloc[0]
    again = readers[4].recall(example["text"].replace("\x1f", ""))
    assert (
        again.marks == example["marks"] and tokenizer.vocab_size == model.encoder.config.vocab_size
    )


def test_kept_decoders_are_measured_again(quick: list[Record]) -> None:
    for record in quick:
        again = _reading.reevaluate(record)
        assert {"rouge1", "rougeL", "token_accuracy", "exact"} <= set(again)
        for name, value in again.items():  # weights are kept in half precision
            assert value == pytest.approx(record.metrics[name], abs=0.01)
    other = dataclasses.replace(record, provenance={**record.provenance, "tokenizer": "another"})
    with pytest.raises(ValueError, match="the record's another"):
        _reading.reevaluate(other)


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    cell = short(memory.cells("quick")[0], tags=None)
    context = Context(identify=lambda cell: "x", checkpoints=tmp_path)
    (whole,) = _memory.train_decoders([cell], context)
    stopped = dataclasses.replace(context, deadline=0.0)
    (first,) = _memory.train_decoders([cell], stopped)
    assert (first.status, whole.status) == ("stopped", "done")
    assert context.checkpoint(_memory_cell.readable(cell), cell).exists()  # type: ignore[union-attr]
    (rest,) = _memory.train_decoders([cell], context)
    assert rest.metrics == whole.metrics and rest.curves is not None
    pd.testing.assert_frame_equal(rest.curves, whole.curves)


def test_decoders_beside_each_other_are_the_decoders_by_themselves(tmp_path: Path) -> None:
    """Of one language model and of the next, also stopped and taken up again."""
    four, eight = (short(cell, tags=None) for cell in memory.cells("quick"))
    other = dataclasses.replace(four, language=dataclasses.replace(four.language, seed=9))  # type: ignore[arg-type]
    cells = [four, eight, other]
    alone = {outcome.cell: outcome for outcome in _memory.train_decoders(cells, Context())}

    def identify(cell: Any) -> str:
        return f"{cell.task.length}-{cell.language.seed}"

    context = Context(identify=identify, checkpoints=tmp_path, abreast=2)
    stopped = list(_memory.train_decoders(cells, dataclasses.replace(context, deadline=0.0)))
    assert [(o.cell, o.status) for o in stopped] == [(four, "stopped")]
    found = list(_memory.train_decoders(cells, context))
    assert {o.cell for o in found} == set(cells) and found[-1].cell == other
    for outcome in found:
        expected = alone[outcome.cell]
        assert outcome.metrics == expected.metrics and outcome.facts["abreast"] == 2
        assert outcome.curves is not None and expected.curves is not None
        pd.testing.assert_frame_equal(outcome.curves, expected.curves)
    assert all("abreast" not in outcome.facts for outcome in alone.values())


def test_language_models_train_beside_each_other_and_decoders_wait_for_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each language model once, and decoders as of models that were there already."""
    four, eight = (short(cell, tags=None) for cell in memory.cells("quick"))
    first, second = (dataclasses.replace(four.language, seed=seed) for seed in (21, 22))  # type: ignore[arg-type]
    cells = [
        dataclasses.replace(cell, language=language)
        for language in (first, second)
        for cell in (four, eight)
    ]
    alone = {o.cell: o for o in _memory.train_decoders(cells, Context())}
    for language in (first, second):
        _pretraining.model_path(language).unlink()
    log: list[int] = []
    training = _pretraining.language_in_turns

    def logged(cell: Any, context: Context) -> Any:
        turns = training(cell, context)
        while True:
            log.append(cell.seed)
            try:
                awaited = next(turns)
            except StopIteration as end:
                return end.value
            yield awaited

    monkeypatch.setattr(_pretraining, "language_in_turns", logged)
    found = list(_memory.train_decoders(cells, Context(abreast=4)))
    switches = sum(one != other for one, other in itertools.pairwise(log))
    assert set(log) == {21, 22} and switches > 2  # neither waits for the other's end
    assert {o.cell for o in found} == set(cells)
    for outcome in found:
        assert outcome.metrics == alone[outcome.cell].metrics


# -- language models ------------------------------------------------------------------------


def test_compiled_layers_train_the_same_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = short(memory.cells("quick")[0])
    (plain,) = _memory.train_decoders([cell], Context())
    compiled: list[int] = []

    def traced(model: LanguageModel) -> None:
        compiled.append(len(model.layers))
        compiling_layers(model, "eager")  # the processor's compiler is not what is asked here

    compiling_layers = compiling.compile_layers
    monkeypatch.setattr(compiling, "compile_layers", traced)
    (fast,) = _memory.train_decoders([cell], Context(compile=True))
    assert compiled == [2, 2]  # encoder and decoder; the language model was there already
    assert plain.curves is not None and fast.curves is not None
    pd.testing.assert_frame_equal(plain.curves, fast.curves, rtol=1e-5)
    assert (plain.facts["compile"], fast.facts["compile"]) == (False, True)


def test_language_models_are_trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    language = dataclasses.replace(short(memory.cells("quick")[0]).language, seed=5)  # type: ignore[arg-type]
    first = loaded_model(language, Context())
    assert isinstance(first, _pretraining.Loaded)

    def never(*_: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(_pretraining, "language_in_turns", never)
    again = loaded_model(language, Context())
    assert isinstance(again, _pretraining.Loaded) and again.metrics == first.metrics
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    with pytest.raises(AssertionError, match="trained again"):  # another seed is another model
        loaded_model(dataclasses.replace(language, seed=6), Context())


def test_pretraining_goes_on_where_it_was_stopped(tmp_path: Path, runs: Path) -> None:
    language = dataclasses.replace(short(memory.cells("quick")[0]).language, seed=11)  # type: ignore[arg-type]
    whole = loaded_model(language, Context())
    path = _pretraining.model_path(language)
    path.unlink()
    context = Context(checkpoints=tmp_path)
    stopped = loaded_model(language, dataclasses.replace(context, deadline=0.0))
    assert isinstance(stopped, Outcome) and stopped.status == "stopped" and not path.exists()
    checkpoints = list((path.parent / "checkpoints").glob("*.safetensors"))
    assert len(checkpoints) == 1
    rest = loaded_model(language, context)
    assert isinstance(rest, _pretraining.Loaded) and isinstance(whole, _pretraining.Loaded)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[name]), name
    assert not checkpoints[0].exists() and path.exists()


def test_pretraining_that_failed_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language = dataclasses.replace(short(memory.cells("quick")[0]).language, seed=13)  # type: ignore[arg-type]
    path = _pretraining.model_path(language)

    def failing(cell: Any, context: Context) -> Any:
        checkpoint = context.checkpoint("name", cell)
        assert checkpoint is not None
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.write_bytes(b"what is no number")
        yield
        return Outcome(cell, "failed", "the loss was not finite")

    with monkeypatch.context() as patch:
        patch.setattr(_pretraining, "language_in_turns", failing)
        failed = loaded_model(language, Context(checkpoints=tmp_path))
    assert isinstance(failed, Outcome) and failed.status == "failed" and not path.exists()
    assert not list((path.parent / "checkpoints").glob(f"*{_pretraining.identity(language)}*"))


def held_lock(path: Path) -> FileLock:
    """The lock that another process holds while it trains a model."""
    folder = _pretraining.runs_folder() / locks.FOLDER
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / f"{path.stem}.lock")
    lock.acquire(blocking=False)
    return lock


def test_a_model_that_another_process_trains_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_pretraining, "PAUSE", 0)
    language = dataclasses.replace(short(memory.cells("quick")[0]).language, seed=31)  # type: ignore[arg-type]
    whole = loaded_model(language, Context())
    assert isinstance(whole, _pretraining.Loaded)
    path = _pretraining.model_path(language)
    payload = path.read_bytes()
    path.unlink()
    lock = held_lock(path)
    training = _pretraining.language_in_turns
    monkeypatch.setattr(_pretraining, "language_in_turns", None)
    turns = _pretraining.language_model(language, Context())
    awaited = [next(turns) for _ in range(3)]
    assert all(other is not None and not other.query() for other in awaited)
    assert f"another process trains {path.stem}" in capsys.readouterr().err
    write_atomic(path, payload)
    assert awaited[0] is not None and awaited[0].query()
    found = by_itself(turns)
    assert isinstance(found, _pretraining.Loaded) and found.metrics == whole.metrics

    path.unlink()  # the other one ends without it: then this one trains, and nobody else
    turns = _pretraining.language_model(language, Context())
    next(turns)
    lock.release()
    monkeypatch.setattr(_pretraining, "language_in_turns", training)
    next(turns)
    with pytest.raises(Timeout):
        held_lock(path)
    again = by_itself(turns)
    assert isinstance(again, _pretraining.Loaded) and again.metrics == whole.metrics
    held_lock(path).release()


def test_who_waits_for_a_model_keeps_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pretraining, "PAUSE", 0)
    cell = short(memory.cells("quick")[0])
    language = dataclasses.replace(cell.language, seed=32)  # type: ignore[arg-type]
    path = _pretraining.model_path(language)
    lock = held_lock(path)
    (outcome,) = _memory.train_decoders(
        [dataclasses.replace(cell, language=language)],
        Context(deadline=time.monotonic() + 0.2),
    )
    assert outcome.status == "stopped" and outcome.cell.language == language
    waited = f"budget spent waiting for {path.stem}, which another process trains"
    assert outcome.reason == f"its language model: {waited}"
    assert not path.exists() and lock.is_locked
    lock.release()
    stopped = loaded_model(language, Context(deadline=0.0))  # nobody's lock any more
    assert isinstance(stopped, Outcome) and "waiting" not in (stopped.reason or "")
    held_lock(path).release()


def test_a_model_of_the_stories_is_taken_from_its_record(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language = dataclasses.replace(short(memory.cells("quick")[0]).language, seed=12)  # type: ignore[arg-type]
    (outcome,) = _language.train_language([language], Context())
    store = Store(runs, ROOT / "book" / "results")
    found = {name: value for name, value in outcome.metrics.items() if value is not None}
    record = Record(
        *_pretraining.STORIES, to_dict(language), "x", "done", found, PROVENANCE | outcome.facts
    )
    store.save(record, outcome.curves, outcome.weights)
    monkeypatch.setattr(_pretraining, "language_in_turns", None)
    loaded = loaded_model(language, Context())
    assert isinstance(loaded, _pretraining.Loaded)
    assert loaded.facts["pretraining"] == [record.name]
    assert loaded.metrics["final_valid_loss"] == found["final_valid_loss"]
    assert find(_pretraining.STORIES[0]).protocol == _pretraining.STORIES[1]


def test_a_language_model_out_of_budget_stops_its_cells() -> None:
    cell = short(memory.cells("quick")[0])
    language = dataclasses.replace(cell.language, seed=7)  # type: ignore[arg-type]
    cells = [dataclasses.replace(cell, language=language, seed=seed) for seed in (7, 8)]
    outcomes = list(_memory.train_decoders(cells, Context(deadline=0.0)))
    assert [outcome.status for outcome in outcomes] == ["stopped"]
    assert isinstance(loaded_model(language, Context(deadline=0.0)), Outcome)


def test_published_weights_come_from_a_folder(runs: Path) -> None:
    own = memory.cells("quick")[0]
    model = LanguageModelConfig(320, 2, (Mamba1Config(32),), tie_embeddings=True)
    language = _pretraining.Published("nobody/tiny-hf", model, own.language.task)
    with pytest.raises(HubError, match=r"tiny-hf.*or put it into .*pretrained/tiny-hf"):
        loaded_model(language, Context())
    drawn = build_language_model(model, seed=3)
    save_pretrained(drawn, runs / "pretrained" / "tiny-hf")
    loaded = loaded_model(language, Context())
    assert isinstance(loaded, _pretraining.Loaded)
    for name, value in drawn.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name
    cell = short(own, tags=None, language=language, keep_weights=False)
    assert _memory_cell.readable(cell) == "tiny-hf-L4-s1"
    (outcome,) = _memory.train_decoders([cell], Context())
    assert outcome.status == "done" and outcome.facts["pretrained"] == "nobody/tiny-hf"
    path = runs / "pretrained" / "tiny-hf" / "model.safetensors"  # of a commit that nobody knows
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert outcome.facts["revision"] is None
    assert outcome.facts["weights_sha256"] == {path.name: digest}
    wrong = dataclasses.replace(language, model=dataclasses.replace(model, n_layers=3))
    with pytest.raises(HubError, match=r"has 2 layers of mamba1.*the cell wants 3 layers"):
        loaded_model(wrong, Context())


def test_published_weights_can_be_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own, commit = memory.cells("quick")[0], "0123456789" * 4
    model = LanguageModelConfig(320, 2, (Mamba1Config(32),), tie_embeddings=True)
    newest = _pretraining.Published("nobody/pinned-hf", model, own.language.task)
    assert "revision" not in to_dict(newest)  # as in cells that are older than the field
    language = dataclasses.replace(newest, revision=commit)
    assert from_dict(_pretraining.Published, to_dict(language)) == language
    assert _pretraining.Published("nobody/pinned-hf", model, own.language.task, None) == newest
    for bad in ("main", commit[:39], ""):
        with pytest.raises(ValueError, match=f"revision is '{bad}', allowed: a commit, 40 hex"):
            dataclasses.replace(newest, revision=bad)
    copy = tmp_path / "snapshots" / commit
    save_pretrained(build_language_model(model, seed=3), copy)
    asked: list[Any] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        return str(copy)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for each, revision in ((language, commit), (newest, None)):
        loaded = loaded_model(each, Context())
        assert isinstance(loaded, _pretraining.Loaded)
        # whatever was asked for, this is the commit that came
        assert loaded.facts == {"pretrained": "nobody/pinned-hf", "revision": commit}
        assert asked.pop() == ("nobody/pinned-hf", revision)


def test_tagged_text_is_measured_and_told_by_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "tagged.txt"
    rows = ["Ada NNP B-NP B-PER", "saw VBD B-VP O", "3 CD B-NP O", "men NNS I-NP O", ". . O O"]
    path.write_text("-DOCSTART- -X- -X- O\n\n" + "\n".join([*rows, ""]) * 40)
    monkeypatch.setattr(memory_text, "CONLL_FILE", str(path))
    plain = short(memory.cells("quick")[0], tags=None)
    cell = dataclasses.replace(plain, tags="conll2003", asked=20)
    (outcome,) = _memory.train_decoders([cell], Context())
    assert outcome.status == "done", outcome.reason
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert outcome.facts["tagged_text"] == {
        "tags": "conll2003", "files": {"tagged.txt": digest}
    }  # fmt: skip
    assert {"omission_pos_NUM", "omission_pos_most", "omission_entity_Not NE"} <= set(
        outcome.metrics
    )
    (other,) = _memory.train_decoders([plain], Context())
    assert "tagged_text" not in other.facts and "omission_pos_NUM" not in other.metrics


def test_what_is_missing_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [memory.cells("quick")[0], dataclasses.replace(memory.cells("quick")[1], tags="ud")]
    monkeypatch.setattr(provenance, "ROOT", Path("/nowhere"))
    with pytest.raises(TagsUnavailable, match=r"en_ewt-ud-test.conllu is not there"):
        next(_memory.train_decoders(cells, Context()))


# -- published numbers ----------------------------------------------------------------------


def test_published_tables() -> None:
    sizes = published("rouge_by_size")
    assert len(sizes) == 28 and sizes["value"].between(0.6, 1).all()
    worst = published("rouge1_by_source").sort_values("value").iloc[0]
    assert (worst["model"], worst["group"], worst["length"]) == ("1.4b", "DM Math", 256)
    assert worst["value"] == pytest.approx(0.367)
    words = published("omission_by_pos")
    top = words.loc[words.groupby("model")["value"].idxmax()]
    assert set(top["group"]) == {"NUM"} and len(words) == 28
    assert len(published("omission_by_entity")) == 10
    counts = omitted_by_length()
    assert counts["omission"].iloc[-1] == pytest.approx(0.21, abs=0.001)
    assert (counts["ratio"] > 2).all() and counts["omission"].is_monotonic_increasing
    bins = omitted_by_perplexity()
    assert bins["x"].tolist() == list(range(0, 45, 5)) and bins["omission"].iloc[0] == 0.196
    with pytest.raises(ValueError, match="table is 'none', allowed: rouge_by_size"):
        published("none")


def test_claims_repeat_the_published_tables() -> None:
    """Typed numbers, held against the table that they were taken from."""
    claims = {c.id: c for c in load_claims(ROOT, chapter="memory") if c.id.startswith("memory.")}
    rows = published("rouge_by_size")
    for row in rows.itertuples():
        claim = claims[f"{memory.NAME}.{row.model.replace('.', '')}-l{row.length}"]
        assert claim.value == pytest.approx(row.value) and claim.metric == "rouge1"
        assert claim.select == {
            "pretrained": f"state-spaces/mamba-{row.model}-hf", "task.length": row.length
        }  # fmt: skip
    names = {"CC": "Pile-CC", "NIH": "NIH ExPorter", "Enron": "Enron Emails",
             "DM Math": "DM Mathematics"}  # fmt: skip
    for table in ("rouge1_by_source", "rouge1_by_dialect"):
        for row in published(table).itertuples():
            group = names.get(row.group, row.group)
            name = f"{row.model.replace('.', '')}-l{row.length}-{group.lower().replace(' ', '-')}"
            claim = claims[f"memory.sequence_types.{name}"]
            assert claim.value == pytest.approx(row.value) and claim.metric == f"rouge1_{group}"
            assert f"Of {row.length} tokens" in claim.statement
            assert claim.statement.endswith(
                f"mamba-{row.model} gives back ROUGE-1 F1 {row.value:.4f}."
            )
            assert claim.select == {
                "pretrained": f"state-spaces/mamba-{row.model}-hf", "task.length": row.length
            }  # fmt: skip
    dialects = published("rouge1_by_dialect").groupby(["model", "group"])["value"].mean()
    for model, means in dialects.groupby("model"):
        claim = claims[f"memory.sequence_types.{model.replace('.', '')}-aave-below-sae"]
        gap = means[model, "SAE"] - means[model, "AAVE"]
        assert claim.value == pytest.approx(gap, abs=5e-5)
        assert claim.select["task.length"] == list(LENGTHS)
        assert (claim.metric, claim.minus) == ("rouge1_SAE", "rouge1_AAVE")
    for table, by in (("omission_by_pos", "pos"), ("omission_by_entity", "entity")):
        for row in published(table).itertuples():
            name = row.group.lower().replace(" ", "-")
            claim = claims[f"memory.token_types.{row.model.replace('.', '')}-{name}"]
            assert claim.value == pytest.approx(row.value)
            assert claim.metric == f"omission_{by}_{row.group}"
    for row in omitted_by_length().itertuples():
        claim = claims[f"memory.positions.130m-l{row.length}"]
        part = 921_088 / min(16, row.length)
        assert claim.value == pytest.approx((row.first - row.last) / part, abs=1e-4)
        claim = claims[f"{memory.NAME}.130m-omission-l{row.length}"]
        assert claim.value == pytest.approx(row.omission, abs=5e-5) and claim.metric == "omission"
        assert claim.select["task.length"] == row.length
    # none of the published models but what these tables and the orders of two models have
    orders = [c for c in claims.values() if c.profile == "paper" and (c.against or c.minus)]
    others = [c for c in claims.values() if c.profile == "paper" and not (c.against or c.minus)]
    assert len(others) == 28 + 126 + 28 + 28 + 10 + 7 + 1  # the last is the slope over perplexity
    assert len(orders) == 7 + 6 + 2 + 2  # positions, mathematics, dialects, sizes


def test_every_finding_has_a_claim() -> None:
    claims = [c for c in load_claims(ROOT, chapter="memory") if c.chapter == "memory"]
    findings = {c.id.split(".")[1] for c in claims}
    assert findings == {
        "reconstruction_by_length", "token_types", "sequence_types", "positions",
        "prevalence_correlation", "prevalence_causal",
    }  # fmt: skip
    # small models of our own are marked as such, and none is held to a published height
    for claim in claims:
        assert claim.scaled == (claim.profile == "matched")
        if claim.scaled:
            assert claim.rule != "within" or claim.value == 0
