from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from lib.analysis.activations import record_activations
from lib.analysis.reference import load_reference
from lib.config import to_dict
from lib.experiments import Context, cells_of, find
from lib.experiments.achilles import CompositeCell
from lib.experiments.phase_diagram import GAMMAS, LAYERS, run_diagram
from lib.experiments.transformer import CONVOLVED, PLAIN, POINTWISE, SEEDS, transformer
from lib.models.language_model import LanguageModel, build_language_model
from lib.store import Record, identity
from lib.tasks.composite import CompositeTask
from lib.training.config import TrainingConfig

NAMES = {CONVOLVED: True, PLAIN: False}


def place(cell: CompositeCell) -> tuple[int, float | None, int]:
    return cell.model.n_layers // 2, cell.model.initialisation.gamma, cell.seed


def test_the_diagrams_have_the_papers_axes() -> None:
    found = []
    for name, convolution in NAMES.items():
        cells = cells_of(find(name), "paper")
        assert [place(cell) for cell in cells] == list(itertools.product(LAYERS, GAMMAS, SEEDS))
        for cell in cells:
            assert cell.task == CompositeTask() and cell.training == TrainingConfig()
            assert cell.model == transformer(*place(cell)[:2], convolution=convolution)
        found += [identity(name, 1, to_dict(cell)) for cell in cells]
        assert cells_of(find(name), "matched") == []
    cells = cells_of(find(POINTWISE), "paper")
    assert [place(cell) for cell in cells] == list(itertools.product([2], GAMMAS, SEEDS))
    twins = {place(cell): cell for cell in cells_of(find(CONVOLVED), "paper")}
    for cell in cells:
        twin = twins[place(cell)]
        assert dataclasses.replace(cell, model=twin.model) == twin
        assert cell.model == transformer(*place(cell)[:2], convolution=True, taps=1)
    assert find(POINTWISE).readable(cells[0]) == "attention-L2-g0.1-conv-taps1-learned-s1"
    found += [identity(POINTWISE, 1, to_dict(cell)) for cell in cells]
    assert len(set(found)) == len(found) == 468
    for values in load_reference("achilles_transformer").maps.values():
        assert sorted(values.index) == list(LAYERS) and list(values.columns) == list(GAMMAS)


def built(**options: Any) -> LanguageModel:
    return build_language_model(transformer(2, 0.7, **options), seed=0)


def test_the_convolution_is_all_that_differs() -> None:
    with_it, without = built(convolution=True), built()
    sizes = [
        {name: tuple(p.shape) for name, p in model.named_parameters()}
        for model in (with_it, without)
    ]
    extra = {name for name in sizes[0] if name not in sizes[1]}
    assert extra == {f"layers.{k}.mixer.conv.{part}" for k in (0, 2) for part in ("weight", "bias")}
    assert {k: v for k, v in sizes[0].items() if k not in extra} == sizes[1]
    # queries, keys and values: 32 + 32 + 64 channels
    assert sizes[0]["layers.0.mixer.conv.weight"] == (128, 4)


def test_one_tap_bends_and_shifts_and_reads_no_other_token() -> None:
    """All that comes with the convolution, but for the other tokens."""
    one = built(convolution=True, taps=1)
    conv = one.layers[0].mixer.conv
    assert conv is not None and conv.weight.shape == (128, 1) and conv.bias.shape == (128,)
    x = torch.randn(2, 8, 128, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 3] += 1.0
    with torch.no_grad():
        (before, _), (after, _) = (conv(given, None, False) for given in (x, changed))
    expected = torch.nn.functional.silu(x * conv.weight[:, 0] + conv.bias)
    torch.testing.assert_close(before, expected)
    moved = (before != after).any(-1).any(0)
    assert moved.tolist() == [t == 3 for t in range(8)]


def test_one_head_values_twice_as_wide_and_a_norm_after_each_sum() -> None:
    model = built(convolution=True)
    mixer = model.layers[0].mixer
    assert mixer.config.n_heads == 1
    assert model.layers[0].mixer.out_proj.in_features == 64
    tokens = torch.randint(0, 201, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), record_activations(model) as found:
        model(tokens)
    for number in range(len(model.layers)):  # normed: the mean square is that of the norm's weight
        out = found[f"layers.{number}.resid"]
        torch.testing.assert_close(out.square().mean(-1), torch.ones(3, 8), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("convolution", [True, False])
def test_order_is_told_by_positions_or_by_the_convolution_alone(convolution: bool) -> None:
    """Without both, the last token sees the earlier ones as a set."""
    tokens = torch.tensor([[20, 30, 40, 50, 60, 70, 3, 4]])
    swapped = tokens[:, [2, 0, 1, 5, 4, 3, 6, 7]]
    # one attention layer: a second would see what the first made of each token's own past
    with torch.no_grad():
        one = transformer(1, 0.7, convolution=convolution, positions="none")
        model = build_language_model(one, seed=0)
        same = torch.allclose(model(tokens)[:, -1], model(swapped)[:, -1], atol=1e-5)
    assert same == (not convolution)


def test_quick_cells_run_as_ensembles_and_become_a_frame() -> None:
    cells = cells_of(find(CONVOLVED), "quick")
    assert len(cells) == 8 and {cell.model.n_layers for cell in cells} == {4, 6}
    small = [
        dataclasses.replace(
            cell,
            task=CompositeTask(train_per_pair=20, test_per_pair=5),
            training=TrainingConfig(epochs=1, warmup_epochs=1, batch_size=60),
        )
        for cell in cells[:4]
    ]
    outcomes = {o.cell: o for o in run_diagram(small, Context(ensemble=4))}
    records = []
    for cell in small:
        outcome = outcomes[cell]
        assert outcome.status == "done" and outcome.facts["ensemble"]["runs"] == 4
        metrics = {k: v for k, v in outcome.metrics.items() if v is not None}
        records.append(
            Record(CONVOLVED, 1, to_dict(cell), find(CONVOLVED).readable(cell), "done", metrics, {})
        )
    frame = find(CONVOLVED).frame(records)
    assert frame[["n_layers", "gamma", "seed"]].to_numpy().tolist() == [
        [2, 0.3, 1], [2, 0.3, 2], [2, 1.0, 1], [2, 1.0, 2],
    ]  # fmt: skip
    assert set(frame["block"]) == {"attention"}
    assert frame["best_composite"].between(0, 1).all()


def test_a_transformer_that_cannot_be_says_so() -> None:
    with pytest.raises(ValueError, match="n_layers is 0, allowed: "):
        transformer(0, 0.5)
    with pytest.raises(ValueError, match="gamma is -1"):
        transformer(1, -1)
    with pytest.raises(ValueError, match="length is 9, allowed: up to max_length 8"):
        built()(torch.zeros(1, 9, dtype=torch.int64))
