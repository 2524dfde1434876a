"""The causal test, other architectures, the paper's scale and longer training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch

from lib import runner
from lib.claims import load_claims
from lib.config import from_dict, to_dict
from lib.experiments import Context, Outcome, find, memory, registry
from lib.experiments import memory_architectures as architectures
from lib.experiments import memory_causal as causal
from lib.experiments import memory_scale as scale
from lib.experiments import memory_training as training
from lib.experiments._memory import train_decoders
from lib.experiments._memory_cell import MemoryCell
from lib.experiments._pretraining import language_model
from lib.experiments.memory import quick_language
from lib.figures import forgetting
from lib.figures import memory as figures
from lib.models import autoencoder
from lib.models.autoencoder import slots_for, state_floats
from lib.models.language_model import LanguageModel
from lib.models.presets import non_embedding
from lib.store import Record, Store
from lib.tasks import stories
from lib.tasks.stories import StoryConfig
from lib.training.abreast import by_itself
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("runs")


def records(runs: Path, name: str, select: tuple[str, ...] = ()) -> list[Record]:
    store, experiment = Store(runs, runs / "none"), find(name)
    runner.run(name, "quick", store=store, select=select, say=lambda text: None)
    cells = runner.select_cells(experiment.cells("quick"), list(select))
    return [r for r in store.records(name, experiment.protocol, cells) if r is not None]


# -- prevalence -----------------------------------------------------------------------------


def test_pretraining_differs_in_one_category_and_nothing_else_does() -> None:
    cells = causal.cells("matched")
    assert len(cells) == 3 * (5 * 2 + 4) and len({causal.name_of(cell) for cell in cells}) == 42
    # in the second reading the decoders of a seed start from its model of base rates
    alike = [cell for cell in cells if cell.start != "copy"]
    assert len(alike) == 12 and {cell.task.length for cell in alike} == {causal.ALIKE}
    read = [cell.language for cell in cells]
    for cell in alike:
        assert causal.changed(cell)[1] in (0.1, 10)
        assert cell.beginning in read and cell.beginning.seed == cell.seed  # type: ignore[union-attr]
        assert cell.beginning.task.corpus.source.stories == StoryConfig()  # type: ignore[union-attr]
        copy = dataclasses.replace(cell, start="copy")
        assert copy in cells and copy.beginning == cell.language
    for cell in cells:
        source = cell.language.task.corpus.source
        category, frequency = causal.changed(cell)
        plain = StoryConfig() if category == "none" else StoryConfig(**{category: frequency})  # type: ignore[arg-type]
        assert source.stories == plain  # type: ignore[union-attr]
    # what decoders learn and are asked for, tokens, sizes and training are the same for all
    assert len({(c.text, c.language.task.tokenizer, c.model) for c in cells}) == 1
    assert len({c.training for c in cells}) == 2  # one a length
    assert {c.task.length for c in cells} == {16, 32}
    # the page: how far, in points, the base rate is from the rare end and from the frequent one
    rare, usual, frequent = (100 * stories.RATE * f for f in sorted(causal.FREQUENCIES))
    assert (usual - rare, frequent - usual) == pytest.approx((5.4, 54))
    # and those stories have nothing in common with what any language model read
    asked = cells[0].text.source.stories  # type: ignore[union-attr]
    assert asked.seed == causal.OTHER != StoryConfig().seed
    for index in range(3):
        assert stories.story(asked, index) != stories.story(stories.rich(), index)


def test_the_causal_test_from_end_to_end(runs: Path) -> None:
    found = records(runs, causal.NAME)
    frame = causal.frame(found)
    assert frame["frequency"].tolist() == [0.1, 10.0] and set(frame["changed"]) == {"numbers"}
    for row, record in zip(frame.itertuples(), found, strict=True):
        assert row.own == record.metrics["omission_label_number_words"]
        assert 0 < row.rest < 1
        others = [n for n in stories.CATEGORIES if n != "numbers"]
        mean = sum(record.metrics[f"omission_label_{n}"] for n in others) / 5
        assert row.rest == pytest.approx(mean)
        assert record.metrics["omission_label_rest_of_numbers"] == row.rest
        assert record.metrics["omission_label_rest_of_names"] != row.rest
    # the one text is asked of both, in the same tokens
    assert len({r.provenance["tokenizer"] for r in found}) == 1
    assert len({r.provenance["text"]["fingerprint"] for r in found}) == 1
    assert found[0].metrics["chunks"] == found[1].metrics["chunks"]
    table = causal.by_frequency(frame, "numbers")
    assert table["own"].tolist() == frame["own"].tolist() and table["alone"].notna().all()
    assert len(causal.by_frequency(frame, "names")) == 0
    assert not len(causal.by_frequency(pd.DataFrame(), "names"))
    labels = found[0].read_curves().query("table == 'label' and writer == ''")["group"]
    assert set(labels) >= {"numbers", "number_words", "frame", "dialogue"}
    assert table["unchanged"].tolist() == frame["omission_label_name_words"].tolist()
    lines = forgetting.causal(table, "numbers", causal.WORDS, "t").data
    assert [line.name.split(" (")[0] for line in lines] == [
        "number words", "all other categories", "the same, language model alone",
        "the same, answer to another chunk", "names, as frequent as before",
    ]  # fmt: skip
    left = causal.not_remembered(frame)
    assert left["times the base rate"].tolist() == [0.1, 10.0]
    assert left["not remembered"].tolist() == pytest.approx(list(table["own"] / table["alone"]))
    assert left["by seed"].tolist() == [f"{value:.2f}" for value in left["not remembered"]]
    assert not len(causal.not_remembered(pd.DataFrame()))
    gap = frame["own"][0] - frame["rest"][0] - (frame["own"][1] - frame["rest"][1])
    (row,) = causal.gaps(frame).to_dict("records")
    assert list(row.values())[:4] == ["numbers", 8, "as copies", 1]
    assert row["difference"] == pytest.approx(gap)
    assert row["own words"] - row["other categories"] == pytest.approx(gap)
    words, names = (
        frame[f"{writer}omission_label_{label}"][0] - frame[f"{writer}omission_label_{label}"][1]
        for writer, label in (("alone_", "number_words"), ("", "name_words"))
    )
    left = [causal.rest_of(record.metrics, "numbers", "alone_") for record in found]
    assert row["language model alone"] == pytest.approx(words - (left[0] - left[1]))  # type: ignore[operator]
    for writer, name in causal.CONTROLS.items():
        lost = [
            record.metrics[f"{writer}omission_label_number_words"]
            - causal.rest_of(record.metrics, "numbers", writer)  # type: ignore[operator]
            for record in found
        ]
        assert row[name] == pytest.approx(lost[0] - lost[1]), name
        own = table[writer.removesuffix("_")].tolist()
        assert own == frame[f"{writer}omission_label_number_words"].tolist()
    # first records have no swapped answers by label
    older = frame.drop(columns=[n for n in frame if n.startswith("swapped_omission_label")])
    assert causal.by_frequency(older, "numbers")["swapped"].isna().all()
    shown = causal.gaps(older)
    assert list(shown) == [name for name in row if name != causal.CONTROLS["swapped_"]]
    assert shown["state of zeros"].tolist() == [row["state of zeros"]]
    assert row["unchanged words"] == pytest.approx(names)
    assert not len(causal.gaps(pd.DataFrame())) and not len(causal.gaps(frame.iloc[:0]))
    # of one end alone there is no difference; what is missing is no zero
    assert pd.isna(causal.gaps(frame.iloc[:1])["difference"]).all()
    more = frame.assign(alike=True, own=[0.5, 0.25], rest=[0.3, 0.2])
    both = pd.concat([frame, more], ignore_index=True)
    row, _ = causal.gaps(both).to_dict("records")
    assert row["decoders start"] == "alike" and row["difference"] == pytest.approx(0.25 - 0.1)
    # the second reading is no part of the first one's figures
    assert causal.by_frequency(both, "numbers")["own"].tolist() == frame["own"].tolist()
    # base rates are shared by both, at the lengths that both have
    base = frame.iloc[:1].assign(changed="none", frequency=1.0)
    base = pd.concat([base, base.assign(length=16)])
    alike = causal.by_frequency(pd.concat([both, base]), "numbers", alike=True)
    assert alike["frequency"].tolist() == [0.1, 1.0, 10.0] and set(alike["length"]) == {8}
    assert not len(causal.by_frequency(pd.concat([frame, base]), "numbers", alike=True))


def test_the_causal_claims_hold_decoders_that_start_alike() -> None:
    cells = causal.cells("matched")
    for category in causal.CATEGORIES:
        claims = {claim.id: claim for claim in load_claims(ROOT, chapter="memory")}
        claim = claims[f"{causal.NAME}.{category}"]
        assert claim.minus == causal.REST.format(category)
        assert claim.metric == f"omission_label_{causal.OWN[category]}"
        for part, frequency in ((claim, 0.1), (claim.other, 10.0)):
            kept = runner.select_cells(cells, [f"{k}={v}" for k, v in part.select.items()])
            assert [causal.changed(cell) for cell in kept] == [(category, frequency)] * 3
            assert {(c.start, c.task.length) for c in kept} == {("base rates", causal.ALIKE)}


def test_a_decoder_starts_from_base_rates_if_asked_to(runs: Path) -> None:
    rare = causal.cells("quick")[0]
    assert "start" not in to_dict(rare)  # newer than published records
    cell = dataclasses.replace(rare, start="base rates")
    base = cell.beginning
    for language in (base, quick_language()):  # it is there already; it has read no stories
        with pytest.raises(ValueError, match="start is 'base rates', allowed: copy, or base rates"):
            dataclasses.replace(cell, language=language)
    slow = {"epochs": 1, "warmup_epochs": 0, "lr_start": 1e-12, "lr_peak": 1e-12, "lr_end": 1e-12}
    cell = dataclasses.replace(
        cell, keep_weights=True,
        training=dataclasses.replace(rare.training, **slow),  # type: ignore[arg-type]
    )  # fmt: skip
    assert from_dict(MemoryCell, to_dict(cell)) == cell
    context = Context(identify=lambda cell: "")
    (outcome,) = train_decoders([cell], context)
    assert outcome.status == "done" and outcome.weights is not None, outcome.reason
    tensors = safetensors.torch.load(outcome.weights)
    for part, language in (("encoder", rare.language), ("decoder", base)):
        opened = by_itself(language_model(language, context))
        assert not isinstance(opened, Outcome)
        for name, value in opened.model.state_dict().items():
            if name != "head.weight":  # the embedding, kept once
                assert torch.equal(tensors[f"{part}.{name}"], value.half()), (part, name)


# -- architectures --------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
def test_states_are_of_equal_size_where_they_can_be(quick: bool) -> None:
    models = architectures.models(320 if quick else 2048, quick)
    floats = {}
    for name, model in models.items():
        with torch.device("meta"):
            floats[name] = state_floats(LanguageModel(model).initial_states(1))
    slots = architectures.SLOTS_QUICK if quick else architectures.SLOTS
    assert slots == slots_for(models["attention"], floats["mamba1"])
    assert floats["mamba2"] == pytest.approx(floats["mamba1"], rel=0.05)
    if not quick:
        sizes = {name: non_embedding(model) for name, model in models.items()}
        assert all(size == pytest.approx(sizes["mamba1"], rel=0.08) for size in sizes.values())
        assert floats["gru"] < floats["mamba1-small"] < floats["mamba1"] / 2
    assert min(architectures.LENGTHS) >= 2 * architectures.SLOTS  # less than a slot a token
    names = [architectures.name_of(cell) for cell in architectures.cells("matched")]
    assert len(set(names)) == len(names)


def test_each_architecture_from_end_to_end(runs: Path) -> None:
    found = records(runs, architectures.NAME)
    frame = architectures.frame(found)
    assert set(frame["architecture"]) == {"Mamba-1", "Mamba-2", "GRU", "Transformer, slots"}
    sizes = dict(zip(frame["architecture"], frame["state_floats"], strict=True))
    assert sizes["Transformer, slots"] == 11 * 2 * 2 * 48 and sizes["GRU"] == 2 * 64
    assert frame["omission"].between(0, 1).all()
    assert len(forgetting.architectures(frame, "omission", "t").data) == 4
    table = architectures.table(frame)
    assert table["numbers in the state"].tolist() == list(sizes.values())
    swapped = table["another chunk's answer"]
    assert swapped.tolist() == frame["swapped_omission"].tolist() and swapped.between(0, 1).all()
    assert len(forgetting.architectures(frame, "swapped_omission", "t").data) == 4


# -- scale and training ---------------------------------------------------------------------


def test_one_step_on_a_checkpoint_in_the_hub_s_format(monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = scale.cells("quick")
    written: list[int] = []

    def decode(model: LanguageModel, *rest: Any, **options: Any) -> autoencoder.Decoded:
        with torch.no_grad():  # the end token, 0, is the likeliest from now on
            model.head.weight.zero_()
        found = decode_greedily(model, *rest, **options)
        written.extend(found.lengths.tolist())
        return found

    decode_greedily = autoencoder.decode_greedily
    monkeypatch.setattr(autoencoder, "decode_greedily", decode)
    (outcome,) = scale.run([cell], Context())
    # a few, which compiles kernels, then all the way: the time is of so many
    found, observed = outcome.metrics, int(outcome.metrics["observe_chunks"])  # type: ignore[arg-type]
    assert written[: 2 * scale.DECODED] == [2] * scale.DECODED + [cell.length + 1] * scale.DECODED
    # then as many as a measurement writes at once, in so far as memory hangs on it
    assert written[2 * scale.DECODED :] == [scale.BEGUN] * observed and observed > scale.DECODED
    assert found["loss_last"] < found["loss_first"]  # type: ignore[operator]
    assert found["n_parameters"] == non_embedding(cell.model) + 512 * 64
    assert found["checkpoint_mb"] == pytest.approx(found["n_parameters"] * 4 / 1e6, rel=0.05)
    speeds = (
        "train_tokens_per_second", "encode_tokens_per_second", "decode_tokens_per_second",
        "step_seconds",
    )  # fmt: skip
    for name in (*speeds, "train_peak_gb", "observe_peak_gb"):
        assert found[name] > 0, name  # type: ignore[operator]
    peaks = [1e9 * found[name] for name in ("train_peak_gb", "observe_peak_gb")]  # type: ignore[operator]
    assert outcome.facts["peak_memory_bytes"] >= round(max(peaks))
    assert "selective_scan" in outcome.facts["backends"]
    assert not len(scale.table(scale.frame([]))) and "seconds a step" in scale.table(
        scale.frame([])
    )
    assert "chunks written at once" not in scale.table(scale.frame([]))  # newer than some records
    shown = scale.table(pd.DataFrame([{**found, "device": "a"}]))
    assert shown["chunks written at once"].tolist() == [observed]
    (rate,) = shown["tokens a second, training"]
    assert rate == pytest.approx(found["train_tokens_per_second"], rel=5e-3)
    assert len(f"{rate:g}".rstrip("0").replace(".", "").strip("0")) <= 3


def test_the_paper_s_sizes_are_measured() -> None:
    cells = scale.cells("paper")
    assert {(c.model.n_layers, c.model.d_model, c.model.vocab_size) for c in cells} == {
        (24, 768, 50_280)
    }
    assert [c.training.precision for c in cells] == ["float32"] * 3 + ["bfloat16"]
    with pytest.raises(ValueError, match=r"ScaleCell.length is 0, allowed: 1 or more"):
        dataclasses.replace(cells[0], length=0)


def test_longer_training_of_the_same_state(runs: Path) -> None:
    found = records(runs, training.NAME)
    frame = training.frame(found)
    assert frame["steps"].tolist() == [20, 60]
    assert frame["token_accuracy"].iloc[1] > frame["token_accuracy"].iloc[0]
    curves = training.learning(found)
    assert curves["step"].max() == 60 and len(curves) == 8
    assert len(figures.learning(curves, "t").data) == 2
    assert [training.total_steps(c) for c in training.cells("matched")] == [
        steps for *_, steps, _ in training.GRID
    ]
    assert [training.tokens_of(c) for c in training.cells("matched")] == [
        tokens for _, tokens, *_ in training.GRID
    ]
    names = [training.name_of(c) for c in training.cells("matched")]
    assert len(set(names)) == len(names) and names[2].endswith("L32-s1-1000-0.01")
    assert names[4].endswith("-1000-0.01-b8192")
    assert len({c.language for c in training.cells("matched")}) == 1
    table = training.ends(found, [*found[:1], dataclasses.replace(found[0], config={
        **found[0].config, "language": {}
    })])  # fmt: skip
    assert table["steps"].tolist() == [20, 20, 60]  # by what they ended with; not of other models
    assert sorted(table["decoder of"]) == ["the chapter", *["this experiment"] * 2]
    assert table["in their place"].is_monotonic_increasing and len(training.ends(found)) == 2


def test_the_grid_goes_beyond_the_training_of_the_chapter() -> None:
    """The first six have run and stay; what follows has more steps than the chapter's decoders."""
    usual = memory.BATCH_TOKENS * memory.DECODER_STEPS
    later = training.GRID[6:]
    assert all(tokens * steps >= 2 * usual for _, tokens, steps, _ in later)
    assert {length for length, *_ in later} == {32, 64, 256}
    for length in (32, 64, 256):
        at_4000 = {rate for n, _, steps, rate in later if (n, steps) == (length, 4000)}
        assert at_4000 == {1e-2, 2e-2}
    names = {training.name_of(cell) for cell in training.cells("matched")[:6]}
    published = (ROOT / "book" / "results" / training.NAME).glob("*.json")
    assert {path.name.rsplit("-", 1)[0] for path in published} >= names


# -- figures --------------------------------------------------------------------------------


def rates(**change: Any) -> pd.DataFrame:
    rows = {
        "group": ["NUM", "DET", "NUM"], "omission": [0.5, 0.3, 0.9], "low": [0.4, 0.2, 0.8],
        "high": [0.6, 0.4, 1.0], "count": [9, 9, 9], "chunks": [3, 3, 3],
        "writer": ["", "", "alone_"], "standardised": [0.45, 0.35, None],
    }  # fmt: skip
    return pd.DataFrame({**rows, **change})


def test_bars_of_groups_carry_interval_and_control() -> None:
    bar, even, alone = forgetting.by_group(rates(), "t").data
    assert list(bar.y) == ["determiner (DET)", "number (NUM)"] and list(bar.x) == [0.3, 0.5]
    assert bar.error_x.array == pytest.approx([0.1, 0.1])
    assert list(even.x) == [0.35, 0.45] and list(alone.x) == [0.9]


def test_bars_of_several_seeds_carry_their_range() -> None:
    first = rates(seed=1)
    second = rates(seed=2, omission=[0.7, 0.3, 0.5], standardised=[0.55, 0.35, None])
    figure = forgetting.by_group(pd.concat([first, second]), "t")
    bar, even, alone = figure.data
    assert list(bar.x) == pytest.approx([0.3, 0.6])
    assert bar.error_x.array == pytest.approx([0, 0.1]) == bar.error_x.arrayminus
    assert list(even.x) == pytest.approx([0.35, 0.5]) and list(alone.x) == pytest.approx([0.7])
    assert "2 seeds" in figure.layout.xaxis.title.text
    assert "interval" in forgetting.by_group(first, "t").layout.xaxis.title.text


def test_pairs_as_a_map() -> None:
    pairs = pd.DataFrame(
        {"group": ["DET", "DET"], "other": ["NUM", "VERB"], "difference": [-0.4, -0.1]}
    )
    (cells,) = forgetting.pair_map(pairs, "t").data
    assert list(cells.x) == ["NUM", "VERB", "DET"] and cells.y[0] == "number (NUM)"
    square = pd.DataFrame(cells.z, index=cells.x, columns=cells.x)
    assert square.loc["NUM", "DET"] == 0.4 == -square.loc["DET", "NUM"]
    assert square.loc["VERB", "DET"] == 0.1 and pd.isna(square.loc["VERB", "NUM"])
    assert all(pd.isna(square.loc[name, name]) for name in square)
    assert (cells.zmin, cells.zmax) == (-0.4, 0.4)
    assert forgetting.pair_map(pairs[:0], "t").layout == figures.no_run().layout


def test_published_groups_stand_in_the_order_of_the_first_model() -> None:
    printed = pd.DataFrame(
        {"model": ["130m", "130m", "1.4b", "1.4b"], "group": ["NUM", "Not NE"] * 2,
         "value": [0.5, 0.3, 0.1, 0.2]}
    )  # fmt: skip
    figure = forgetting.published_groups(printed, "t")
    assert [bar.name for bar in figure.data] == ["130M", "1.4B"]
    assert list(figure.data[1].x) == [0.1, 0.2]
    assert figure.layout.yaxis.categoryarray == ("outside names", "number (NUM)")


def test_lines_over_a_number_average_seeds() -> None:
    table = pd.DataFrame(
        {"x": [1, 10, 1, 10, 1], "omission": [0.5, 0.3, 0.7, 0.1, 0.9], "low": 0.1, "high": 0.9,
         "writer": ["", "", "", "", "alone_"], "seed": [1, 1, 2, 2, 1]}
    )  # fmt: skip
    extra = pd.DataFrame({"x": [5], "omission": [0.2]})
    own, alone, paper = forgetting.over({"a": table}, "t", "x", extra=extra).data
    assert own.y == pytest.approx([0.6, 0.2]) and own.name == "a (2 seeds)"
    # of several seeds the bars show the lowest and the highest
    assert own.error_y.array == pytest.approx([0.1, 0.1]) and not alone.error_y.visible
    assert alone.name == "a, language model alone" and list(paper.y) == [0.2]
    lines = forgetting.over({"a": table, "b": table, "c": table}, "t", "x").data
    named = [line.name for line in lines if line.showlegend]
    assert named == ["a (2 seeds)", "dotted: language model alone", "b (2 seeds)", "c (2 seeds)"]
    names = [trace.name for trace in forgetting.writers(table, "t").data]
    assert names == ["trained decoder", "language model, told the text before"]


def test_early_losses_are_held_against_late_ones() -> None:
    table = pd.DataFrame({"length": [4, 8], "first": [6, 9], "last": [2, 3], "ratio": [3.0, 3.0]})
    figure = figures.early_to_late(table, "t")
    assert list(figure.data[0].y) == [3.0, 3.0] and "first part" in figure.layout.yaxis.title.text


def test_a_passage_marks_what_is_lost() -> None:
    figure = forgetting.passage(["Ada", " <saw>", "\n", "x" * 80], "0110", "Ada y", "t")
    (note,) = figure.layout.annotations
    text = note.text.replace("\u00a0", " ")
    assert "<b>Ada</b></span> &lt;saw>⏎<br>" in text and text.endswith("<br>Ada y")
    # long pieces are broken, whole ones go to the next line
    assert f"{'x' * 44}<br>{'x' * 36}" in text
    broken = forgetting.passage(["a" * 40, "b" * 10], "11", "", "t").layout.annotations[0].text
    assert f"{'a' * 40}<br>{'b' * 10}" in broken
    # always one trace, so that a slider can move through passages, and longer ones are higher
    short = forgetting.passage(["a"], "1", "", "t")
    assert len(short.data) == 1 and short.layout.height < figure.layout.height


def test_where_nothing_ran_a_figure_says_so() -> None:
    empty = pd.DataFrame()
    for figure in (
        forgetting.by_group(empty, "t"), forgetting.over({}, "t", "x"),
        forgetting.writers(empty, "t"), forgetting.causal(empty, "numbers", causal.WORDS, "t"),
        forgetting.architectures(empty, "omission", "t"), figures.by_model(empty, "omission", "t"),
        figures.by_writer(empty, "omission", "t"), figures.by_category(empty, "rouge1", "t"),
        figures.learning(empty, "t"),
    ):  # fmt: skip
        assert figure.layout.annotations[0].text == "no finished run yet"


def test_lines_by_length() -> None:
    frame = pd.DataFrame(
        {"model": ["a", "a", "b"], "parameters": [1e6, 1e6, 2e6], "length": [4, 8, 4], "seed": 1,
         "rouge1": [0.9, 0.8, 0.95], "zero_rouge1": 0.1, "rouge1_prose": [0.9, 0.7, 0.9]}
    )  # fmt: skip
    assert [t.name for t in figures.by_model(frame, "rouge1", "t").data] == [
        "1.0M parameters (1 seed)", "2.0M parameters (1 seed)",
    ]  # fmt: skip
    names = [t.name for t in figures.by_writer(frame, "rouge1", "t").data]
    assert names == ["trained decoder (1 seed)", "trained, state of zeros (1 seed)"]
    chance = pd.DataFrame({"length": [4, 4, 512], "rouge1": [0.1, 0.3, 0.5], "seed": [1, 2, 1]})
    drawn = {m: figures.by_writer(frame, m, "t", chance).data for m in ("rouge1", "similarity")}
    assert (drawn["rouge1"][-1].x, drawn["rouge1"][-1].y) == ((4,), (pytest.approx(0.2),))
    assert drawn["similarity"][-1].name == figures.UNRELATED and not drawn["similarity"][-1].x
    assert [t.name for t in figures.by_category(frame, "rouge1", "t").data] == ["prose (1 seed)"]


def test_the_chapter_s_experiments() -> None:
    names = [name for name in registry() if name.startswith("memory.")]
    assert sorted(names) == [
        "memory.architectures", "memory.decoder_training", "memory.paper_scale",
        "memory.prevalence_causal", "memory.reconstruction_by_length",
        "memory.unrelated_text",
    ]  # fmt: skip
