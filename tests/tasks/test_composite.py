"""The data of the composite task against independent rules, counted and checked one by one."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.tasks.composite import CompositeTask, Split, build, third_party

SMALL = CompositeTask(train_per_pair=200, test_per_pair=40)
# written out from the paper's text, not from the code
PAIR_SHIFTS = {
    11: 10, 12: 6, 13: 3, 14: -3, 21: 6, 22: 2, 23: -1, 24: -7,
    31: 3, 32: -1, 33: -4, 34: -6, 41: -3, 42: -7, 44: -16,
}  # fmt: skip


@pytest.fixture(scope="module")
def paper() -> tuple[Split, Split]:
    return build(CompositeTask(), seed=1)


def test_the_paper_s_counts(paper: tuple[Split, Split]) -> None:
    train, test = paper
    assert len(train) == 253_125 and len(test) == 30_000
    assert Counter(train.pairs.tolist()) == dict.fromkeys(PAIR_SHIFTS, 16_875)
    assert Counter(test.pairs.tolist()) == dict.fromkeys([*PAIR_SHIFTS, 43], 1_875)
    assert train.tokens.shape == (253_125, 8) and train.tokens.dtype == torch.int64


def test_every_training_label_by_hand(paper: tuple[Split, Split]) -> None:
    for split in paper:
        for tokens, label, pair in zip(
            split.tokens[::97].tolist(), split.labels[::97].tolist(), split.pairs[::97].tolist(),
            strict=True,
        ):  # fmt: skip
            first, second = divmod(pair, 10)
            # noise starts at 20, so the anchors are the only small tokens and the key precedes them
            (start,) = [i for i in range(7) if tokens[i] == first and tokens[i + 1] == second]
            assert sum(token < 20 for token in tokens) == 2
            expected = -10 if pair == 43 else PAIR_SHIFTS[pair]
            assert label == tokens[start - 1] + expected


def test_labels_of_the_held_out_pair(paper: tuple[Split, Split]) -> None:
    _, test = paper
    held_out = test.where(43)
    keys = test.keys[held_out]
    assert torch.equal(test.composite[held_out], keys - 10)
    assert torch.equal(test.symmetric[held_out], keys - 6)
    assert not (test.composite == test.symmetric)[held_out].any()
    assert 43 not in paper[0].pairs


def test_splits_never_share_a_residue_class(paper: tuple[Split, Split]) -> None:
    train, test = paper
    assert ((train.keys % 8) != (train.index + 1) % 8).all()
    assert ((test.keys % 8) == (test.index + 1) % 8).all()
    classes = [{*zip((s.keys % 8).tolist(), s.index.tolist(), strict=True)} for s in paper]
    assert not classes[0] & classes[1]


def test_keys_noise_and_places_cover_their_ranges(paper: tuple[Split, Split]) -> None:
    train, test = paper
    assert set(train.index.tolist()) == set(range(6)) == set(test.index.tolist())
    assert set(train.keys.tolist()) == set(range(20, 100))
    assert train.tokens[train.tokens > 4].min() == 20 and train.tokens.max() == 99
    # the paper's worked example: key 33 (33 mod 8 = 1) may not be first in training
    assert not ((train.keys == 33) & (train.index == 0)).any()
    assert ((test.keys == 33) & (test.index == 0)).any()


def test_seed_decides_the_data_and_splits_have_their_own_streams() -> None:
    again = [build(SMALL, 3), build(SMALL, 3), build(SMALL, 4)]
    assert torch.equal(again[0][0].tokens, again[1][0].tokens)
    assert not torch.equal(again[0][0].tokens, again[2][0].tokens)
    larger = dataclasses.replace(SMALL, train_per_pair=300)
    assert torch.equal(build(larger, 3)[1].tokens, again[0][1].tokens)


def test_third_party_variant() -> None:
    train, test = build(third_party(), seed=42)
    assert len(train) == 300_000 and len(test) == 16 * 1_800
    counts = Counter(train.pairs.tolist())
    assert set(counts) == set(PAIR_SHIFTS) and len(set(counts.values())) > 1
    assert train.labels.min() >= 0 and train.labels.max() <= 99
    shifts = torch.tensor([PAIR_SHIFTS[p] for p in train.pairs.tolist()])
    assert torch.equal(train.labels, (train.keys + shifts) % 100)
    assert ((train.keys % 8) != train.index).all() and ((test.keys % 8) == test.index).all()
    # its noise holds stray anchors, which the paper's does not
    assert ((train.tokens >= 1) & (train.tokens <= 4)).sum(1).float().mean() > 2.1


@given(
    length=st.integers(4, 12),
    base=st.sampled_from([0, 1]),
    may_end=st.booleans(),
    residue=st.integers(2, 12),
    seed=st.integers(0, 1000),
)
def test_any_variant_is_consistent(
    length: int, base: int, may_end: bool, residue: int, seed: int
) -> None:
    task = CompositeTask(
        length=length, position_base=base, pair_may_end=may_end, residue_modulus=residue,
        train_per_pair=20, test_per_pair=10,
    )  # fmt: skip
    for split, equal in zip(build(task, seed), (False, True), strict=True):
        rows = torch.arange(len(split))
        assert torch.equal(split.tokens[rows, split.index], split.keys)
        found = 10 * split.tokens[rows, split.index + 1] + split.tokens[rows, split.index + 2]
        assert torch.equal(found, split.pairs)
        assert (split.index + 2).max() <= length - (1 if may_end else 2)
        match = split.keys % residue == (split.index + base) % residue
        assert match.all() if equal else not match.any()
        assert max(split.tokens.max(), split.labels.max()) <= task.largest_token


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 2}, r"length is 2, allowed: at least 3"),
        ({"length": 3, "pair_may_end": False}, r"length is 3, allowed: at least 4"),
        ({"key_min": 3}, r"key_min is 3"),
        ({"key_max": 10}, r"key_max is 10, allowed: at least 20"),
        ({"key_min": 10, "noise_min": 10}, r"labels would be negative"),
        ({"position_base": 2}, r"position_base is 2, allowed: 0..1"),
        ({"train_per_pair": 0}, r"train_per_pair is 0"),
        ({"train_total": 3}, r"train_total is 3, allowed: at least 15"),
        ({"modulus": 50}, r"modulus is 50, allowed: more than key_max 99"),
        ({"residue_modulus": 1}, r"residue_modulus is 1, allowed: at least 2"),
        ({"residue_modulus": 200}, r"no key of 20..99 may stand anywhere in test"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompositeTask(**change)  # type: ignore[arg-type]
