from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lib.config import flatten, from_dict, to_dict
from lib.experiments import ablations as study
from lib.experiments import cells_of, find
from lib.experiments.ablations import ALL_ONE, BEYOND, POSITIONS, SENSITIVITY, TABLES
from lib.experiments.achilles import (
    THIRD_PARTY_TRAINING,
    CompositeCell,
    mamba2_model,
    third_party_model,
)
from lib.experiments.phase_diagram import TIED
from lib.experiments.transformer import CONVOLVED, transformer
from lib.store import Record, Store, identity
from lib.tasks.composite import CompositeTask, third_party
from lib.training.config import TrainingConfig
from tests.fakes import PROVENANCE

# every variant with all that it differs in from the model that it changes; None: another block
BLOCK = "model.pattern.0."
ALL_ONES = {BLOCK + "conv_kind": "all_one"}
SCOPE = "model.initialisation.scope"
ANY: dict[str, Any] = {  # of Mambas and Transformers
    "embedding starts at 0.02": {SCOPE: ["positional", "linear", "head"]},
    "gamma by output width": {"model.initialisation.fan": "output"},
    "biases start at zero": {"model.initialisation.zero_biases": True},
    "length 9": {"task.length": 9},
    "pair never last": {"task.pair_may_end": False},
    "positions from 0": {"task.position_base": 0},
}
CHOICES: dict[str, Any] = ANY | {
    "own output weights": {"model.tie_embeddings": False},
    "no norm before blocks": {"model.pre_norm": False},
    "no final norm": {"model.final_norm": False},
    "no decay of A, D, dt": {"training.spare_dynamics": True},
    "Mamba-1": None,
}
WIDER = {
    "kernel starts with gamma too": {SCOPE: ["embedding", "positional", "linear", "head", "conv"]}
}
LONGER = {"task.length": 9, "model.max_length": 9}
SINES = {"model.positional_encoding": "sinusoidal"}
TRANSFORMERS = {
    **ANY, **WIDER, "length 9": LONGER, "sines and cosines": SINES,
    "tied output weights": {"model.tie_embeddings": True},
    "norms before blocks": {"model.norm_place": "before", "model.final_norm": True},
    "RMS norms": {"model.norm_kind": "rms"},
    "no positions": {"model.positional_encoding": "none", "model.max_length": None},
    "positions start at 0.02": {SCOPE: ["embedding", "linear", "head"]},
    "values as wide as keys": {BLOCK + "d_v": 32},
    "feed-forward maps four times as wide": {"model.pattern.1.d_hidden": 128},
    "no causal mask": {BLOCK + "causal": False},
    "no bias of the kernel": {BLOCK + "conv_bias": False},
}  # fmt: skip
SPECIFIC: dict[str, dict[str, Any]] = {
    "standard kernel": {**CHOICES, **WIDER},
    "all-one kernel": {
        **CHOICES,
        "no bias of the kernel": {BLOCK + "conv_bias": False},
        "kernel trained from ones": {BLOCK + "conv_frozen": False},
    },
    "positional encoding": {**CHOICES, **WIDER, "length 9": LONGER, "sines and cosines": SINES},
    "symmetric exception": {**CHOICES, **WIDER},
    "Transformer, small gamma": TRANSFORMERS,
    "Transformer, larger gamma": TRANSFORMERS,
}
STARTS = {
    "standard kernel": (ALL_ONE, "standard"),
    "all-one kernel": (ALL_ONE, "all-one"),
    "positional encoding": (POSITIONS, "learned"),
    "symmetric exception": (TIED, "symmetric exception"),
    "Transformer, small gamma": (CONVOLVED, "Transformer, small gamma"),
    "Transformer, larger gamma": (CONVOLVED, "Transformer, larger gamma"),
}
PLAIN = {  # variants that change nothing
    ALL_ONE: ("standard", "third party, standard"),
    POSITIONS: ("none", "third party, none"),
    BEYOND: ("standard, 2 layers", "standard, 5 layers"),
}
# experiment, variant, the variant that it changes, and how
DIFFERENCES: list[tuple[str, str, tuple[str, str], Any]] = [
    (ALL_ONE, "all-one", (ALL_ONE, "standard"), ALL_ONES),
    (ALL_ONE, "all-one, no bias", (ALL_ONE, "standard"), {**ALL_ONES, BLOCK + "conv_bias": False}),
    (ALL_ONE, "all-one, trained", (ALL_ONE, "all-one"), {BLOCK + "conv_frozen": False}),
    (ALL_ONE, "third party, all-one", (ALL_ONE, "third party, standard"),
     {**ALL_ONES, BLOCK + "conv_bias": False}),
    (ALL_ONE, "third party, all-one, bias trained", (ALL_ONE, "third party, standard"), ALL_ONES),
    (POSITIONS, "learned", (POSITIONS, "none"),
     {"model.positional_encoding": "learned", "model.max_length": 8}),
    (POSITIONS, "sinusoidal", (POSITIONS, "learned"), SINES),
    (POSITIONS, "third party, sinusoidal", (POSITIONS, "third party, none"),
     {**SINES, "model.max_length": 8}),
    *[
        (BEYOND, f"{name}, {n} layers", (BEYOND, f"standard, {n} layers"), change)
        for n in (2, 5)
        for name, change in (
            ("palindromic", {BLOCK + "conv_kind": "palindromic"}),
            ("no convolution", {BLOCK + "conv_kind": "none"}),
            ("Mamba-3", None),
        )
    ],
    *[
        (SENSITIVITY, f"{question}: {choice}", STARTS[question], change)
        for question, choices in SPECIFIC.items()
        for choice, change in choices.items()
    ],
]  # fmt: skip


def cell_of(name: str, variant: str, profile: str = "paper", seed: int = 1) -> CompositeCell:
    if name in (TIED, CONVOLVED):  # a cell of a diagram
        start = {variant: study.questions()[variant]}
        return (study.scaled(start) if profile == "quick" else start)[variant].cell(seed)
    labels = list(TABLES[name]())
    cells = [c for c in cells_of(find(name), profile) if c.seed == seed]
    return dict(zip(labels, cells, strict=True))[variant]


@pytest.mark.parametrize(("name", "count"), [(ALL_ONE, 7), (POSITIONS, 5), (BEYOND, 8),
                                             (SENSITIVITY, 84)])  # fmt: skip
def test_the_grid_is_every_variant_with_three_seeds(name: str, count: int) -> None:
    cells, labels = cells_of(find(name), "paper"), list(TABLES[name]())
    assert len(labels) == count and len(cells) == 3 * count
    assert [cell.seed for cell in cells] == [1, 2, 3] * count
    assert [dataclasses.replace(cell, seed=1) for cell in cells] == [
        first for first in cells[::3] for _ in range(3)
    ]
    assert len({identity(name, 1, to_dict(cell)) for cell in cells}) == len(cells)
    assert cells_of(find(name), "matched") == []
    changed = [variant for own, variant, _, _ in DIFFERENCES if own == name]
    assert sorted([*changed, *PLAIN.get(name, ())]) == sorted(labels)  # so none is left untested


def test_choices_of_a_transformer_start_from_cells_of_its_diagram() -> None:
    for name, gamma in (("small", 0.2), ("larger", 0.8)):
        model = transformer(3, gamma, convolution=True)
        cell = cell_of(*STARTS[f"Transformer, {name} gamma"])
        assert cell == CompositeCell(CompositeTask(), model, TrainingConfig(), 1)
        assert cell in cells_of(find(CONVOLVED), "paper")


def test_variants_start_from_the_papers_model_and_the_third_partys() -> None:
    plain = {n: CompositeCell(CompositeTask(), mamba2_model(n, g, tied=True), TrainingConfig(), 1)
             for n, g in ((2, 0.5), (5, 1.0))}  # fmt: skip
    assert cell_of(ALL_ONE, "standard") == cell_of(BEYOND, "standard, 5 layers") == plain[5]
    assert cell_of(POSITIONS, "none") == plain[2]
    shallow = cell_of(BEYOND, "standard, 2 layers")
    assert (shallow.model.n_layers, shallow.model.initialisation.gamma) == (2, 1.0)
    for cell, n, gamma in (
        (cell_of(ALL_ONE, "third party, standard"), 5, 1.0),
        (cell_of(POSITIONS, "third party, none"), 2, 0.5),
    ):
        assert cell.model == third_party_model(n, gamma)
        assert (cell.task, cell.training) == (third_party(), THIRD_PARTY_TRAINING)


@pytest.mark.parametrize("profile", ["paper", "quick"])
@pytest.mark.parametrize(("name", "variant", "start", "change"), DIFFERENCES,
                         ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_a_variant_differs_in_one_thing(
    name: str, variant: str, start: tuple[str, str], change: dict[str, Any] | None, profile: str
) -> None:
    cells = (cell_of(*start, profile), cell_of(name, variant, profile))
    before, after = (flatten(to_dict(cell, complete=True)) for cell in cells)
    if change is None:  # another kind of block: alike in what both kinds have, but for its name
        kind = "mamba3" if "Mamba-3" in variant else "mamba1"
        assert after[BLOCK + "kind"] == kind
        assert cells[1].model.pattern[0].d_model == 32 and after[BLOCK + "expand"] == 2
        if kind == "mamba3":  # one head, as the others
            assert after[BLOCK + "headdim"] == before[BLOCK + "headdim"] == 64
        else:
            assert after[BLOCK + "conv_kind"] == before[BLOCK + "conv_kind"]
        assert after[BLOCK + "d_state"] == before[BLOCK + "d_state"]
        before, after = ({k: v for k, v in flat.items() if not k.startswith(BLOCK)}
                         for flat in (before, after))  # fmt: skip
        change = {}
    assert {k: v for k, v in after.items() if before[k] != v} == change
    assert before.keys() == after.keys()


@pytest.mark.parametrize("name", TABLES)
def test_quick_is_every_variant_in_small(name: str) -> None:
    quick, paper = cells_of(find(name), "quick"), cells_of(find(name), "paper")
    assert len(quick) == len(TABLES[name]()) and {cell.seed for cell in quick} == {1}
    for small, large in zip(quick, paper[::3], strict=True):
        assert small.model.pattern[0].kind == large.model.pattern[0].kind
        assert small.model.n_layers <= min(2, large.model.n_layers)
        rows = 15 * small.task.train_per_pair * small.training.epochs
        assert rows <= 4_000 and small.task.train_total is None
        assert 16 * small.task.test_per_pair <= 500
        assert flatten(to_dict(small)).get(BLOCK + "d_state", 16) == 16


@pytest.mark.parametrize("name", TABLES)
def test_cells_survive_their_records(name: str) -> None:
    for profile in ("paper", "quick"):
        for cell in cells_of(find(name), profile):
            assert from_dict(CompositeCell, to_dict(cell)) == cell
    plain = to_dict(cell_of(ALL_ONE, "all-one"))
    (block,) = plain["model"]["pattern"]
    assert "conv_frozen" not in block  # at its default no part of the identity
    (block,) = to_dict(cell_of(ALL_ONE, "all-one, trained"))["model"]["pattern"]
    assert block["conv_frozen"] is False


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda v: v.block_with(conv_kind="ones"), "Mamba2Config.conv_kind is 'ones', allowed: st"),
        (lambda v: v.block_with(conv_kind="none", conv_frozen=True),
         "Mamba2Config.conv_frozen is True, allowed: None with none"),
        (lambda v: v.block_with(d_state=0), "Mamba2Config.d_state is 0, allowed: at least 1"),
        (lambda v: v.model_with(positional_encoding="learned"),
         "max_length is None, allowed: at least 1, whole, with learned"),
        (lambda v: v.model_with(n_layers=0), "n_layers is 0, allowed: at least 1"),
        (lambda v: v.model_with(vocab_size=100).cell(1), "vocab_size is 100, allowed: more than"),
        (lambda v: v.start_with(gamma=-1.0), "gamma is -1.0, allowed: None, or 0 or more"),
        (lambda v: v.start_with(fan="input"), "fan is 'input', allowed: fan_in, output"),
        (lambda v: v.start_with(scope=("kernel",)), r"scope is \('kernel',\), allowed: a tuple"),
        (lambda v: v.task_with(length=2), "CompositeTask.length is 2, allowed: at least 3"),
        (lambda v: v.task_with(position_base=2), "position_base is 2, allowed: 0..1"),
        (lambda v: v.cell(-1), "seed is -1, allowed: 0 or more"),
    ],
)  # fmt: skip
def test_changes_that_make_no_model_are_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(study.base(2, 0.5))


def faked(name: str, cell: CompositeCell, status: str = "done") -> Record:
    metrics = {"best_composite": 0.5, "final_composite": 0.25}
    return Record(name, 1, to_dict(cell), find(name).readable(cell), status, metrics, PROVENANCE)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("profile", ["paper", "quick"])
def test_frames_know_every_variant_by_its_name(name: str, profile: str) -> None:
    cells = cells_of(find(name), profile)
    times = len(cells) // len(TABLES[name]())
    frame = find(name).frame([faked(name, cell) for cell in reversed(cells)])
    expected = [variant for variant in TABLES[name]() for _ in range(times)]
    assert frame["variant"].tolist() == expected[::-1]
    assert frame["seed"].tolist() == [cell.seed for cell in reversed(cells)]
    stranger = dataclasses.replace(cells[0], training=TrainingConfig(epochs=11))
    assert find(name).frame([faked(name, stranger)])["variant"].tolist() == ["unknown"]


def test_choices_stand_beside_the_models_that_they_change(tmp_path: Path) -> None:
    store = Store(tmp_path, tmp_path / "published")
    bases = [(ALL_ONE, "standard"), (ALL_ONE, "all-one"), (ALL_ONE, "all-one, trained"),
             (POSITIONS, "learned"), (POSITIONS, "none"),
             *list(STARTS.values())[3:]]  # fmt: skip
    for name, variant in bases:
        store.save(faked(name, cell_of(name, variant)), None, None)
    store.save(faked(ALL_ONE, cell_of(ALL_ONE, "standard", seed=2), "failed"), None, None)
    found = study.base_records("paper", store)
    assert [r.config for r in found] == [to_dict(cell_of(*start)) for start in STARTS.values()]
    assert study.base_records("quick", store) == []
    own = faked(SENSITIVITY, cell_of(SENSITIVITY, "all-one kernel: no final norm"))
    frame = study.sensitivity_frame([*found, own])
    assert frame[["question", "choice", "seed"]].to_numpy().tolist() == [
        ["standard kernel", study.BASE, 1],
        ["all-one kernel", study.BASE, 1],
        ["positional encoding", study.BASE, 1],
        ["symmetric exception", study.BASE, 1],
        ["Transformer, small gamma", study.BASE, 1],
        ["Transformer, larger gamma", study.BASE, 1],
        ["all-one kernel", "no final norm", 1],
    ]
    assert study.sensitivity_frame([]).empty


def test_sides_counts_the_runs_that_compose_at_the_end() -> None:
    rows = [
        (1, study.BASE, 0.9, 0.1), (1, study.BASE, 0.2, 0.7), (1, "no final norm", 0.5, 0.5),
        (2, "no final norm", 0.6, 0.1), (2, "another", None, None), (1, "another", 0.1, 0.0),
    ]  # fmt: skip
    columns = ["question", "choice", "final_composite", "final_symmetric"]
    frame = pd.DataFrame(rows, columns=columns)
    table = study.sides(frame, {1: "one", 2: "two"})  # type: ignore[dict-item]
    assert table.astype(object).fillna("none").to_numpy().tolist() == [
        [study.BASE, "1 of 2", "none"], ["another", "1 of 1", "none"],
        ["no final norm", "0 of 1", "1 of 1"],
    ]  # fmt: skip
    of_two = study.sides(frame, {2: "two"})  # type: ignore[dict-item]
    assert of_two["choice"].tolist() == ["no final norm"]  # the only one of which a run has ended
    empty = study.sides(study.sensitivity_frame([]), {"one": "One", "two": "Two"})
    assert empty.columns.tolist() == ["choice", "One", "Two"] and not len(empty)


def test_turned_names_the_choices_that_change_the_side_of_most_runs() -> None:
    rows = [
        *[("one", study.BASE, 0.9, 0.1)] * 2, ("one", study.BASE, 0.1, 0.9),
        *[("one", "no final norm", 0.1, 0.9)] * 2, ("one", "no final norm", 0.9, 0.1),
        ("one", "length 9", 0.8, 0.1), ("one", "own output weights", 0.5, 0.5),
        ("two", study.BASE, 0.1, 0.4), ("two", "length 9", 0.1, 0.4), ("three", "length 9", 1, 0),
    ]  # fmt: skip
    columns = ["question", "choice", "final_composite", "final_symmetric"]
    frame = pd.DataFrame(rows, columns=columns)
    said = study.turned(frame, {"one": "First", "two": "Second", "three": "No base"})
    assert said == [
        "First: most runs compose; 2 of 3 other choices turn this: no final norm, "
        "own output weights",
        "Second: most runs do not compose; 0 of 1 other choices turn this",
    ]
    assert study.turned(frame[frame["choice"] == study.BASE], {"one": "First"}) == []
    assert study.turned(study.sensitivity_frame([]), {"one": "First"}) == []
