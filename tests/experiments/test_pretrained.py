"""Checkpoints of the published architectures: sizes, what a run measures, a tiny one here."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
import torch
import transformers

from lib.config import to_dict
from lib.experiments import Context, cells_of, find
from lib.experiments.pretrained import (
    DTYPES,
    NAME,
    PUBLISHED,
    describe,
    in_millions,
    published,
    readable,
    run,
    tiny,
    tiny_checkpoint,
)
from lib.figures.stories import memory_by_parameters
from lib.models.hub import HubError, load_tokenizer
from lib.models.language_model import LanguageModel
from lib.store import Record
from lib.tasks.tokenizers import BPEConfig, for_transformers, train_bpe


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in LanguageModel(published(name)).parameters())


def test_architectures_have_the_published_numbers_of_parameters() -> None:
    # of the model cards' safetensors; that of 130M also follows from tests of presets
    assert parameters("mamba-130m") == 129_135_360
    assert parameters("mamba-370m") == 371_516_416
    assert parameters("mamba-2.8b") == 2_768_345_600
    for name in PUBLISHED:
        stated = name.split("-")[1]
        size = float(stated[:-1]) * {"m": 1e6, "b": 1e9}[stated[-1]]
        assert parameters(name) == pytest.approx(size, rel=0.04)
    cells = cells_of(find(NAME), "paper")
    assert [cell.name for cell in cells] == list(PUBLISHED)
    assert readable(cells[0]) == "mamba-130m-random-s1"


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_transformers_has_the_same_architecture_under_the_published_sizes(family: str) -> None:
    name = f"{family}-130m"
    kinds = {"mamba": transformers.MambaConfig, "mamba2": transformers.Mamba2Config}
    own = {} if family == "mamba" else {"num_heads": 24, "n_groups": 1}
    config = kinds[family](
        vocab_size=published(name).vocab_size, hidden_size=768, num_hidden_layers=24,
        tie_word_embeddings=True, **own,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(config)
    theirs.tie_weights()
    assert sum(p.numel() for p in theirs.parameters()) == parameters(name)


def test_quick_checkpoints_come_back_the_same_and_are_measured() -> None:
    cells = cells_of(find(NAME), "quick")
    outcomes = list(run(cells, Context()))
    records = []
    for cell, outcome in zip(cells, outcomes, strict=True):
        assert outcome.status == "done" and outcome.cell == cell
        found = outcome.metrics
        assert found["float32_error"] < 1e-6 and 0 < found["bfloat16_error"] < 0.05
        assert found["transformers_error"] <= 1e-5 and outcome.facts["notes"] == {}
        assert found["float32_weight_bytes"] == 4 * found["n_parameters"]
        assert found["bfloat16_weight_bytes"] == 2 * found["n_parameters"]
        # the file holds the weights, a tied one once, and some bytes of names
        assert 0 < found["file_bytes"] - found["float32_weight_bytes"] < 10_000
        assert "float32_peak_mb" not in found  # a processor does not say
        table = outcome.curves
        assert table is not None and len(table) == len(DTYPES) * cell.repeats
        own = table[table["dtype"] == "float32"]
        assert found["float32_new_tokens_per_s"] == own["new_tokens_per_s"].median() > 0
        records.append(Record(NAME, 1, to_dict(cell), readable(cell), "done", found, outcome.facts))
    block = 4 * (128 * 3 + 128 * 16)  # Mamba-1: channels times taps before and state, in float32
    assert outcomes[0].metrics["state_bytes"] == 4 * block
    frame = find(NAME).frame(records)
    assert frame["name"].tolist() == ["tiny-mamba", "tiny-mamba2"]
    assert in_millions(frame)["state_bytes"][0] == pytest.approx(4 * block / 1e6)
    figure = memory_by_parameters(
        frame.assign(float32_peak_mb=1.0, bfloat16_peak_mb=0.5), "title", (1e8, 500)
    )
    assert [t.name for t in figure.data if t.mode == "markers"] == [
        "float32", "bfloat16", "said of the 130M",
    ]  # fmt: skip
    assert list(figure.data[0].y) == [1.0, 1.0] and list(figure.data[1].y) == [400.0, 12_000.0]


def test_other_code_that_fails_is_noted_and_the_rest_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel\nfor this device")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", broken)
    (outcome,) = run(cells_of(find(NAME), "quick")[:1], Context())
    assert outcome.status == "done" and "transformers_error" not in outcome.metrics
    assert outcome.facts["notes"] == {"transformers": "RuntimeError: no kernel"}


def test_a_spent_budget_stops_before_the_next_checkpoint() -> None:
    (outcome,) = run(cells_of(find(NAME), "paper"), Context(deadline=time.monotonic()))
    assert outcome.status == "stopped"


def test_a_checkpoint_made_on_the_spot_is_described(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "mamba2")
    facts = describe(folder).set_index("fact")["value"]
    assert facts["blocks"] == "4 of mamba2" and facts["tokens that it knows"] == "512"
    assert facts["parameters"] == "153,200"
    tokenizer = load_tokenizer(folder, vocab_size=512)
    assert tokenizer.decode(tokenizer("Once upon a time")["input_ids"]) == "Once upon a time"
    with pytest.raises(ValueError, match="family is 'mamba3', allowed: mamba, mamba2"):
        tiny_checkpoint(tmp_path, "mamba3")
    with pytest.raises(HubError, match=r"has no config\.json: it is no checkpoint"):
        describe(tmp_path / "..")


def test_our_tokenizer_for_transformers_makes_the_same_tokens() -> None:
    texts = ["One day a fox ran away. " * 40, "Two birds, three eggs; ünd mehr."]
    ours = train_bpe(BPEConfig(280), texts)
    theirs = for_transformers(ours)
    assert len(theirs) == ours.vocab_size and theirs.eos_token_id == ours.eos
    for text in (*texts, "something else"):
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(theirs(text)["input_ids"]) == text


@pytest.mark.parametrize("field", ["prompt_tokens", "new_tokens", "repeats"])
def test_bad_cells_are_named(field: str) -> None:
    cell = cells_of(find(NAME), "quick")[0]
    with pytest.raises(ValueError, match=rf"CheckpointCell\.{field} is 1, allowed: at least 2"):
        dataclasses.replace(cell, **{field: 1})
    with pytest.raises(ValueError, match="name is 'mamba-7b', allowed: mamba-130m, "):
        published("mamba-7b")
    assert tiny("mamba").tie_embeddings
