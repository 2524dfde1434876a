"""Language models as cells: trained on text, measured on text that they have not seen."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import pandas as pd
import pytest

from lib.config import from_dict, to_dict
from lib.experiments import Context, Outcome
from lib.experiments._language import (
    LanguageCell,
    language_readable,
    open_data,
    summarise,
    tokens_per_second,
    train_language,
    write_samples,
)
from lib.models.config import LanguageModelConfig, Mamba1Config, Mamba2Config
from lib.store import Record
from lib.tasks.corpus import CorpusConfig, StoryText
from lib.tasks.language import LanguageTask
from lib.tasks.tokenizers import BPEConfig, BytesConfig
from lib.training import compiling, loop
from lib.training.config import TrainingConfig

TASK = LanguageTask(
    CorpusConfig(StoryText(documents=200), validation=0.1), BytesConfig(), length=32,
    epoch_tokens=32 * 8 * 10, valid_rows=20,
)  # fmt: skip
CELL = LanguageCell(
    TASK,
    LanguageModelConfig(257, 1, (Mamba1Config(d_model=16, d_state=4),), tie_embeddings=True),
    TrainingConfig(epochs=3, warmup_epochs=1, batch_size=8, lr_peak=1e-2),
    seed=1,
)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAMBA_BOOK_RUNS", str(tmp_path_factory.getbasetemp() / "language"))


def run(cell: LanguageCell, **options: object) -> Outcome:
    (outcome,) = train_language([cell], Context(**options))  # type: ignore[arg-type]
    return outcome


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMBA_BOOK_RUNS", str(tmp_path_factory.getbasetemp() / "language"))
        return run(CELL)


def test_a_model_learns_text_and_the_record_says_which(whole: Outcome) -> None:
    assert whole.status == "done" and whole.curves is not None and whole.weights is not None
    losses = whole.curves["valid_loss"].tolist()
    assert len(losses) == 3 and math.log(257) > losses[0] > losses[1] > losses[2] > 1.0
    # bytes: a target is a byte but for the ends of text, so bits per byte are a little more
    bits = whole.curves["valid_bits_per_byte"] / (whole.curves["valid_loss"] / math.log(2))
    assert bits.between(0.9999, 1.02).all()
    assert whole.metrics["steps"] == 30
    assert whole.metrics["final_valid_loss"] == losses[-1] == whole.metrics["best_valid_loss"]
    facts = whole.facts
    assert facts["text"]["train_documents"] + facts["text"]["validation_documents"] == 200
    assert len(facts["text"]["fingerprint"]) == len(facts["tokenizer"]) == 64
    assert facts["dtype"] == "float32" and facts["train_tokens"] > 10_000
    record = Record(
        "stories.from_scratch", 1, to_dict(CELL), "x", "done", {"steps": 30.0}, dict(facts)
    )
    epoch = facts["fastest_epoch_seconds"]
    # of three, without what comes before them
    assert 0 < epoch <= facts["training_seconds"] / 3 + 1e-3
    assert tokens_per_second(record) == pytest.approx(10 * 8 * 32 / epoch)
    assert tokens_per_second(dataclasses.replace(record, provenance={})) is None


def test_broken_off_and_taken_up_again_is_the_same_run(
    whole: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    with monkeypatch.context() as patch:  # a clock that ticks whenever it is looked at
        patch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
        assert run(CELL, checkpoints=tmp_path, deadline=25.0).status == "stopped"
    again = run(CELL, checkpoints=tmp_path)
    assert next(s["steps"] for s in again.facts["sessions"]) in range(1, 30)
    assert again.curves is not None and whole.curves is not None
    pd.testing.assert_frame_equal(again.curves, whole.curves)
    assert again.weights == whole.weights


def test_parts_and_bfloat16_train_the_same_model(whole: Outcome) -> None:
    parts = run(
        dataclasses.replace(CELL, training=dataclasses.replace(CELL.training, accumulate=4))
    )
    assert parts.metrics["final_valid_loss"] == pytest.approx(
        whole.metrics["final_valid_loss"], rel=1e-3
    )
    narrow = dataclasses.replace(CELL.training, precision="bfloat16")
    half = run(dataclasses.replace(CELL, training=narrow))
    assert half.facts["dtype"] == "bfloat16"
    assert half.metrics["final_valid_loss"] == pytest.approx(
        whole.metrics["final_valid_loss"], rel=0.05
    )


def test_several_cells_train_one_after_the_other() -> None:
    short = dataclasses.replace(CELL.training, epochs=1)
    cells = [dataclasses.replace(CELL, training=short, seed=seed) for seed in (1, 2)]
    found = list(train_language(cells, Context(ensemble=8)))
    assert [outcome.cell for outcome in found] == cells
    assert {outcome.facts["ensemble"]["runs"] for outcome in found} == {1}
    assert found[0].metrics["final_valid_loss"] != found[1].metrics["final_valid_loss"]


def test_models_that_train_alone_train_in_the_order_of_their_cells() -> None:
    short = dataclasses.replace(CELL.training, epochs=1)
    other = dataclasses.replace(CELL.model, n_layers=2)
    cells = [
        dataclasses.replace(CELL, model=model, training=short, seed=seed)
        for seed in (1, 2)
        for model in (CELL.model, other)
    ]
    assert [outcome.cell for outcome in train_language(cells, Context())] == cells


def test_compiled_layers_train_the_same_model_and_measure_eagerly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter, plain = CompileCounterWithBackend("eager"), compiling.compile_layers
    monkeypatch.setattr(compiling, "compile_layers", lambda model: plain(model, counter))  # type: ignore[arg-type]
    model = LanguageModelConfig(257, 3, (Mamba2Config(16, d_state=8, headdim=16),))
    cell = dataclasses.replace(CELL, model=model)
    outcomes = []
    for compiled in (True, False):
        (found,) = train_language([cell], Context(compile=compiled), write_samples)
        outcomes.append(found)
        assert found.facts["compile"] == compiled
    # three layers, their measurements and their samples: one compilation, of training alone
    assert counter.frame_count == 1
    one, other = outcomes
    assert one.metrics["final_valid_loss"] == pytest.approx(
        other.metrics["final_valid_loss"], rel=1e-5
    )
    assert one.facts["samples"] == other.facts["samples"]


def test_samples_go_on_from_held_out_text_and_do_not_change_what_is_measured() -> None:
    short = dataclasses.replace(CELL, training=dataclasses.replace(CELL.training, epochs=1))
    (one,) = train_language([short], Context())
    (two,) = train_language([short], Context(), write_samples)
    assert "samples" not in one.facts and one.metrics == two.metrics and one.weights == two.weights
    validation = open_data(TASK).corpus.validation
    assert len(two.facts["samples"]) == 2
    for sample, document in zip(two.facts["samples"], validation, strict=False):
        assert document.startswith(sample["prompt"]) and len(sample["prompt"]) == 23  # and the end


def test_one_text_is_opened_once() -> None:
    assert open_data(TASK) is open_data(dataclasses.replace(TASK, epoch_tokens=None, valid_rows=7))


def test_cells_have_names_and_survive_their_records() -> None:
    assert language_readable(CELL) == "mamba1-L1-official-tied-m16-stories-s1"
    for tokenizer in (BytesConfig(), BPEConfig(vocab_size=257)):
        cell = dataclasses.replace(CELL, task=dataclasses.replace(TASK, tokenizer=tokenizer))
        assert from_dict(LanguageCell, to_dict(cell)) == cell


def test_the_best_is_the_least() -> None:
    curves = pd.DataFrame(
        {"epoch": [1, 2, 3], "valid_loss": [3.0, 1.0, 2.0], "train_loss": [3.0, 2.0, 1.0],
         "valid_bits_per_byte": [4.0, 2.0, 3.0]}
    )  # fmt: skip
    found = summarise(curves)
    assert (found["best_valid_loss"], found["best_valid_loss_epoch"]) == (1.0, 2.0)
    assert (found["final_valid_bits_per_byte"], found["final_train_loss"]) == (3.0, 1.0)
    assert summarise(pd.DataFrame()) == {"epochs": 0.0}


def test_a_cell_that_cannot_be_says_so() -> None:
    few = dataclasses.replace(CELL.model, vocab_size=256)
    with pytest.raises(ValueError, match=r"model\.vocab_size is 256, allowed: 257 or more"):
        dataclasses.replace(CELL, model=few)
    short = dataclasses.replace(CELL.model, positional_encoding="learned", max_length=31)
    with pytest.raises(ValueError, match=r"task.length is 32, allowed: up to max_length 31"):
        dataclasses.replace(CELL, model=short)
    with pytest.raises(ValueError, match="seed is -1, allowed: 0 or more"):
        dataclasses.replace(CELL, seed=-1)
