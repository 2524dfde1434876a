"""Rates of models with known answers, and the yardsticks against lists and against built data."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache

import pytest
import torch

from lib.analysis.composite import answers
from lib.analysis.inverse_matching import parity, rates, stacked, yardsticks
from lib.models.config import LanguageModelConfig, Mamba2Config
from lib.models.language_model import build_language_model
from lib.tasks.inverse_matching import InverseTask, Matching, build
from lib.training.ensemble import Ensemble

SMALL = InverseTask(layers=1, train_samples=10, test_samples=60, ood_samples=40)


class Reads(torch.nn.Module):
    """Stands in for a model: matches the query to the list, reversed or as it stands."""

    def __init__(self, reverse: bool) -> None:
        super().__init__()
        self.reverse = reverse

    def forward(self, tokens: torch.Tensor, last_token_only: bool) -> torch.Tensor:
        assert last_token_only
        out = torch.zeros(len(tokens), 201)
        for row, sequence in enumerate(tokens.tolist()):
            wanted = sequence[:-4:-1] if self.reverse else sequence[-3:]
            listed = [sequence[4 * k : 4 * k + 3] for k in range(5)]
            out[row, listed.index(wanted) + 1 if wanted in listed else 0] = 1.0
        return out


def test_rates_of_known_models() -> None:
    _, tests = build(SMALL, 0)
    assert {k: float(v) for k, v in rates(Reads(True), tests).items()} == {"test": 1.0, "ood": 1.0}
    assert {k: float(v) for k, v in rates(Reads(False), tests).items()} == {"test": 0, "ood": 0}


def test_rates_of_an_ensemble_are_those_of_its_models() -> None:
    block = Mamba2Config(d_model=8, d_state=4, headdim=16)
    config = LanguageModelConfig(vocab_size=201, n_layers=1, pattern=(block,))
    models = [build_language_model(config, seed=s, device="cpu").eval() for s in (1, 2)]
    tests = [build(SMALL, seed)[1] for seed in (1, 2)]
    # untrained models are never right: let some answers be right by taking them for labels
    for index, (model, right) in enumerate(zip(models, (24, 13), strict=True)):
        labels = tests[index].ood.labels.clone()
        labels[:right] = answers(model, tests[index].ood.tokens)[:right]
        ood = dataclasses.replace(tests[index].ood, labels=labels)
        tests[index] = dataclasses.replace(tests[index], ood=ood)
    both = stacked(tests)
    assert both.ood.tokens.shape == (2, 40, SMALL.length) and both.ood.tokens.dtype == torch.uint8
    found = rates(Ensemble(models), both)
    for name, value in found.items():
        own = [float(rates(model, t)[name]) for model, t in zip(models, tests, strict=True)]
        assert value.shape == (2,) and value.tolist() == pytest.approx(own)
    assert found["ood"][0] >= 24 / 40 > found["ood"][1] >= 13 / 40


def test_yardsticks_of_the_paper() -> None:
    assert yardsticks(InverseTask()) == {
        "blind": 0.2, "parity": 0.4, "one position": 0.6, "all": 1.0,
    }  # fmt: skip


@cache
def sign(ranks: tuple[int, ...]) -> int:
    return round(float(torch.linalg.det(torch.eye(len(ranks))[list(ranks)])))


def told(name: str, order: tuple[int, ...]) -> object:
    ranks = tuple(sorted(order).index(token) for token in order)
    return {
        "blind": None,
        "parity": sign(ranks),
        "one position": order[-1],
        "all": order,
    }[name]


@pytest.mark.parametrize(("size", "listed"), [(2, 1), (2, 2), (3, 2), (3, 4), (3, 6), (4, 3)])
def test_yardsticks_list_by_list(size: int, listed: int) -> None:
    orders = list(itertools.permutations(range(size)))
    lists = list(itertools.combinations(orders, listed))
    for name, value in yardsticks(InverseTask(set_size=size, listed=listed)).items():
        # each of `listed` answers is asked for equally often; one answer per thing told is right
        right = sum(len({told(name, order) for order in each}) for each in lists)
        assert value == pytest.approx(right / (listed * len(lists)))


def guessed(name: str, split: Matching) -> float:
    """Accuracy of an observer that picks the first listed order it cannot rule out."""
    right = 0
    for listed, answer, label in zip(
        split.listed.tolist(), split.answer.tolist(), split.labels.tolist(), strict=True
    ):
        known = told(name, tuple(answer))
        right += [told(name, tuple(order)) == known for order in listed].index(True) + 1 == label
    return right / len(split)


def test_yardsticks_are_what_observers_reach_on_built_data() -> None:
    _, tests = build(InverseTask(train_samples=1, test_samples=3_000, ood_samples=3_000), 5)
    expected = yardsticks(InverseTask())
    for part in (tests.test, tests.ood):
        for name, value in expected.items():
            assert guessed(name, part) == pytest.approx(value, abs=0.035)


def test_parity_and_its_turn_under_reversal() -> None:
    assert [parity(o) for o in itertools.permutations(range(3))] == [0, 1, 1, 0, 0, 1]
    assert all(parity(o) != parity(o[::-1]) for o in itertools.permutations(range(3)))
