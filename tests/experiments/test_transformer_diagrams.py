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
from lib.analysis.reference import load_reference
from lib.config import flatten, from_dict, to_dict
from lib.experiments import cells_of, find
from lib.experiments.achilles import CompositeCell, load_model
from lib.experiments.phase_diagram import GAMMAS, LAYERS, diagram, keeps_weights
from lib.experiments.transformer import CONVOLVED, PLAIN, transformer
from lib.figures import phase as figures
from lib.models.config import (
    AttentionConfig,
    FeedForwardConfig,
    InitialisationConfig,
    LanguageModelConfig,
)
from lib.models.language_model import LanguageModel, build_language_model
from lib.store import Store, identity
from lib.tasks.composite import CompositeTask
from lib.training.config import TrainingConfig
from tests.experiments import composite_runs as runs

NAMES = pytest.mark.parametrize(
    ("name", "kernel"), [(CONVOLVED, "standard"), (PLAIN, "none")], ids=["convolved", "plain"]
)


def paper(name: str) -> list[CompositeCell]:
    return cells_of(find(name), "paper")


@NAMES
def test_the_grid_is_the_papers_map_with_three_seeds(name: str, kernel: Any) -> None:
    cells = paper(name)
    assert len(cells) == 6 * 12 * 3 and cells_of(find(name), "matched") == []
    grid = itertools.product(range(2, 8), GAMMAS, (1, 2, 3))
    for cell, (n_layers, gamma, seed) in zip(cells, grid, strict=True):
        assert cell.seed == seed
        assert cell.task == CompositeTask() and cell.training == TrainingConfig()
        assert cell.model == LanguageModelConfig(
            vocab_size=201,
            n_layers=2 * n_layers,  # attention and feed-forward maps in turn
            pattern=(
                AttentionConfig(32, n_heads=1, d_qk=32, d_v=64, conv_kind=kernel),
                FeedForwardConfig(32, 32, "silu"),
            ),
            final_norm=False,
            positional_encoding="learned",
            max_length=8,
            initialisation=InitialisationConfig(gamma=gamma),
            norm_place="after",
            norm_kind="layer",
        )


def test_the_two_diagrams_differ_in_the_convolution_alone() -> None:
    names = (CONVOLVED, PLAIN)
    found = [identity(name, 1, to_dict(cell)) for name in names for cell in paper(name)]
    assert len(set(found)) == len(found) == 432
    for profile in ("paper", "quick"):
        pairs = zip(*(cells_of(find(name), profile) for name in (PLAIN, CONVOLVED)), strict=True)
        for plain, convolved in pairs:
            before, after = flatten(to_dict(plain)), flatten(to_dict(convolved))
            changed = {k for k in before if before[k] != after[k]}
            assert changed == {"model.pattern.0.conv_kind"}


def test_the_published_map_has_the_same_axes() -> None:
    published = load_reference("achilles_transformer").maps["best_composite"]
    for name in (CONVOLVED, PLAIN):
        assert sorted(published.index) == sorted({c.model.n_layers // 2 for c in paper(name)})
        assert list(published.columns) == list(
            dict.fromkeys(c.model.initialisation.gamma for c in paper(name))
        )


@NAMES
def test_quick_is_small_and_a_part_of_the_axes(name: str, kernel: str) -> None:
    cells = cells_of(find(name), "quick")
    places = [(c.model.n_layers // 2, c.model.initialisation.gamma, c.seed) for c in cells]
    assert places == list(itertools.product((2, 3), (0.3, 1.0), (1, 2)))
    for cell, (layers, gamma, _) in zip(cells, places, strict=True):
        assert 15 * cell.task.train_per_pair * cell.training.epochs <= 4_000
        assert 16 * cell.task.test_per_pair <= 500
        assert layers in LAYERS and gamma in GAMMAS  # else the page's map would not show them
        assert cell.model == transformer(layers, gamma, convolution=kernel == "standard")


@NAMES
def test_cells_survive_their_records(name: str, kernel: str) -> None:
    for cell in (*paper(name)[::7], *cells_of(find(name), "quick")):
        plain = to_dict(cell)
        # newer than published records, and not at its default: part of the identity here
        assert plain["model"]["norm_place"] == "after"
        assert from_dict(CompositeCell, plain) == cell
        before = dataclasses.replace(cell.model, norm_place="before")
        other = dataclasses.replace(cell, model=before)
        assert "norm_place" not in to_dict(other)["model"]
        assert from_dict(CompositeCell, to_dict(other)) == other != cell


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layers": 0}, "n_layers is 0, allowed: at least 1, whole"),
        ({"gamma": -0.1}, "gamma is -0.1, allowed: None, or 0 or more and finite"),
        ({"gamma": math.inf}, "gamma is inf, allowed: None, or 0 or more and finite"),
        ({"d_model": 0}, "AttentionConfig.d_model is 0, allowed: at least 1, whole"),
        ({"vocab_size": 0}, "vocab_size is 0, allowed: at least 1, whole"),
        ({"max_length": 0}, "max_length is 0, allowed: at least 1, whole, with learned positions"),
        ({"positions": "rotary"}, "positional_encoding is 'rotary', allowed: none, learned, sinus"),
    ],
)
def test_bad_sizes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transformer(**{"n_layers": 2, "gamma": 1.0, **change})


# -- what the model is -----------------------------------------------------------------------

TOKENS = torch.tensor([[25, 71, 59, 4, 1, 41, 54, 67]])
# the same with its first five tokens in another order
ORDER = [3, 0, 4, 1, 2, 5, 6, 7]


def logits(model: LanguageModel, order: list[int]) -> Tensor:
    with torch.no_grad():
        return model(TOKENS[:, order])[0]


@pytest.mark.parametrize(
    ("n_layers", "options", "blind"),
    [
        (1, {"positions": "none"}, True),
        (2, {"positions": "none"}, False),  # what earlier tokens gathered is what their mask let
        (1, {"positions": "learned"}, False),
        (1, {"positions": "sinusoidal"}, False),
        (1, {"positions": "none", "convolution": True}, False),
    ],
)
def test_who_can_tell_the_order_of_earlier_tokens(
    n_layers: int, options: dict[str, Any], blind: bool
) -> None:
    model = build_language_model(transformer(n_layers, 0.5, **options), seed=1)
    plain, moved = logits(model, list(range(8))), logits(model, ORDER)
    assert torch.allclose(plain[5:], moved[5:], atol=1e-4) is blind
    assert not torch.allclose(plain[:5], moved[:5], atol=1e-4)


def test_of_the_convolution_only_earlier_taps_tell_order() -> None:
    model: Any = build_language_model(
        transformer(1, 0.5, positions="none", convolution=True), seed=1
    )
    kernel = model.layers[0].mixer.conv.weight
    assert kernel.shape == (32 + 32 + 64, 4)
    with torch.no_grad():
        kernel[:, :-1] = 0
    torch.testing.assert_close(logits(model, list(range(8)))[5:], logits(model, ORDER)[5:])


@pytest.mark.parametrize("n_layers", [2, 7])
@pytest.mark.parametrize("convolution", [False, True])
def test_sizes_by_hand(n_layers: int, convolution: bool) -> None:
    config = transformer(n_layers, 1.0, convolution=convolution)
    model = build_language_model(config, seed=0)
    attention = 32 * (32 + 32 + 64) + 64 * 32 + (128 * 4 + 128 if convolution else 0)
    layer = attention + 2 * 32 * 32 + 4 * 32  # the feed-forward maps, a norm with bias after each
    ends = 201 * 32 + 8 * 32 + 32 * 201  # embedding, positions, a head of its own
    assert sum(p.numel() for p in model.parameters()) == n_layers * layer + ends


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
def test_gamma_is_the_scale_of_all_maps_but_the_kernels(gamma: float) -> None:
    model: Any = build_language_model(transformer(3, gamma, convolution=True), seed=0)
    attention, feed = model.layers[0].mixer, model.layers[1].mixer
    for weight, width in (
        (model.embedding.weight, 32), (model.head.weight, 32), (model.positions.weight, 32),
        (attention.in_proj.weight, 32), (attention.out_proj.weight, 64),
        (feed.in_proj.weight, 32), (feed.out_proj.weight, 32),
    ):  # fmt: skip
        assert float(weight.detach().std()) == pytest.approx(width**-gamma, rel=0.12)
    kernel = attention.conv.weight.detach()  # as nn.Conv1d draws it: 4 taps, one channel
    assert float(kernel.abs().max()) <= 0.5 and float(kernel.std()) == pytest.approx(
        0.5 / math.sqrt(3), rel=0.1
    )


def test_every_sum_is_normed_and_nothing_else() -> None:
    """Fig. 1: what leaves attention, and what leaves the feed-forward map, has a mean of 0 and a
    mean square of 1 ("LN" is layer normalization there); what the head reads is that of the last.
    """
    model: Any = build_language_model(transformer(2, 0.5, convolution=True), seed=0)
    with torch.no_grad(), record_activations(model, "resid") as found:
        said = model(TOKENS)
    assert len(found) == 4
    for value in found.values():
        torch.testing.assert_close(value.mean(-1), torch.zeros(1, 8), rtol=0, atol=1e-5)
        torch.testing.assert_close(value.square().mean(-1), torch.ones(1, 8), rtol=1e-3, atol=0)
    torch.testing.assert_close(said, found["layers.3.resid"] @ model.head.weight.T)


# -- runs ------------------------------------------------------------------------------------


def tiny(name: str, gamma: float = 0.5, n_layers: int = 1, seed: int = 1) -> CompositeCell:
    found = next(c for c in paper(name) if (c.model.initialisation.gamma, c.seed) == (gamma, seed))
    return runs.shrunk(found, n_layers=2 * n_layers)


@NAMES
def test_a_real_quick_cell_runs_in_seconds_onto_the_pages_map(name: str, kernel: str) -> None:
    experiment = find(name)
    outcomes = runs.run(experiment, cells_of(experiment, "quick")[2:4])  # two seeds
    records = [runs.record(experiment, outcome) for outcome in outcomes]
    assert sum(outcome.facts["training_seconds"] for outcome in outcomes) < 60
    assert [keeps_weights(o.cell) for o in outcomes] == [True, False]
    assert [o.weights is not None for o in outcomes] == [True, False]
    made = diagram(name, "quick", records)
    assert made.frame[["block", "n_layers", "gamma", "seed"]].to_numpy().tolist() == [
        ["attention", 2, 1.0, 1], ["attention", 2, 1.0, 2],
    ]  # fmt: skip
    metrics = ["best_composite", "best_symmetric", "final_composite", "final_symmetric"]
    for metric in metrics:
        values = [outcome.metrics[metric] or 0.0 for outcome in outcomes]
        assert all(0 <= value <= 1 for value in values)
        shown = made.map(metric)
        assert shown.seeds == 2 and int(shown.done.loc[2, 1.0]) == 2
        assert shown.mean.loc[2, 1.0] == pytest.approx(sum(values) / 2)
        assert shown.mean.notna().sum().sum() == 1
    reference = load_reference("achilles_transformer")
    assert figures.against(made, reference, "paper", metrics, "title").data


@NAMES
def test_cells_of_one_depth_trained_together_are_the_cells_alone(name: str, kernel: str) -> None:
    cells = [tiny(name, gamma, seed=seed) for gamma, seed in ((0.5, 1), (0.5, 2), (1.5, 1))]
    found = runs.together_and_alone(find(name), cells)
    assert len({tuple(o.curves["train_loss"]) for o in found if o.curves is not None}) == 3


def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [tiny(CONVOLVED, seed=seed) for seed in (1, 2)]
    runs.killed_and_resumed(find(CONVOLVED), cells, tmp_path, monkeypatch)


def test_everything_that_can_train_does(tmp_path: Path) -> None:
    experiment, store = find(CONVOLVED), Store(tmp_path, tmp_path / "published")
    (outcome,) = runs.run(experiment, [tiny(CONVOLVED)])
    record = runs.record(experiment, outcome, store)
    model, cell = load_model(record)
    start = build_language_model(cell.model, seed=cell.seed).state_dict()
    assert len(start) == 13  # two ends, positions, 2 + 2 + a norm's 2, 2 + a norm's 2
    for name, value in model.state_dict().items():
        assert not torch.equal(value, start[name]), name
    assert experiment.reevaluate is not None
    again = experiment.reevaluate(record)
    assert {"final_composite", "final_symmetric", "final_seen", "pair_43"} <= again.keys()
    assert again == {name: outcome.metrics[name] for name in again}


# -- claims ----------------------------------------------------------------------------------


def test_claims_select_whole_regions_in_layers_as_the_paper_counts(root: Path) -> None:
    selected = runs.claims_about(root, find(CONVOLVED))
    deep = (3, 4, 5, 6, 7)
    regions = {
        "small-gamma": (deep, (0.1, 0.2)), "middle-gamma": (deep, (0.4, 0.5, 0.6, 0.7, 0.8)),
        "large-gamma": (deep, (0.9, 1.0, 1.5, 2.0)), "symmetric": (deep, (0.9, 1.0, 1.5, 2.0)),
        "two-layers": ((2,), GAMMAS), "two-layers-small-gamma": ((2,), (0.1, 0.2)),
        "exception-l2-g0.2": ((2,), (0.2,)), "exception-l2-g0.3": ((2,), (0.3,)),
        "exception-l3-g0.3": ((3,), (0.3,)),
    }  # fmt: skip
    assert selected.keys() == {f"{CONVOLVED}.{ending}" for ending in regions}
    for ending, (rows, columns) in regions.items():
        places = [
            (c.model.n_layers // 2, c.model.initialisation.gamma, c.seed)
            for c in selected[f"{CONVOLVED}.{ending}"]
        ]
        assert places == list(itertools.product(rows, columns, (1, 2, 3)))
    (outcome,) = runs.run(find(CONVOLVED), [tiny(CONVOLVED)])
    for metric in runs.metrics_of_claims(root, find(CONVOLVED)):
        value = outcome.metrics[metric]
        assert value is not None and 0 <= value <= 1


@pytest.mark.parametrize(
    ("ending", "rows", "columns"),
    [
        ("small-gamma", [3, 4, 5, 6, 7], [0.1, 0.2]),
        ("middle-gamma", [3, 4, 5, 6, 7], [0.4, 0.5, 0.6, 0.7, 0.8]),
        ("large-gamma", [3, 4, 5, 6, 7], [0.9, 1.0, 1.5, 2.0]),
        ("two-layers", [2], list(GAMMAS)),
        ("two-layers-small-gamma", [2], [0.1, 0.2]),
    ],
)
def test_claims_quote_the_published_map(
    root: Path, ending: str, rows: list[int], columns: list[float]
) -> None:
    quoted = runs.claim(root, f"{CONVOLVED}.{ending}")
    published = load_reference("achilles_transformer").maps[quoted.metric]
    mean = published.loc[rows, columns].to_numpy().mean()
    assert quoted.value == pytest.approx(mean, abs=0.0051)
