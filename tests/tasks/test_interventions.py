"""Sequences of the interventions, against rules written out here."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lib.tasks.composite import CompositeTask, build, third_party
from lib.tasks.interventions import intervention_split, twin


@pytest.mark.parametrize(
    ("length", "may_end", "count"), [(8, True, 480), (8, False, 400), (9, False, 480)]
)
def test_every_key_at_every_place(length: int, may_end: bool, count: int) -> None:
    split = intervention_split(CompositeTask(length=length), 0, may_end)
    every = {10 * a + b for a in range(1, 5) for b in range(1, 5)}
    assert Counter(split.pairs.tolist()) == dict.fromkeys(every, count)
    assert split.tokens.shape == (16 * count, length) and split.tokens.dtype == torch.int64
    last = length - (1 if may_end else 2)
    for pair in (11, 43):
        one = split.take(split.where(pair))
        places = set(zip(one.keys.tolist(), one.index.tolist(), strict=True))
        assert places == {(key, at) for key in range(20, 100) for at in range(last - 1)}
    rows = torch.arange(len(split))
    for offset, expected in enumerate((split.keys, split.pairs // 10, split.pairs % 10)):
        assert torch.equal(split.tokens[rows, split.index + offset], expected)
    assert ((split.tokens < 20).sum(1) == 2).all() and split.tokens.max() < 100
    assert torch.equal(split.composite[split.where(43)], split.keys[split.where(43)] - 10)
    assert torch.equal(split.labels[split.where(34)], split.keys[split.where(34)] - 6)


def test_noise_is_seeded_and_nobody_else_s() -> None:
    task = CompositeTask(key_max=27, train_per_pair=5, test_per_pair=5)
    first, again, other = (intervention_split(task, seed).tokens for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(intervention_split(task, 1, repeats=3)) == 3 * len(first)
    assert len({tuple(row) for row in first.tolist()}) == len(first)
    drawn = {tuple(row) for split in build(task, 1) for row in split.tokens.tolist()}
    assert not drawn & {tuple(row) for row in first.tolist()}


def test_a_twin_differs_in_its_pair_alone() -> None:
    task = CompositeTask(key_max=27)
    split = intervention_split(task, 0)
    before = split.tokens.clone()
    other = twin(task, split)
    assert torch.equal(split.tokens, before)
    rows = torch.arange(len(split))
    tokens = split.tokens.clone()
    tokens[rows, split.index + 1], tokens[rows, split.index + 2] = 4, 3
    assert torch.equal(other.tokens, tokens) and (other.pairs == 43).all()
    assert torch.equal(other.keys, split.keys) and torch.equal(other.index, split.index)
    assert torch.equal(other.composite, split.keys - 10)
    assert torch.equal(other.symmetric, split.keys - 6)
    itself = split.where(43)
    assert torch.equal(other.tokens[itself], split.tokens[itself])
    back = twin(task, other.take(split.where(21)), 21)
    for name, value in vars(split.take(split.where(21))).items():
        assert torch.equal(getattr(back, name), value)


def test_labels_follow_the_task() -> None:
    task = third_party()
    split = intervention_split(task, 0).take(slice(None, None, 97))
    assert torch.equal(twin(task, split).composite, (split.keys - 10) % 100)


def test_misfits_are_named() -> None:
    with pytest.raises(ValueError, match=r"seed is -1, allowed: 0 or more"):
        intervention_split(CompositeTask(), -1)
    with pytest.raises(ValueError, match=r"repeats is 0, allowed: at least 1"):
        intervention_split(CompositeTask(), 0, repeats=0)
    with pytest.raises(ValueError, match=r"length is 3, allowed: at least 4"):
        intervention_split(CompositeTask(length=3), 0, pair_may_end=False)
    split = intervention_split(CompositeTask(), 0).take(slice(4))
    with pytest.raises(ValueError, match=r"pair is 50, allowed: 11, 12"):
        twin(CompositeTask(), split, 50)
