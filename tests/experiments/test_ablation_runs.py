"""Variants of the ablations as they train: shrunk cells, real weights."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lib.analysis.activations import record_activations
from lib.experiments import Outcome, cells_of, find
from lib.experiments import ablations as study
from lib.experiments.ablations import ALL_ONE, BEYOND, POSITIONS, SENSITIVITY, TABLES
from lib.experiments.achilles import CompositeCell
from lib.figures import ablations as figures
from lib.models.language_model import build_language_model
from lib.store import Store
from lib.training.checkpoints import load_checkpoint
from tests.experiments import composite_runs as runs
from tests.experiments.test_ablation_variants import SPECIFIC, STARTS, cell_of


def shrunk(name: str, variant: str, **options: Any) -> CompositeCell:
    return runs.shrunk(cell_of(name, variant), **options)


def tensors(outcome: Outcome, folder: Path) -> dict[str, Tensor]:
    path = folder / f"{len(list(folder.iterdir()))}.safetensors"
    path.write_bytes(outcome.weights or b"")
    return load_checkpoint(path)[0]


@pytest.mark.parametrize("name", [ALL_ONE, POSITIONS, BEYOND, *SPECIFIC])
def test_every_variant_trains_and_is_a_run_of_its_own(name: str) -> None:
    """A choice that changed nothing would look like one that does not matter."""
    if name in SPECIFIC:
        # with one layer of attention a mask would hide nothing from the last token
        size = {"n_layers": 4} if name.startswith("Transformer") else {}
        cells = [shrunk(SENSITIVITY, f"{name}: {choice}", **size) for choice in SPECIFIC[name]]
        cells.append(shrunk(*STARTS[name], **size))
    else:
        cells = [shrunk(name, variant) for variant in TABLES[name]() if "5 layers" not in variant]
    found = runs.run(find(ALL_ONE), cells)
    for outcome in found:
        for metric, value in outcome.metrics.items():
            if metric.endswith("_by_tens"):  # of runs shorter than ten epochs
                assert value is None
            else:
                assert value is not None and math.isfinite(value), metric
            if metric.startswith(("best_", "final_")) and metric.endswith(("ite", "ric", "seen")):
                assert value is not None and 0 <= value <= 1, metric
    losses = {tuple(o.curves["train_loss"]) for o in found if o.curves is not None}
    assert len(losses) == len(cells)


@pytest.mark.parametrize("name", [ALL_ONE, POSITIONS, BEYOND])
def test_a_real_quick_cell_runs_in_seconds_into_its_pages_figures(name: str) -> None:
    experiment, order = find(name), list(TABLES[name]())
    (outcome,) = runs.run(experiment, cells_of(experiment, "quick")[1:2])
    assert outcome.facts["training_seconds"] < 30
    frame = experiment.frame([runs.record(experiment, outcome)])
    assert frame["variant"].tolist() == [order[1]]
    figure = figures.variants(frame, order, "title")
    shown = {(t.y[0], round(t.x[0], 6)) for t in figure.data}
    wanted = [outcome.metrics[f"{k}_{m}"] for k in ("best", "final") for m in figures.LABELS]
    assert shown == {(order[1], round(value or 0.0, 6)) for value in wanted}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (ALL_ONE, {"symmetric": "all-one", "composite": "all-one", "standard-final": "standard",
                   "third-party-composite": "third party, all-one",
                   "third-party-symmetric": "third party, all-one"}),
        (POSITIONS, {"symmetric": "learned", "composite": "learned", "without": "none",
                     "without-composite": "none",
                     "third-party-composite": "third party, sinusoidal",
                     "third-party-symmetric": "third party, sinusoidal"}),
    ],
)  # fmt: skip
def test_claims_are_about_one_variant_and_its_metrics(
    root: Path, name: str, wanted: dict[str, str]
) -> None:
    experiment = find(name)
    selected = runs.claims_about(root, experiment)
    assert selected == {
        f"{name}.{ending}": [cell_of(name, variant, seed=seed) for seed in (1, 2, 3)]
        for ending, variant in wanted.items()
    }
    ten = dataclasses.replace(runs.TRAINING, epochs=10)
    (outcome,) = runs.run(experiment, [shrunk(name, wanted["symmetric"], training=ten)])
    for metric in runs.metrics_of_claims(root, experiment):
        value = outcome.metrics[metric]
        assert value is not None and 0 <= value <= 1


TOGETHER = [
    (ALL_ONE, "all-one"), (ALL_ONE, "all-one, trained"), (ALL_ONE, "third party, all-one"),
    (POSITIONS, "learned"), (POSITIONS, "sinusoidal"),
    (BEYOND, "palindromic, 2 layers"), (BEYOND, "no convolution, 2 layers"),
    (BEYOND, "Mamba-3, 2 layers"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "variant"), TOGETHER)
def test_seeds_trained_together_are_the_seeds_alone(name: str, variant: str) -> None:
    cells = runs.seeds_of(shrunk(name, variant))
    outcomes = runs.together_and_alone(find(name), cells)
    assert len({tuple(o.curves["train_loss"]) for o in outcomes if o.curves is not None}) == 3


@pytest.mark.parametrize("variant", ["all-one", "all-one, trained"])
def test_killed_and_resumed_equals_uninterrupted(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that is not trained is part of the state all the same."""
    cells = runs.seeds_of(shrunk(ALL_ONE, variant), (1, 2))
    runs.killed_and_resumed(find(ALL_ONE), cells, tmp_path, monkeypatch)


# -- what the variants are -------------------------------------------------------------------

KERNEL, BIAS = "layers.0.mixer.conv.weight", "layers.0.mixer.conv.bias"


@pytest.mark.parametrize("variant", ["all-one", "all-one, no bias", "all-one, trained"])
@pytest.mark.parametrize("size", [1, 2])
def test_the_kernel_of_ones_moves_only_where_it_is_trained(
    variant: str, size: int, tmp_path: Path
) -> None:
    """In an ensemble as well as alone; its bias is trained wherever there is one."""
    cells = runs.seeds_of(shrunk(ALL_ONE, variant), (1, 2)[:size])
    for outcome in runs.run(find(ALL_ONE), cells):
        start = build_language_model(outcome.cell.model, seed=outcome.cell.seed).state_dict()
        end = tensors(outcome, tmp_path)
        assert torch.equal(start[KERNEL], torch.ones_like(start[KERNEL]))
        assert torch.equal(end[KERNEL], start[KERNEL]) is (variant != "all-one, trained")
        assert (BIAS in end) is (BIAS in start) is (variant != "all-one, no bias")
        assert BIAS not in end or not torch.equal(end[BIAS], start[BIAS])


def test_a_palindromic_kernel_stays_one_and_others_have_none(tmp_path: Path) -> None:
    names = ("palindromic", "no convolution", "Mamba-3")
    cells = [shrunk(BEYOND, f"{name}, 2 layers") for name in names]
    ends = [tensors(outcome, tmp_path) for outcome in runs.run(find(BEYOND), cells)]
    model = build_language_model(cells[0].model, seed=0)
    model.load_state_dict(ends[0])
    kernel = model.layers[0].mixer.conv.kernel()
    assert torch.equal(kernel, kernel.flip(1)) and not torch.equal(kernel[:, 0], kernel[:, 1])
    for end in ends[1:]:
        assert not [name for name in end if ".conv." in name]


@pytest.mark.parametrize(
    ("variant", "different"),
    [((ALL_ONE, "standard"), 24), ((ALL_ONE, "all-one"), 1), ((BEYOND, "palindromic, 5 layers"), 6),
     ((BEYOND, "no convolution, 5 layers"), 4)],
)  # fmt: skip
def test_what_a_kernel_tells_of_the_order_of_its_window(
    variant: tuple[str, str], different: int
) -> None:
    """Of four tokens all 24 orders; none; not the outer two, nor the inner two, from each other;
    or who is last, and no more."""
    model = build_language_model(cell_of(*variant).model, seed=1)
    orders = torch.tensor(list(itertools.permutations((3, 25, 60, 4))))
    with torch.no_grad(), record_activations(model, "layers.0.mixer.post_conv") as found:
        model(orders)
    heard = found["layers.0.mixer.post_conv"][:, -1]  # where the window is full
    far = torch.cdist(heard, heard, compute_mode="donot_use_mm_for_euclid_dist") > 1e-4
    assert len({tuple(row) for row in far.tolist()}) == different


def test_an_encoding_adds_positions_and_nothing_else() -> None:
    tokens = torch.tensor([[25, 30, 4, 3, 28, 21, 33, 40]])
    plain = build_language_model(cell_of(POSITIONS, "none").model, seed=1)
    models = {name: build_language_model(cell_of(POSITIONS, name).model, seed=1)
              for name in ("learned", "sinusoidal")}  # fmt: skip
    counts = {name: sum(p.numel() for p in m.parameters()) for name, m in models.items()}
    own = sum(p.numel() for p in plain.parameters())
    assert counts == {"learned": own + 8 * 32, "sinusoidal": own}
    for model in models.values():
        assert model.positions is not None
        with torch.no_grad():
            model.load_state_dict(plain.state_dict(), strict=False)
            assert not torch.allclose(model(tokens), plain(tokens), atol=1e-3)
            model.positions.weight.zero_()
            torch.testing.assert_close(model(tokens), plain(tokens))


def test_curves_stand_with_their_variant_and_seed(tmp_path: Path) -> None:
    experiment, store = find(ALL_ONE), Store(tmp_path, tmp_path / "published")
    cells = cells_of(experiment, "paper")[3:5]  # all-one, seeds 1 and 2
    records = []
    for cell, outcome in zip(
        cells, runs.run(experiment, [runs.shrunk(c) for c in cells]), strict=True
    ):
        records.append(runs.record(experiment, dataclasses.replace(outcome, cell=cell), store))
    curves = study.variant_curves(ALL_ONE, records)
    assert curves[["variant", "seed", "epoch"]].to_numpy().tolist() == [
        ["all-one", seed, epoch] for seed in (1, 2) for epoch in (1, 2, 3)
    ]
    assert curves[["composite", "symmetric"]].stack().between(0, 1).all()
