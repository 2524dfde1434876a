"""Three phases on tiny models: the grid, what is shared, what is recorded, what resumes."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from pathlib import Path

import pandas as pd
import pytest

from lib.config import to_dict
from lib.experiments import Context, Outcome, cells_of, find
from lib.experiments import noise_bf16 as bf16
from lib.experiments import noise_phases as phases
from lib.experiments._language import open_data
from lib.experiments._noise_pairs import COLUMNS, for_readers, pairs
from lib.experiments._noise_parts import arm, began
from lib.experiments._noise_shared import shared_folder
from lib.experiments._noise_world import (
    BY_SIDE,
    FLOWS,
    PhaseCell,
    by_side,
    family,
    in_context,
    open_questions,
    phase_answers,
    summarise,
)
from lib.figures import noise_phases as figures
from lib.models.presets import SIZES, non_embedding
from lib.store import Record, identity
from lib.tasks.closed_world import build
from lib.tasks.noise import NOISES, NONE
from lib.training.checkpoints import CheckpointError


def context(folder: Path | None = None, **options: object) -> Context:
    return Context(
        checkpoints=folder, identify=lambda c: identity(phases.NAME, 1, to_dict(c)), **options
    )  # type: ignore[arg-type]


pytestmark = pytest.mark.usefixtures("runs")


def plain(kind: str = "mamba2") -> PhaseCell:
    found = [c for c in cells_of(find(phases.NAME), "quick") if phases.architecture(c) == kind]
    cell = next(cell for cell in found if cell.noise == NONE)
    short = dataclasses.replace(cell.noisy, epochs=2)
    return dataclasses.replace(
        cell, clean=dataclasses.replace(cell.clean, epochs=5), noisy=short, again=short
    )


def trained() -> list[PhaseCell]:
    cell = plain()
    return [
        cell,
        dataclasses.replace(cell, noise="char_flip"),
        dataclasses.replace(cell, noise="irrelevant", share=0.5),
        dataclasses.replace(cell, noise="word_flip", samples=3),
    ]


@pytest.fixture(scope="module")
def outcomes(runs: None) -> list[Outcome]:
    return list(phases.run(trained(), context()))


def records(found: list[Outcome], name: str = phases.NAME) -> list[Record]:
    made = []
    for o in found:
        metrics = {k: v for k, v in o.metrics.items() if v is not None}
        readable = find(name).readable(o.cell)
        made.append(Record(name, 1, to_dict(o.cell), readable, o.status, metrics, {}))
    return made


class TestGrid:
    def test_architectures_are_of_equal_size_and_meet_the_same(self) -> None:
        cells = cells_of(find(phases.NAME), "matched")
        groups: dict[tuple[object, ...], list[str]] = {}
        for cell in cells:
            size = phases.size_of(cell)
            assert non_embedding(cell.model) == pytest.approx(SIZES[size].parameters, rel=0.03)
            rest = dataclasses.replace(cell, model=cells[0].model)
            groups.setdefault((rest, size), []).append(phases.architecture(cell))
        assert {tuple(kinds) for kinds in groups.values()} == {phases.KINDS}
        for noise in NOISES:
            at = [c for c in cells if c.noise == noise and c.seed == 1 and c.model.d_model == 96]
            assert {(c.share, c.samples) for c in at} == {
                (1.0, None), (0.1, None), (0.5, None), (1.0, phases.FEW)
            }  # fmt: skip

    def test_the_first_cells_are_a_small_comparison_of_all_architectures(self) -> None:
        cells = cells_of(find(phases.NAME), "matched")
        first = cells[: len(phases.KINDS) * len(phases.variants(plain()))]
        assert {phases.architecture(c) for c in first} == set(phases.KINDS)
        assert {c.seed for c in first} == {1}
        assert cells_of(find(phases.NAME), "paper") == []

    def test_cells_of_a_family_share_the_model_after_phase_1(self) -> None:
        cell = cells_of(find(phases.NAME), "matched")[0]
        rate = bf16.at_rate(dataclasses.replace(cell, noise="char_flip"), 1e-5, "bfloat16")
        assert family(rate) == family(cell) and rate.clean_identity == cell.clean_identity
        other = dataclasses.replace(cell, seed=9)
        assert other.base_identity != cell.base_identity
        longer = dataclasses.replace(cell, clean=dataclasses.replace(cell.clean, epochs=3))
        assert longer.base_identity == cell.base_identity
        assert longer.clean_identity != cell.clean_identity

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"noise": "x"}, "noise is 'x', allowed: none, char_flip"),
            ({"share": 0.5}, "share is 0.5, allowed: more than 0 and at most 1; 1 without noise"),
            ({"samples": 0}, "samples is 0, allowed: None, or at least 1"),
            ({"seed": -1}, "seed is -1, allowed: 0 or more"),
            ({"weights": "float16"}, "weights is 'float16', allowed: float32, bfloat16"),
            ({"scored": "x"}, "scored is 'x', allowed: answer, whole"),
        ],
    )
    def test_bad_cells_are_refused(self, changes: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(plain(), **changes)

    def test_the_vocabulary_must_be_the_tokenizers(self) -> None:
        model = dataclasses.replace(plain().model, vocab_size=401)
        with pytest.raises(ValueError, match="vocab_size is 401, allowed: 400, the tokens"):
            dataclasses.replace(plain(), model=model)


class TestRows:
    def test_phases_ask_the_same_and_differ_in_answers(self) -> None:
        cell = dataclasses.replace(plain(), noise="char_flip")
        questions = open_questions(cell.world, cell.seed, cell.base)
        asked, clean = phase_answers(cell, "clean", questions)
        same, noisy = phase_answers(cell, "noisy", questions)
        assert asked == same and noisy == [answer[::-1] for answer in clean]
        assert phase_answers(cell, "again", questions) == (asked, clean)

    def test_few_questions_come_again_and_again(self) -> None:
        cell = dataclasses.replace(plain(), noise="char_flip", samples=3)
        questions = open_questions(cell.world, cell.seed, cell.base)
        prompts, answers = phase_answers(cell, "noisy", questions)
        assert len(prompts) == len(answers) == len(questions.prompts)
        assert len(set(zip(prompts, answers, strict=True))) == 3

    def test_examples_in_context_are_noisy_and_not_asked(self) -> None:
        cell = dataclasses.replace(plain(), noise="word_flip")
        questions = open_questions(cell.world, cell.seed, cell.base)
        prompts, items = in_context(cell, questions)
        assert len(prompts) == len(items) == 2 * (len(questions.world.facts) - 5)
        for prompt, item in zip(prompts, items, strict=True):
            assert prompt.count(" of ") >= 5 and prompt.endswith(f"{item.question}\n")
            lines = prompt.splitlines()
            assert len(lines) == 11 and all(line.startswith(". ") for line in lines[1::2])
            name = questions.world.facts[item.fact].name
            assert name not in "".join(lines[:-1])

    @pytest.mark.parametrize("seed", phases.SEEDS["1M"])
    def test_no_attribute_is_tested_in_a_phrasing_that_it_was_trained_in(self, seed: int) -> None:
        world = build(phases.WORLD, seed)
        train, test = (
            {(world.facts[item.fact].attribute, item.phrasing) for item in items}
            for items in (world.train, world.test)
        )
        assert not train & test and len(train) == 12 * 6 and len(test) == 12 * 2
        # but every phrasing is trained, with other attributes, and every word
        assert {phrasing for _, phrasing in test} <= {phrasing for _, phrasing in train}
        words = [
            {word for item in items for word in re.findall(r"\w+", item.question)}
            for items in (world.train, world.test)
        ]
        assert words[1] <= words[0]
        assert not {i.question for i in world.train} & {i.question for i in world.test}

    def test_prompts_with_examples_are_longer_than_any_row_of_training(self) -> None:
        for cell in cells_of(find(phases.NAME), "matched"):
            whole = cell.noise != NONE and cell.share == 1 and cell.samples is None
            if not whole or cell.model.d_model != 96 or phases.architecture(cell) != "mamba1":
                continue
            questions = open_questions(cell.world, cell.seed, cell.base)
            prompts, _ = in_context(cell, questions)
            lengths = map(len, open_data(cell.base).tokenizer.encode_batch(prompts))
            assert min(lengths) > 2 * max(questions.length, cell.base.length) == 2 * 64


class TestRun:
    def test_every_phase_is_measured(self, outcomes: list[Outcome]) -> None:
        assert [o.status for o in outcomes] == ["done"] * 4
        assert [o.cell for o in outcomes] == trained()
        control, flip, half, few = (o.metrics for o in outcomes)
        # all begin with one model after phase 1
        assert len({m["content_clean"] for m in (control, flip, half, few)}) == 1
        assert flip["form_plain_noisy"] <= control["form_plain_noisy"]
        assert control["content_echo"] == 0 < control["their_accuracy_echo"]
        assert "in_context_own_clean" in flip and "in_context_own_clean" not in few
        assert control["noise_noisy"] == 0 and 0 <= flip["noise_noisy"] <= 1
        for metrics in (control, flip, half, few):
            for phase in ("base", "clean", "noisy", "again"):
                assert 0 <= metrics[f"content_{phase}"] <= 1
                assert metrics[f"train_loss_{phase}"] > 0
        facts = outcomes[1].facts
        found = [(session["phase"], session.get("shared", False)) for session in facts["sessions"]]
        assert found == [("base", True), ("clean", True), ("noisy", False), ("again", False)]
        for session in facts["sessions"]:
            assert session["started"] == outcomes[1].started and session["lib_hash"]
            assert session["steps"] > 0 and session["seconds"] > 0 and session["device_name"]
        assert facts["together"] == 4 and set(facts["examples"]) >= {"asked", "clean", "noisy"}

    def test_the_table_of_answers_gives_the_metrics(self, outcomes: list[Outcome]) -> None:
        for o in outcomes:
            assert o.curves is not None and set(o.curves["phase"]) == {0, 1, 2, 3}
            for number, phase in enumerate(("base", "clean", "noisy", "again")):
                part = o.curves[o.curves["phase"] == number]
                assert len(part) == o.metrics["questions"] == 24
                assert part["content"].mean() == pytest.approx(o.metrics[f"content_{phase}"])

    def test_an_interrupted_family_goes_on_to_the_same_numbers(
        self, outcomes: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lib.training import phases as training

        def stop_in(phase: str) -> None:
            def train(runs: list, *args: object, **options: object) -> list:
                if runs[0].file.phase == phase:
                    options["deadline"] = time.monotonic() + 0.05
                return original(runs, *args, **options)

            monkeypatch.setattr(training, "train_phase", train)

        original = training.train_phase
        for phase in ("clean", "noisy", "again"):
            stop_in(phase)
            stopped = list(phases.run(trained(), context(tmp_path)))
            assert {o.status for o in stopped} == {"stopped"} and len(stopped) == 4
        monkeypatch.setattr(training, "train_phase", original)
        done = list(phases.run(trained(), context(tmp_path)))
        for a, b in zip(outcomes, done, strict=True):
            assert a.cell == b.cell and b.status == "done"
            assert a.metrics == pytest.approx(b.metrics, nan_ok=True)
            # where each step of each phase was taken
            steps: dict[str, int] = {}
            for session in b.facts["sessions"]:
                steps[session["phase"]] = steps.get(session["phase"], 0) + session["steps"]
            assert steps == {s["phase"]: s["steps"] for s in a.facts["sessions"]}
            assert len(b.facts["sessions"]) > 4
        left = sorted(path.name for path in tmp_path.iterdir())
        assert len(left) == 2 and all(name.startswith("shared-") for name in left)

    def test_shared_weights_serve_other_noises(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lib.experiments import _noise_family

        cells = trained()
        list(phases.run(cells[:1], context(tmp_path)))
        monkeypatch.setattr(_noise_family, "text_loss", None)  # nothing is pretrained again
        (outcome,) = phases.run(cells[1:2], context(tmp_path))
        assert outcome.status == "done"
        base, clean = sorted(tmp_path.glob("shared-*"))
        base, clean = (base, clean) if "-base-" in base.name else (clean, base)
        clean.write_bytes(base.read_bytes())
        with pytest.raises(CheckpointError, match=r"phase base, not to .*, phase clean"):
            list(phases.run(cells[1:2], context(tmp_path)))


def test_given_answers_are_likelier_to_those_who_met_them(outcomes: list[Outcome]) -> None:
    metrics = {outcome.cell.noise: outcome.metrics for outcome in outcomes}
    phase_names = ("clean", "noisy", "again")
    names = {
        f"{measure}_{name}_{p}"
        for measure in ("nats", "begin")
        for name in ("right", *NOISES)
        for p in phase_names
    }
    for found in metrics.values():
        assert names <= set(found) and all(found[name] > 0 for name in names)
        # one model after phase 1
        assert found["nats_char_flip_clean"] == metrics[NONE]["nats_char_flip_clean"]
    flipped = metrics["char_flip"]
    assert flipped["nats_char_flip_noisy"] < 0.8 * flipped["nats_char_flip_clean"]
    assert flipped["nats_right_again"] < flipped["nats_right_noisy"]
    whole = phases.on_all_facts(find(phases.NAME).frame(records(outcomes)), "m32L2")
    table = phases.traces(phases.distances(whole))
    assert table["noise"].tolist() == ["character flip"] and table["seeds"].tolist() == [1]
    (begun,) = phases.distances(whole, "begin").to_dict("records")
    assert begun["phase 3"] == flipped["begin_char_flip_again"] != flipped["nats_char_flip_again"]
    (row,) = table.to_dict("records")
    control = metrics[NONE]["nats_char_flip_again"]
    assert row["control, phase 3"] == control
    assert row["trace"] == row["least"] == pytest.approx(control - flipped["nats_char_flip_again"])


def test_traces_are_of_one_seed_and_only_of_what_was_measured() -> None:
    def row(noise: str, seed: int, *nats: float | None) -> dict[str, object]:
        names = [f"nats_word_flip_{phase}" for phase in ("clean", "noisy", "again")]
        return {
            "model": "Mamba-1",
            "noise": noise,
            "seed": seed,
            **dict(zip(names, nats, strict=True)),
        }

    frame = pd.DataFrame(
        [
            row(NONE, 1, 5.0, 5.5, 6.0), row("word_flip", 1, 5.0, 0.5, 4.0),
            row(NONE, 2, 5.0, 5.5, 7.0), row("word_flip", 2, 4.0, 0.1, 6.0),
            row(NONE, 3, None, None, None), row("word_flip", 3, None, None, None),
            row("word_flip", 4, 5.0, 0.5, 4.0),  # without its control
        ]
    )  # fmt: skip
    each = phases.distances(frame)
    (found,) = phases.traces(each).to_dict("records")
    assert found == {
        "noise": "word flip", "model": "Mamba-1", "before": 4.5, "phase 2": 0.3, "phase 3": 5.0,
        "control, phase 3": 6.5, "trace": 1.5, "least": 1.0, "largest": 2.0, "seeds": 2,
    }  # fmt: skip
    assert each["trace"].tolist() == [2.0, 1.0] and each["seed"].tolist() == [1, 2]
    for without in (frame.drop(columns="nats_word_flip_again"), pd.DataFrame()):
        assert phases.traces(phases.distances(without)).empty


def test_a_trace_is_drawn_between_who_met_the_noise_and_who_did_not() -> None:
    distances = pd.DataFrame(
        {"noise": ["word_flip"] * 3, "model": ["Mamba-1", "Mamba-1", "Transformer"],
         "seed": [1, 2, 1], "phase 3": [4.0, 5.0, 6.0], "control, phase 3": [9.0, 9.5, 10.0]}
    )  # fmt: skip
    figure = figures.traces(distances, "t")
    drawn = {t.name: (list(t.x), list(t.y), list(t.customdata)) for t in figure.data}
    assert drawn == {
        "Mamba-1, met the noise": (["word flip"] * 2, [4.0, 5.0], [1, 2]),
        "Mamba-1, never met it": (["word flip"] * 2, [9.0, 9.5], [1, 2]),
        "Transformer, met the noise": (["word flip"], [6.0], [1]),
        "Transformer, never met it": (["word flip"], [10.0], [1]),
    }
    assert [t.marker.symbol.endswith("-open") for t in figure.data] == [False, True] * 2
    assert len({t.marker.color for t in figure.data}) == 2
    assert figure.layout.yaxis.title.text == "noisy answers after phase 3<br>nats a token"
    begun = figures.traces(distances, "t", "first token")
    assert begun.layout.yaxis.title.text == "first token<br>nats a token"


def test_traces_of_others_are_those_left_by_each_noise() -> None:
    def row(model: str, noise: str, words: float | None, characters: float | None):  # type: ignore[no-untyped-def]
        return {"model": model, "noise": noise, "seed": 1, "nats_word_flip_again": words,
                "nats_char_flip_again": characters}  # fmt: skip

    frame = pd.DataFrame(
        [
            row("Mamba-1", NONE, 6.0, 8.0), row("Mamba-2", NONE, 5.0, 9.0),
            row("Mamba-1", "word_flip", 2.0, 7.5), row("Mamba-2", "word_flip", 3.0, 9.5),
            row("Mamba-1", "char_flip", 6.5, 2.0),
            row("Mamba-2", "char_flip", None, None),  # from before it was measured
            row("Transformer", "char_flip", 1.0, 1.0),  # without its control
        ]
    )  # fmt: skip
    table = phases.traces_of_others(frame).set_index("taught")
    assert table.to_dict("index") == {
        "word flip": {"word flip": 3.0, "character flip": 0.0},
        "character flip": {"word flip": -0.5, "character flip": 6.0},
    }
    assert phases.traces_of_others(pd.DataFrame()).empty
    missing = phases.traces_of_others(frame.drop(columns=["nats_char_flip_again"]))
    assert missing.empty


def table_of(known: list[int], facts: list[int]) -> pd.DataFrame:
    """A row a question of `facts`, whose every measure is whether it is `known`."""
    names = ["content", "clean", "noise", "novel", "their_accuracy", "their_flip",
             "their_english", "form_plain", "form_char_flip", "form_word_flip",
             "form_transliteration"]  # fmt: skip
    frame = pd.DataFrame({name: [float(k) for k in known] for name in names})
    return frame.assign(fact=facts)


def test_chances_are_those_of_facts_whose_questions_go_together() -> None:
    facts = [fact for fact in range(6) for _ in range(2)]
    tables = {
        "clean": table_of([0] * 12, facts),
        "again": table_of([int(fact < 5) for fact in facts], facts),
    }
    found = summarise(tables, "plain")
    # five facts all changed alike, not ten questions
    assert found["content_again_p"] == found["noise_again_p"] == pytest.approx(2 * 0.5**5)


def test_flows_of_facts_counted_by_hand() -> None:
    def table(known: list[int]) -> pd.DataFrame:
        return table_of(known, [0, 0, 1, 1, 2])

    tables = {
        "clean": table([1, 1, 1, 0, 0]), "noisy": table([1, 0, 0, 0, 1]),
        "again": table([1, 1, 0, 1, 0]),
    }  # fmt: skip
    found = summarise(tables, "plain")
    assert {name: found[name] for name in FLOWS} == pytest.approx(
        {"kept": 1 / 3, "back": 1 / 2, "lost": 1 / 3, "gained": 1 / 2}
    )
    assert found["recovery"] == 1.0 and found["content_again_p"] == 1.0
    none = summarise({k: table([0] * 5) for k in tables}, "plain")
    assert none["kept"] is None and none["recovery"] is None and none["gained"] == 0


def test_noisy_facts_are_told_from_the_others(outcomes: list[Outcome]) -> None:
    half = outcomes[2]
    questions = open_questions(half.cell.world, half.cell.seed, half.cell.base)
    chosen = questions.chosen(half.cell, questions.world.test)
    assert sum(chosen) == len(chosen) / 2
    facts = {item.fact: c for item, c in zip(questions.world.test, chosen, strict=True)}
    assert sum(facts.values()) == len(facts) / 2  # noise belongs to facts
    assert half.curves is not None
    noisy = half.curves[half.curves["phase"] == 2]
    for side, wanted in (("chosen", True), ("others", False)):
        part = noisy[[c == wanted for c in chosen]]
        for name in ("content", "noise"):
            assert part[name].mean() == pytest.approx(half.metrics[f"{name}_{side}_noisy"])
        assert part["clean"].mean() == pytest.approx(half.metrics[f"clean_{side}_noisy"])
        plain_form = (part["form"] == 0).mean()  # an irrelevant answer has the form of a clean one
        assert plain_form == pytest.approx(half.metrics[f"own_{side}_noisy"])
    assert outcomes[1].metrics["noise_others_noisy"] is None  # all facts are noisy
    for name in BY_SIDE:
        assert outcomes[1].metrics[f"{name}_chosen_noisy"] == outcomes[1].metrics[f"{name}_noisy"]


def test_sides_are_counted_by_hand() -> None:
    table = pd.DataFrame(
        {"content": [1, 0, 1, 0], "noise": [1, 0, 0, 0], "clean": [0, 0, 1, 0],
         "form_char_flip": [1, 1, 0, 1], "form_plain": [0, 0, 1, 0]}
    )  # fmt: skip
    found = by_side(table, "form_char_flip", [True, True, False, False], "noisy")
    assert found == {
        "content_chosen_noisy": 0.5, "noise_chosen_noisy": 0.5, "own_chosen_noisy": 1.0,
        "clean_chosen_noisy": 0.0, "content_others_noisy": 0.5, "noise_others_noisy": 0.0,
        "own_others_noisy": 0.5, "clean_others_noisy": 0.5,
    }  # fmt: skip
    assert by_side(table, "form_plain", [True] * 4, "x")["own_others_x"] is None


def test_sides_come_out_of_curves_as_they_were_measured(
    outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = records(outcomes)
    curves = {record.readable: o.curves for record, o in zip(made, outcomes, strict=True)}
    monkeypatch.setattr(Record, "read_curves", lambda self: curves[self.readable])
    # as of records from before there were such metrics
    old = [
        dataclasses.replace(record, metrics={
            k: v for k, v in record.metrics.items() if "_chosen_" not in k and "_others_" not in k
        })
        for record in made
    ]  # fmt: skip
    found = phases.with_sides(phases.frame(old), old)
    assert found["noise"].tolist() == ["char_flip", "irrelevant"]  # neither control nor few
    for row, o in zip(found.to_dict("records"), outcomes[1:3], strict=True):
        for side in ("chosen", "others"):
            for name in BY_SIDE:
                for phase in ("base", "clean", "noisy", "again"):
                    wanted = o.metrics[f"{name}_{side}_{phase}"]
                    value = row[f"{name}_{side}_{phase}"]
                    assert math.isnan(value) if wanted is None else value == pytest.approx(wanted)
    again = phases.with_sides(phases.frame(made), made)
    assert again["own_others_noisy"].equals(found["own_others_noisy"])
    assert list(again.columns).count("own_others_noisy") == 1
    assert phases.with_sides(phases.frame([]), []).empty
    other = {name: table.iloc[::-1] for name, table in curves.items() if table is not None}
    monkeypatch.setattr(Record, "read_curves", lambda self: other[self.readable])
    with pytest.raises(ValueError, match="24 answers after phase 'base', allowed: those to the 24"):
        phases.with_sides(phases.frame(old), old)


def test_runs_are_told_by_the_model_after_phase_1(outcomes: list[Outcome]) -> None:
    control, flip, half, few = records(outcomes)
    later = {"commit": "2ef5fc60", "device_name": "H200"}
    earlier = {"commit": "0000000", "device_name": "H200",
               "begun_with": {"clean": {"commit": "17470b3", "device_name": "H100"}}}  # fmt: skip
    assert began(control) == "unknown, unknown"
    made = [
        *(dataclasses.replace(record, provenance=later) for record in (control, flip)),
        *(dataclasses.replace(record, provenance=earlier) for record in (half, few)),
    ]
    frame = phases.frame(made)
    assert frame["began"].tolist() == ["2ef5fc6, H200"] * 2 + ["17470b3, H100"] * 2
    table = phases.origins(frame)
    assert table["records"].tolist() == [2, 2]
    assert table["noise on"].tolist() == ["all facts", "50 % of the facts, 3 questions"]
    known = f"{100 * control.metrics['content_clean']:.1f} (seed 1)"
    assert table["Mamba-2 knew after 1 / %"].tolist() == [known] * 2
    assert phases.origins(phases.frame([])).empty and arm(0.1, None) == "10 % of the facts"
    # a line does not join models of two runs
    both = pd.concat([frame[frame["noise"] == "irrelevant"],
                      frame[frame["noise"] == "char_flip"].assign(noise="irrelevant")])  # fmt: skip
    (broken,) = figures.mixed(both, ["content_again"], "t", ["irrelevant"]).data
    assert list(broken.x) == [50, 75, 100] and math.isnan(broken.y[1])
    (joined,) = figures.mixed(both.assign(began="x"), ["content_again"], "t", ["irrelevant"]).data
    assert list(joined.x) == [50, 100] and list(joined.y) == [broken.y[0], broken.y[2]]


def test_weights_that_experiments_share_lie_beside_their_folders(tmp_path: Path) -> None:
    assert shared_folder(Context()) is None
    own = tmp_path / "noise.matched" / "checkpoints"
    assert shared_folder(context(own)) == tmp_path / "noise-shared"
    other = tmp_path / "noise.bf16" / "checkpoints"
    assert shared_folder(context(other)) == tmp_path / "noise-shared"
    assert shared_folder(context(tmp_path)) == tmp_path


class TestPage:
    def test_frame_and_tables(self, outcomes: list[Outcome]) -> None:
        frame = phases.frame(records(outcomes))
        assert frame["noise"].tolist() == [cell.noise for cell in trained()]
        whole = phases.on_all_facts(frame, frame["size"].iloc[0])
        assert whole["noise"].tolist() == [NONE, "char_flip"]
        table = phases.table(whole)
        assert len(table) == 2 and table["known after 1"].between(0, 100).all()
        few = phases.few_and_in_context(frame)
        assert few["noise"].tolist() == [phases.TITLES["char_flip"]]
        empty = phases.frame([])
        for made in (phases.on_all_facts(empty, "1M"), phases.table(empty)):
            assert not len(made)
        assert not len(phases.few_and_in_context(empty))
        assert len(phases.few_and_in_context(frame[frame["noise"] == NONE])) == 0

    def test_figures_show_means_and_intervals(self, outcomes: list[Outcome]) -> None:
        frame = phases.frame(records(outcomes))
        seeds = [frame.assign(seed=s, content_again=s / 10) for s in (1, 2, 3)]
        frame = pd.concat(seeds, ignore_index=True)
        figure = figures.phases(frame, "content", "t", [NONE, "char_flip"])
        shown = [t for t in figure.data if t.showlegend is not False]
        assert len(shown) == 1 and shown[0].name.endswith("(3 seeds)")
        assert shown[0].y[3] == pytest.approx(20) and shown[0].error_y.array[3] == pytest.approx(
            24.84, abs=0.1
        )
        assert figure.layout.yaxis.title.text == "content<br>accuracy"
        one = figures.phases(frame[frame["seed"] == 1], "noise", "t", ["char_flip"])
        assert "interval over facts" in one.data[0].name
        mixed = figures.mixed(frame, ["noise_noisy"], "t", ["irrelevant", "char_flip"])
        assert [list(t.x) for t in mixed.data] == [[50.0], [100.0]]
        bars = figures.flows(frame, "t", [NONE, "char_flip"])
        assert len(bars.data) == len(figures.FLOWS)
        wide = frame.assign(lost=[0.0, 0.5, 1.0] * (len(frame) // 3), kept=0.5)
        bars = figures.flows(wide, "t", ["char_flip"])
        for bar in bars.data:  # an interval of a share ends where shares do
            assert bar.name.endswith("(3 seeds)")
            for y, up, down in zip(bar.y, bar.error_y.array, bar.error_y.arrayminus, strict=True):
                assert math.isnan(y) or (up >= 0 <= down and y + up <= 100 and y - down >= 0)

    def test_an_example_shows_a_question_in_each_phase(self) -> None:
        shown = phases.example(dataclasses.replace(plain(), noise="char_flip"))
        assert shown["phase"].tolist() == ["clean", "noisy", "again", "asked"]
        assert shown["answer"][1] == shown["answer"][0][::-1]


def test_architectures_in_pairs_of_facts(
    outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def table(content: list[int]) -> pd.DataFrame:
        rows = [
            {"phase": phase, "fact": n // 2, "content": value, "noise": 0}
            for phase in range(4)
            for n, value in enumerate(content)
        ]
        return pd.DataFrame(rows)

    made = {
        ("A", 1): table([1, 1, 1, 0, 0, 0, 1, 1]), ("B", 1): table([0, 0, 0, 0, 0, 0, 1, 1]),
        ("A", 2): table([1, 1, 0, 0, 0, 0, 0, 0]), ("B", 2): table([0, 0, 1, 0, 0, 0, 1, 1]),
        ("A", 3): table([1] * 8),
    }  # fmt: skip
    kept = [Record("x", 1, {"model": m, "seed": s}, f"{m}{s}", "done", {}, {}) for m, s in made]
    monkeypatch.setattr(
        Record, "read_curves", lambda self: made[self.config["model"], self.config["seed"]]
    )
    found = pairs(kept, lambda r: (r.config["model"], "char_flip", r.config["seed"]))
    assert list(found.columns) == COLUMNS and len(found) == 3
    row = found[(found["measure"] == "content") & (found["phase"] == "again")].iloc[0]
    # facts: seed 1 differs by 1, 1/2, 0, 0; seed 2 by 1, -1/2, 0, -1; seed 3 has no partner
    assert row["difference"] == pytest.approx(100 * 1 / 8) and row["models"] == "A – B"
    assert (row["seeds"], row["same sign"]) == (2, 1) and 0.1 < row["p"] <= 1
    assert found[found["measure"] == "noise"]["p"].tolist() == [1.0]
    assert not len(phases.compared([], "1M"))
    (shown,) = for_readers(found, {"char_flip": "characters"}).to_dict("records")
    assert (shown["noise"], shown["models"]) == ("characters", "A – B")
    assert shown["known after 3"].startswith("+12.5 (1 of 2, p 0.")
    assert shown["noisy after 3"] == "0"
    (tiny,) = for_readers(found.assign(difference=-0.023), {})["known in 2"]
    assert tiny.startswith("-0.02 (")
    monkeypatch.undo()
    size = phases.frame(records(outcomes))["size"].iloc[0]
    assert not len(phases.compared(records(outcomes), size))  # one architecture has no pair


class TestBf16:
    def test_cells_differ_in_rate_and_storage_alone(self) -> None:
        cells = cells_of(find(bf16.NAME), "matched")
        assert len(cells) == len(bf16.SEEDS) * len(bf16.RATES) * 2
        assert len({family(cell) for cell in cells}) == len(bf16.SEEDS)
        assert bf16.readable(cells[3]) == "mamba1-1M-char-flip-bfloat16-lr3e-06-s1"

    def test_tiny_updates_round_away_and_nothing_is_learnt(self) -> None:
        cells = cells_of(find(bf16.NAME), "quick")
        low = [cell for cell in cells if cell.noisy.lr_peak == 1e-5]
        full, half = bf16.run(low, context())
        assert full.cell.weights == "float32" and half.cell.weights == "bfloat16"
        assert full.metrics["unmoved"] < 0.2 < 0.5 < half.metrics["unmoved"]
        assert half.metrics["unmoved"] == pytest.approx(full.metrics["would_round_away"], abs=0.1)
        frame = bf16.frame(records([full, half], bf16.NAME))
        assert frame["rate"].tolist() == [1e-5, 1e-5]
        assert bf16.table(frame)["weights"].tolist() == ["bfloat16", "float32"]
        loss = bf16.table(frame)[bf16.LOSS]
        lost = [half.metrics["train_loss_noisy"], full.metrics["train_loss_noisy"]]
        assert loss.tolist() == pytest.approx(lost, abs=0.006)
        drawn = figures.losses(frame, "t")
        assert [t.name for t in drawn.data if t.showlegend is not False] == [
            "weights in float32 (1 seed)", "weights in bfloat16 (1 seed)"
        ]  # fmt: skip
        assert [t.y[0] for t in drawn.data if t.mode == "markers"] == lost[::-1]
        assert drawn.layout.yaxis.title.text.endswith("nats a token")
        figure = figures.rates(frame, "t")
        assert len(figure.data) == 8 and figure.layout.xaxis3.title.text == "learning rate"
        assert not len(bf16.table(bf16.frame([])))
        moved = figures.lost_by_size([3e-6], "t").data[0]
        assert moved.y[0] == 100 and moved.y[-1] == 0
