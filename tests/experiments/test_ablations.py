from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from lib.claims import Claim, Evidence
from lib.config import to_dict
from lib.experiments import Context, cells_of, find
from lib.experiments._variants import Variant
from lib.experiments.ablations import (
    ALL_ONE,
    BASE,
    BEYOND,
    POSITIONS,
    SEEDS,
    SENSITIVITY,
    TABLES,
    all_one_variants,
    base,
    base_records,
    beyond_variants,
    choices,
    position_variants,
    questions,
    sensitivity_frame,
    variant_frame,
)
from lib.experiments.achilles import CompositeCell, run_composite
from lib.experiments.phase_diagram import TIED
from lib.experiments.transformer import CONVOLVED
from lib.models.language_model import build_language_model
from lib.store import Record, Store
from lib.tasks.composite import CompositeTask
from lib.training.config import TrainingConfig
from tests.fakes import PROVENANCE

LENGTHS = {ALL_ONE: 7, POSITIONS: 5, BEYOND: 8}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A config as path to plain value."""
    if isinstance(value, dict):
        return {
            k: v for key, part in value.items() for k, v in leaves(part, f"{path}.{key}").items()
        }
    if isinstance(value, list):
        return {
            k: v for i, part in enumerate(value) for k, v in leaves(part, f"{path}.{i}").items()
        }
    return {path: value}


def difference(a: Variant, b: Variant) -> set[str]:
    """Last names of the fields in which two variants differ."""
    one, two = (leaves(to_dict(v, complete=True)) for v in (a, b))
    found = {key for key in {*one, *two} if one.get(key) != two.get(key)}
    return {key.split(".")[-1] if not key.split(".")[-1].isdigit() else "scope" for key in found}


@pytest.mark.parametrize("name", list(TABLES))
def test_every_variant_has_three_seeds_and_quick_has_them_all_small(name: str) -> None:
    variants = TABLES[name]()
    paper, quick = cells_of(find(name), "paper"), cells_of(find(name), "quick")
    assert len(variants) == LENGTHS.get(name, len(variants))
    assert [cell.seed for cell in paper] == list(SEEDS) * len(variants)
    assert len({dataclasses.replace(cell, seed=0) for cell in paper}) == len(variants)
    assert len(set(quick)) == len(quick) == len(variants)
    for small, large in zip(quick, paper[:: len(SEEDS)], strict=True):
        assert small.model.n_layers <= 2
        assert getattr(small.model.pattern[0], "d_state", 16) == 16
        assert small.training.epochs * 15 * small.task.train_per_pair <= 6_000
        # what makes the variant is still there
        for part in ("kind", "conv_kind", "conv_bias", "conv_frozen"):
            mine, theirs = (getattr(c.model.pattern[0], part, None) for c in (small, large))
            assert mine == theirs
        assert small.model.positional_encoding == large.model.positional_encoding
        assert small.task.length == large.task.length
    assert cells_of(find(name), "matched") == []


def test_a_choice_changes_one_thing() -> None:
    expected = {
        "own output weights": {"tie_embeddings"},
        "no norm before blocks": {"pre_norm"},
        "no final norm": {"final_norm"},
        "kernel starts with gamma too": {"scope"},
        "embedding starts at 0.02": {"scope"},
        "gamma by output width": {"fan"},
        "biases start at zero": {"zero_biases"},
        "length 9": {"length"},
        "pair never last": {"pair_may_end"},
        "positions from 0": {"position_base"},
        "no decay of A, D, dt": {"spare_dynamics"},
        "no bias of the kernel": {"conv_bias"},
        "kernel trained from ones": {"conv_frozen"},
        "sines and cosines": {"positional_encoding"},
        "tied output weights": {"tie_embeddings"},
        "norms before blocks": {"norm_place", "final_norm"},
        "RMS norms": {"norm_kind"},
        "no positions": {"positional_encoding", "max_length"},
        "positions start at 0.02": {"scope"},
        "values as wide as keys": {"d_v"},
        "feed-forward maps four times as wide": {"d_hidden"},
        "no causal mask": {"causal"},
    }
    for question, start in questions().items():
        found = choices(start)
        assert len(set(found.values()) | {start}) == len(found) + 1, question
        for name, variant in found.items():
            if name == "Mamba-1":
                assert variant.model.pattern[0].kind == "mamba1"
                assert variant.task == start.task and variant.training == start.training
            elif name == "length 9" and start.model.positional_encoding == "learned":
                assert difference(start, variant) == {"length", "max_length"}
            else:
                assert difference(start, variant) == expected[name], (question, name)
    assert "no bias of the kernel" in choices(questions()["all-one kernel"])
    assert "sines and cosines" in choices(questions()["positional encoding"])


def test_questions_are_cells_of_the_pages_that_ask_them() -> None:
    """So that the figure of choices needs no second run of its bases."""
    names = (ALL_ONE, POSITIONS, TIED, CONVOLVED)
    others = {cell for name in names for cell in cells_of(find(name), "paper")}
    again = set(cells_of(find(SENSITIVITY), "paper"))
    for start in questions().values():
        bases = {start.cell(seed) for seed in SEEDS}
        assert bases <= others and not bases & again


def small(variant: Variant) -> CompositeCell:
    task = CompositeTask(train_per_pair=20, test_per_pair=5)
    training = TrainingConfig(epochs=2, warmup_epochs=1, batch_size=60, lr_peak=6e-3)
    return dataclasses.replace(variant.block_with(d_state=8), task=task, training=training).cell(1)


def kernels(cell: CompositeCell) -> tuple[torch.Tensor, torch.Tensor]:
    """The first layer's kernel before and after training."""
    (outcome,) = run_composite([cell], Context())
    assert outcome.status == "done" and outcome.weights is not None
    name = "layers.0.mixer.conv.weight"
    before = build_language_model(cell.model, seed=cell.seed).state_dict()
    return before[name], load(outcome.weights)[name]


def test_the_kernel_of_ones_is_frozen_unless_it_is_said_to_be_trained() -> None:
    start = base(1, 1.0)
    variants = all_one_variants(start)
    before, after = kernels(small(variants["all-one"]))
    assert torch.equal(before, torch.ones_like(before)) and torch.equal(after, before)
    before, after = kernels(small(variants["all-one, trained"]))
    assert torch.equal(before, torch.ones_like(before)) and not torch.equal(after, before)
    names = {
        name: set(dict(build_language_model(v.model, seed=0).named_parameters()))
        for name, v in variants.items()
    }
    bias = "layers.0.mixer.conv.bias"
    assert bias in names["all-one"] and bias not in names["all-one, no bias"]


def test_beyond_has_the_kernels_that_it_names() -> None:
    found = {
        name: build_language_model(v.model, seed=0)
        for name, v in beyond_variants(base(1, 1.0)).items()
    }
    kernel = found["palindromic"].layers[0].mixer.conv.kernel()  # type: ignore[union-attr, operator]
    assert torch.equal(kernel, kernel.flip(1)) and not torch.equal(kernel, torch.ones_like(kernel))
    assert not any("conv" in name for name, _ in found["no convolution"].named_parameters())
    assert not any("conv" in name for name, _ in found["Mamba-3"].named_parameters())


def test_positions_reach_the_model() -> None:
    """Without an encoding equal tokens start alike wherever they stand; with one they do not."""
    tokens = torch.tensor([[20, 20, 20, 20, 20, 20, 20, 20]])
    for name, variant in position_variants(base(1, 0.5)).items():
        model = build_language_model(variant.model, seed=0)
        embedded = model.embedding(tokens)
        if name != "none":
            embedded = model.positions(embedded)  # type: ignore[misc]
        same = all(torch.equal(embedded[0, 0], embedded[0, k]) for k in range(1, 8))
        assert same == (name == "none")


def record(name: str, cell: CompositeCell) -> Record:
    metrics = {
        f"{kind}_{label}": 0.5 for kind in ("best", "final") for label in ("composite", "symmetric")
    }
    return Record(name, 1, to_dict(cell), find(name).readable(cell), "done", metrics, PROVENANCE)


@pytest.mark.parametrize("name", list(TABLES))
def test_every_record_finds_its_variant_again(name: str) -> None:
    for profile in ("quick", "paper"):
        records = [record(name, cell) for cell in cells_of(find(name), profile)]
        frame = variant_frame(name, records)
        seeds = 1 if profile == "quick" else len(SEEDS)
        assert frame["variant"].tolist() == [v for v in TABLES[name]() for _ in range(seeds)]
    other = dataclasses.replace(
        cells_of(find(name), "paper")[0], training=TrainingConfig(epochs=99)
    )
    assert variant_frame(name, [record(name, other)])["variant"].tolist() == ["unknown"]


def test_the_figure_of_choices_has_its_bases_from_the_other_pages(tmp_path: Path) -> None:
    store = Store(tmp_path, tmp_path / "published")
    for name in (ALL_ONE, POSITIONS, TIED, CONVOLVED):
        for cell in cells_of(find(name), "paper"):
            store.save(record(name, cell))
    found = base_records("paper", store)
    assert len(found) == len(questions()) * len(SEEDS)
    some = [record(SENSITIVITY, cell) for cell in cells_of(find(SENSITIVITY), "paper")[:4]]
    frame = sensitivity_frame([*found, *some])
    assert set(frame["question"]) == set(questions())
    assert (frame["choice"] == BASE).sum() == len(found)
    assert frame[frame["choice"] != BASE]["choice"].tolist() == [
        *["kernel starts with gamma too"] * 3, "embedding starts at 0.02",
    ]  # fmt: skip
    assert sensitivity_frame([]).empty


def test_a_variant_that_cannot_be_says_so() -> None:
    with pytest.raises(ValueError, match=r"conv_kind is 'ones', allowed: "):
        base(2, 1.0).block_with(conv_kind="ones")
    with pytest.raises(ValueError, match=r"max_length"):
        base(2, 1.0).model_with(positional_encoding="learned")


def test_claims_choose_cells_by_fields_that_were_added_later() -> None:
    """A field left out of identities at its default is a name to select by all the same."""
    left_open = {"conv_kind": "all_one", "modulus": None, "conv_bias": True}
    about: dict[str, Any] = {
        "id": "demo.best", "statement": "It is good.", "source": "key2025", "where": "Fig. 1",
        "experiment": ALL_ONE, "profile": "paper", "metric": "best_composite", "value": 0.9,
        "tolerance": 0.05, "tolerance_reason": "printed to two digits",
    }  # fmt: skip
    chosen = {
        frozen: Evidence().cells(Claim(**about, select={**left_open, "conv_frozen": frozen}))
        for frozen in (None, False)
    }
    for frozen, cells in chosen.items():
        assert [cell.seed for cell in cells] == list(SEEDS)
        assert {cell.model.pattern[0].conv_frozen for cell in cells} == {frozen}
    # of the two, only what is not the default is part of a record's config
    assert "conv_frozen" not in to_dict(chosen[None][0])["model"]["pattern"][0]
    assert to_dict(chosen[False][0])["model"]["pattern"][0]["conv_frozen"] is False
