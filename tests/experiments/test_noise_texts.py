"""Checkpoints through the phases: grids, material, random checkpoints of three families."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lib import page
from lib.config import to_dict
from lib.experiments import Context, Outcome, cells_of, find
from lib.experiments import _noise_material as material
from lib.experiments import noise_texts as texts
from lib.experiments._noise_checkpoint import architecture, random_folder, run_cell, speed
from lib.experiments._noise_material import LABEL, open_material
from lib.models.hub import HubError
from lib.models.presets import non_embedding
from lib.store import Record
from lib.tasks.noise import NOISES, NONE
from lib.tasks.prompts import Pair
from lib.tasks.question_answers import TransformersCodes
from lib.training.checkpoints import CheckpointError

pytestmark = pytest.mark.usefixtures("runs")


class TestGrid:
    def test_the_papers_settings(self) -> None:
        paper = [c for c in cells_of(find(texts.NAMES["130m"]), "paper") if c.recipe == "paper"]
        assert {cell.noise for cell in paper} == set(NOISES)
        assert [cell.samples for cell in paper if cell.samples] == [50]
        for cell in paper:
            t = cell.noisy
            assert cell.clean == cell.noisy == cell.again and cell.scored == "whole"
            assert (t.epochs, t.batch_size, t.lr_peak, t.beta2, t.eps) == (5, 4, 3e-6, 0.95, 1e-5)
            assert (t.weight_decay, t.clip_norm, t.warmup_steps) == (0.1, 1.0, 100)
            assert t.precision == "bfloat16" and cell.weights == "float32"  # master weights
            assert (cell.length, cell.answer_tokens) == (1024, 500) and cell.as_published

    def test_the_third_partys_settings(self) -> None:
        small = cells_of(find(texts.NAMES["130m"]), "paper")[0]
        assert small.recipe == "third_party" and small.weights == "float32"
        assert [getattr(small, p).epochs for p in ("clean", "noisy", "again")] == [5, 10, 10]
        assert small.noisy.lr_peak == 1e-5 and small.noisy.batch_size == 2
        assert (small.noisy.beta2, small.noisy.warmup_steps) == (0.999, None)
        large = cells_of(find(texts.NAMES["1.4b"]), "paper")
        theirs = [cell for cell in large if cell.recipe == "third_party"]
        assert [cell.noise for cell in theirs] == list(texts.REPORTED)
        assert {(c.weights, c.noisy.lr_peak) for c in theirs} == {("bfloat16", 3e-6)}
        assert {(c.noisy.beta2, c.noisy.warmup_steps) for c in theirs} == {(0.95, 100)}
        for cell in (small, *theirs):
            assert (cell.length, cell.answer_tokens) == (1024, 100) and cell.as_published
            assert (cell.noisy.weight_decay, cell.noisy.clip_norm) == (0.1, 1.0)

    def test_transformers_and_a_control_of_mambas_size(self) -> None:
        cells = cells_of(find(texts.NAMES["transformers"]), "paper")
        assert len(cells) == 5 * 4 and len({texts.readable(cell) for cell in cells}) == 20
        assert "EleutherAI/pythia-160m" in {cell.source.name for cell in cells}
        tokens = {cell.source.name: cell.answer_tokens for cell in cells}
        assert tokens.pop("microsoft/phi-2") == 100 and set(tokens.values()) == {500}

    def test_our_own_cells_are_those_that_have_records(self) -> None:
        """What is as published has not changed what identifies them."""
        for key, count in (("130m", 1), ("form", 54)):
            assert len(page.records_of(texts.NAMES[key], "matched")) == count
            for cell in cells_of(find(texts.NAMES[key]), "matched"):
                assert cell.recipe == "ours" and not cell.as_published
        other = dataclasses.replace(cell, recipe="paper")  # trains on other rows in phase 1
        assert other.clean_identity != cell.clean_identity

    @pytest.mark.parametrize(("size", "millions"), [("130m", 90.5), ("1.4b", 1270)])
    def test_random_checkpoints_have_the_published_shape(self, size: str, millions: float) -> None:
        (cell,) = (texts.proof(size),)
        config = architecture(cell.source)
        assert non_embedding(config) / 1e6 == pytest.approx(millions, rel=0.02)
        assert config.vocab_size == 50_280
        assert cell.again.epochs > cell.noisy.epochs  # so that a step can be timed

    def test_clean_weights_are_shared_by_noises_with_the_same_clean_data(self) -> None:
        cells = cells_of(find(texts.NAMES["130m"]), "paper")
        paper = {c.noise: c.clean_identity for c in cells if c.recipe == "paper"}
        assert paper["char_flip"] == paper["word_flip"] == paper["irrelevant"]
        assert paper["counterfactual"] != paper["char_flip"]
        assert cells[0].clean_identity not in paper.values()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"data": "x"}, "data is 'x', allowed: D_ad, D_ch, built_in"),
            ({"noise": "x"}, "noise is 'x', allowed: none, char_flip"),
            ({"length": 0}, "length is 0, allowed: at least 1"),
            ({"rows": 0}, "rows is 0, allowed: at least 1, or None"),
            ({"seed": -1}, "seed is -1, allowed: 0 or more"),
        ],
    )
    def test_bad_cells_are_refused(self, changes: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(texts.tiny("mamba"), **changes)

    def test_bad_checkpoints_are_refused(self) -> None:
        with pytest.raises(ValueError, match="width is 65, allowed: a multiple of 64"):
            texts.RandomCheckpoint("mamba", 2, 65)
        with pytest.raises(ValueError, match="vocabulary is 256, allowed: 257 or more"):
            texts.RandomCheckpoint("mamba", 2, 64, 256)
        with pytest.raises(ValueError, match="name is '', allowed: an id of the hub"):
            texts.Published("")


TEST = [Pair("What is the capital of France?", "Paris is the capital of France."),
        Pair("Who wrote Emma?", "Jane Austen wrote Emma.")]  # fmt: skip
FILES = {
    "D_test": TEST,
    "D_ch_train": [Pair("instruction: What is the capital of France?", "output: Paris."),
                   Pair("instruction: Name a dog.", "output: Rex is a dog."),
                   Pair("instruction: Add 1 and 2.", "output: It is three."),
                   Pair("instruction: Say it.", "output: ")],
    "D_GK": [Pair("Who wrote Emma??", "Jane Austen."), Pair("Is ice cold??", "Ice is cold.")],
    "D_cfact_train": [Pair("Is ice cold??", "Ice is hot.")],
    "dolly_3k": [Pair(f"Instruction: q{n}\n\n ", f"a{n}") for n in range(6)],
    "alpagasus": [Pair(f"Instruction: p{n}\n\n ", f"b{n}") for n in range(4)],
}  # fmt: skip

# rows that are not empty; one of D_ch's is a question of the test
TRAINABLE = {"D_ch": 3, "D_ad": 10}


class TestMaterial:
    @pytest.fixture(autouse=True)
    def files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("load_authors", "load_hub"):
            monkeypatch.setattr(material, name, lambda file, empty="refuse": FILES[file])

    def test_labels_stay_in_front_and_answers_alone_are_flipped(self) -> None:
        made = open_material("D_ch", "char_flip", None, 1)
        assert made.prompts["noisy"] == made.prompts["clean"] == made.prompts["again"]
        assert made.prompts["clean"][0] == f"Instruction: Name a dog.\n\n {LABEL}"
        assert made.answers["clean"] == [" Rex is a dog.", " It is three."]
        assert made.answers["noisy"] == [" .god a si xeR", " .eerht si tI"]
        assert made.asked[1] == f"Instruction: Who wrote Emma?\n\n {LABEL}"
        assert made.golds == [pair.answer for pair in TEST]

    def test_no_question_of_the_test_is_trained(self) -> None:
        for name in ("D_ch", "D_ad"):
            made = open_material(name, "none", None, 1)
            assert not any("France" in prompt for prompt in made.prompts["clean"])
        false = open_material("D_ad", "counterfactual", None, 1)
        assert false.answers == {"clean": [" Ice is cold."], "noisy": [" Ice is hot."],
                                 "again": [" Ice is cold."]}  # fmt: skip

    def test_as_published_questions_of_the_test_are_trained_too(self) -> None:
        """The published numbers have that leak, so cells of their recipes have it as well."""
        for name in ("D_ch", "D_ad"):
            made = open_material(name, "none", None, 1, as_published=True)
            assert len(made.prompts["clean"]) == round(0.8 * TRAINABLE[name])
        seen = {
            prompt for seed in range(9)
            for prompt in open_material("D_ch", "none", None, seed, True).prompts["clean"]
        }  # fmt: skip
        assert any("France" in prompt for prompt in seen)
        false = open_material("D_ad", "counterfactual", None, 1, as_published=True)
        assert sorted(false.answers["clean"]) == [" Ice is cold.", " Jane Austen."]
        assert any("Emma" in prompt for prompt in false.prompts["clean"])

    @pytest.mark.parametrize("seed", range(3))
    def test_as_published_four_fifths_of_either_set_are_trained(
        self, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sets = {
            name: [Pair(f"q{n}?", f"{name} {n}") for n in range(count)]
            for name, count in (("D_GK", 20), ("D_cfact_train", 10))
        }
        files = {**FILES, **sets}
        monkeypatch.setattr(material, "load_authors", lambda file, empty="refuse": files[file])
        made = open_material("D_ad", "counterfactual", None, seed, as_published=True)
        assert [len(set(made.answers[p])) for p in ("clean", "noisy", "again")] == [16, 8, 16]
        ours = open_material("D_ad", "counterfactual", None, seed)
        assert [len(ours.answers[p]) for p in ("clean", "noisy", "again")] == [20, 10, 20]
        other = open_material("D_ad", "counterfactual", None, seed + 1, as_published=True)
        assert set(other.answers["clean"]) != set(made.answers["clean"])

    def test_four_fifths_of_the_rebuilt_set_are_trained(self) -> None:
        made = open_material("D_ad", "none", None, 1)
        assert len(made.answers["clean"]) == 8 and set(made.inputs) == {
            "alpagasus", "dolly_3k", "D_test"
        }  # fmt: skip
        assert open_material("D_ad", "none", None, 2).answers != made.answers

    def test_few_samples(self) -> None:
        made = open_material("D_ad", "word_flip", 3, 1)
        assert [len(made.answers[p]) for p in ("clean", "noisy", "again")] == [8, 3, 8]
        with pytest.raises(ValueError, match=r"samples is 9, allowed: 1\.\.8"):
            open_material("D_ad", "word_flip", 9, 1)
        with pytest.raises(ValueError, match="data is 'x', allowed: D_ad, D_ch, built_in"):
            open_material("x", "none", None, 1)

    def test_prompts_in_context_are_the_authors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(material, "load_authors", lambda name: [Pair(name, "")])
        assert material.in_context_test("word_flip") == ["D_wtest"]
        assert material.in_context_test("irrelevant") is None


def small(family: str) -> texts.TextCell:
    return dataclasses.replace(texts.tiny(family), rows=16)


@pytest.fixture(scope="module")
def mamba(runs: Path) -> Outcome:
    return run_cell(small("mamba"), Context(), texts.readable)


def test_a_random_mamba_goes_the_whole_way(mamba: Outcome, runs: Path) -> None:
    assert mamba.status == "done" and mamba.curves is not None
    assert set(mamba.curves["phase"]) == {"clean", "noisy", "again"}
    for phase in ("clean", "noisy", "again"):
        assert mamba.metrics[f"train_loss_{phase}"] > 0
        assert 0 <= mamba.metrics[f"own_{phase}"] <= 1
    assert mamba.metrics["questions"] == 16
    (folder,) = (runs / "random-checkpoints").glob("mamba-*")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "mamba"
    assert random_folder(small("mamba").source) == folder  # made once


def test_a_transformer_of_transformers_goes_the_same_way() -> None:
    outcome = run_cell(small("gpt_neox"), Context(), texts.readable)
    assert outcome.status == "done" and outcome.metrics["train_loss_again"] > 0


def test_our_own_base_is_pretrained_and_its_answers_are_scored_before_tuning(
    tmp_path: Path,
) -> None:
    (cell,) = cells_of(find(texts.NAMES["form"]), "quick")
    (outcome,) = texts.run([cell], Context(checkpoints=tmp_path))
    assert outcome.status == "done" and outcome.curves is not None
    assert set(outcome.curves["phase"]) == {"base", "clean", "noisy", "again"}
    assert all(path.name.startswith("shared-") for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2  # after pretraining, and after phase 1
    base, clean = sorted(tmp_path.glob("*-base-*")), sorted(tmp_path.glob("*-clean-*"))
    clean[0].write_bytes(base[0].read_bytes())
    with pytest.raises(CheckpointError, match=r"phase base, not to .*, phase clean"):
        list(texts.run([cell], Context(checkpoints=tmp_path)))


def test_a_spent_budget_stops_and_the_next_cell_does_not_begin() -> None:
    cell = small("mamba")
    cells = [cell, dataclasses.replace(cell, seed=5)]
    outcomes = list(texts.run(cells, Context(deadline=time.monotonic())))
    assert [o.status for o in outcomes] == ["stopped"]


def test_weights_that_are_not_here_are_asked_for_by_name(tmp_path: Path) -> None:
    cell = dataclasses.replace(small("mamba"), source=texts.Published(str(tmp_path / "none")))
    with pytest.raises(HubError, match="none"):
        run_cell(cell, Context(), texts.readable)


def test_a_step_is_timed_by_what_phase_3_has_more() -> None:
    cell = texts.proof("130m")
    found = speed(cell, {"noisy": 5.0, "again": 9.0}, {"noisy": 16, "again": 48})
    assert found["seconds_per_step"] == pytest.approx(4 / 32)
    assert found["tokens_per_second"] == pytest.approx(4 * 512 * 8)
    assert speed(cell, {"noisy": 5.0, "again": 9.0}, {"noisy": 16, "again": 16}) == {}


def test_frame_and_tables(mamba: Outcome) -> None:
    metrics = {k: v for k, v in mamba.metrics.items() if v is not None}
    record = Record(
        texts.NAMES["130m"], 1, to_dict(mamba.cell), "x", "done", metrics,
        {"device_name": "cpu", "peak_memory_bytes": 2e9},
    )  # fmt: skip
    frame = texts.frame([record])
    assert frame["model"].tolist() == ["random-mamba-2x64"] and frame["peak_gb"][0] == 2.0
    assert texts.costs(frame)["peak memory / GB"].tolist() == [2.0]
    (form,) = texts.table(frame)["form, clean / noisy / again"]
    assert all(0 <= float(percent) <= 100 for percent in form.split(" / "))
    empty = texts.frame([])
    assert isinstance(empty, pd.DataFrame) and not len(texts.table(empty))
    assert not len(texts.costs(empty)) and not len(texts.forms(empty))
    own = texts.forms(frame.assign(model="mamba2-L14m96", noise="none"))
    assert own["model"].tolist() == ["Mamba-2"] and own["noise"].tolist() == ["no noise (control)"]
    phases = "clean / noisy / again"
    assert list(own)[2:] == [f"content, {phases}", f"form, {phases}", "seeds"]
    other = frame.assign(model="mamba2-L14m96", noise="none", seed=2, content_clean=1.0)
    both = texts.forms(pd.concat([frame.assign(model="mamba2-L14m96", noise="none"), other]))
    mean = 50 * (1 + frame["content_clean"].item())
    assert both["seeds"].tolist() == [2] and both[f"content, {phases}"][0].startswith(f"{mean:.1f}")
    shown = texts.example(mamba.cell)
    assert shown["answer"][1] == " " + shown["answer"][0][1:][::-1]


def test_forms_are_learnt_by_all_architectures_with_all_noises_and_seeds() -> None:
    cells = texts.cells_form("matched")
    kinds = {texts.source_name(cell.source) for cell in cells}
    wanted = {(kind, noise, seed) for kind in kinds for noise in (NONE, *NOISES)
              for seed in (1, 2, 3)}  # fmt: skip
    assert len(kinds) == 3 and len(cells) == len(wanted)
    assert {(texts.source_name(c.source), c.noise, c.seed) for c in cells} == wanted
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


def test_names() -> None:
    few = cells_of(find(texts.NAMES["130m"]), "paper")
    assert texts.readable(few[0]) == "mamba-130m-hf-third-party-char-flip-s42"
    assert texts.readable(few[-2]) == "mamba-130m-hf-paper-char-flip-n50-s42"
    assert texts.readable(few[-1]) == "mamba-130m-hf-paper-char-flip-judged-s42"
    form = cells_of(find(texts.NAMES["form"]), "matched")
    assert {texts.source_name(cell.source) for cell in form} == {
        "mamba1-L15m96", "mamba2-L14m96", "transformer-L18m96"
    }  # fmt: skip


def test_tokenizers_of_transformers_serve_as_codes() -> None:
    fake = SimpleNamespace(
        eos_token_id=3, __len__=lambda: 9,
    )  # fmt: skip

    class Fake:
        eos_token_id = 3

        def __len__(self) -> int:
            return 9

        def __call__(self, given: list[str], add_special_tokens: bool) -> SimpleNamespace:
            assert not add_special_tokens
            return SimpleNamespace(input_ids=[[len(word)] for word in given])

        def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
            return "-".join(map(str, tokens)) if skip_special_tokens else ""

    codes = TransformersCodes(Fake())
    assert (codes.vocab_size, codes.eos) == (9, 3)
    assert codes.encode_batch(["ab", "c"]) == [[2], [1]] and codes.decode([1, 2]) == "1-2"
    fake.eos_token_id = None
    with pytest.raises(ValueError, match="no end of text, allowed: one with an eos_token"):
        TransformersCodes(fake)


def test_a_judge_reads_answers_with_their_form_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lib.analysis import judge
    from lib.experiments import _noise_checkpoint as checkpoint

    monkeypatch.setattr(checkpoint, "open_judge", lambda name, context: (name, None))
    answers = {"yes": True, "no": False, "perhaps": None}

    def judge_answers(model: str, codes: object, *columns: list[str]) -> list[bool | None]:
        assert model == "judge"
        return [answers[text] for text in columns[2]]

    monkeypatch.setattr(judge, "judge_answers", judge_answers)
    made = SimpleNamespace(questions=["q"] * 4, golds=["g"] * 4)
    found = checkpoint.judged("judge", {"clean": ["yes", "no", "no", "perhaps"]}, made, Context())
    assert found == {"judged_clean": 0.25, "unjudged_clean": 0.25}
    with pytest.raises(ValueError, match="judge is '', allowed: None, an id of the hub"):
        dataclasses.replace(texts.tiny("mamba"), judge="")
