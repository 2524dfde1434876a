"""The full symmetry task against the paper's text, and the composite task as it was before it."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.analysis.composite import rates, rates_by_pair, stacked
from lib.config import digest, from_dict, to_dict
from lib.tasks import composite
from lib.tasks.composite import CompositeTask, Split, third_party
from lib.tasks.full_symmetry import PAIRS, SymmetryTask, build
from lib.tasks.interventions import intervention_split, twin

SMALL = SymmetryTask(train_per_pair=30, test_per_pair=12)
# written out from the paper's text, pair by pair; 04, 40, 24, 42 with our second shift of anchor 4
PAIR_SHIFTS = {
    1: 7, 10: 7, 2: 3, 20: 3, 14: -3, 41: -3, 23: -1, 32: -1, 34: -10, 43: -10,
    3: -6, 30: -6, 12: -1, 21: -1, 13: 9, 31: 9, 4: -7, 40: -7, 24: -5, 42: -5,
}  # fmt: skip


def fingerprint(splits: tuple[Split, Split]) -> str:
    found = hashlib.sha256()
    for split in splits:
        for name, value in sorted(vars(split).items()):
            found.update(f"{name}{value.dtype}".encode())
            found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    ("task", "seed", "expected"),
    [
        (CompositeTask(train_per_pair=200, test_per_pair=40), 0, "cdcab13d2cce207a"),
        (CompositeTask(train_per_pair=200, test_per_pair=40), 3, "c9490ad2102d92b3"),
        (
            CompositeTask(length=9, pair_may_end=False, position_base=0,
                          train_per_pair=50, test_per_pair=10), 3, "ac355dd6b75ad791",
        ),
        (
            CompositeTask(noise_min=0, noise_max=99, modulus=100, position_base=0,
                          train_total=3_000, test_per_pair=20), 0, "9ccdbc1d00dd132e",
        ),
    ],
)  # fmt: skip
def test_composite_data_are_what_published_records_were_trained_on(
    task: CompositeTask, seed: int, expected: str
) -> None:
    assert fingerprint(composite.build(task, seed)) == expected


def test_composite_configs_keep_their_identity() -> None:
    assert digest(to_dict(CompositeTask())).startswith("41f95bf86748cca3")
    assert digest(to_dict(third_party())).startswith("f190149b7f9bc0a5")
    assert "kind" not in to_dict(CompositeTask())
    assert from_dict(SymmetryTask, to_dict(SMALL)) == SMALL


def test_the_paper_s_counts() -> None:
    task = SymmetryTask()
    assert len(task.rules.trained) == 19 and len(task.rules.pairs) == 20
    assert len(task.rules.trained) * task.train_per_pair == 256_500
    assert len(task.rules.pairs) * task.test_per_pair == 30_000
    train, test = build(SMALL, 1)
    seen = {pair for pair in PAIR_SHIFTS if pair != 43}
    assert Counter(train.pairs.tolist()) == dict.fromkeys(seen, 30)
    assert Counter(test.pairs.tolist()) == dict.fromkeys(PAIR_SHIFTS, 12)


@given(
    seed=st.integers(0, 1000), length=st.integers(4, 10), base=st.integers(0, 1), end=st.booleans()
)
def test_labels_and_places_by_hand(seed: int, length: int, base: int, end: bool) -> None:
    task = SymmetryTask(
        length=length, position_base=base, pair_may_end=end, train_per_pair=4, test_per_pair=3
    )
    for split, equal in zip(build(task, seed), (False, True), strict=True):
        for tokens, label, mirrored in zip(
            split.tokens.tolist(), split.labels.tolist(), split.symmetric.tolist(), strict=True
        ):
            # noise starts at 20: the two anchors, 0 among them, are the only small tokens
            (first, second) = [i for i, token in enumerate(tokens) if token < 20]
            key, pair = tokens[first - 1], 10 * tokens[first] + tokens[second]
            assert second == first + 1 < length - (0 if end else 1)
            assert label == mirrored == key + PAIR_SHIFTS[pair]
            assert (key % 8 == (first - 1 + base) % 8) == equal
        assert max(split.labels.max(), split.tokens.max()) <= task.largest_token == 108
        assert split.labels.min() >= 10


def test_only_43_can_be_answered_in_two_ways() -> None:
    _, test = build(SMALL, 2)
    assert torch.equal(test.composite != test.symmetric, test.where(43))
    assert (test.composite - test.keys)[test.where(43)].unique().tolist() == [5]
    # no pair has the shifts of our choice, so an answer tells which rule was used
    ours = {-7, -5, 5}
    assert not ours & {PAIR_SHIFTS[p] for p in PAIR_SHIFTS if p not in (4, 40, 24, 42)}


def test_each_anchor_stands_as_often_in_either_set() -> None:
    first = {pair for pair in PAIRS if 10 * pair[0] + pair[1] in
             (1, 10, 2, 20, 14, 41, 23, 32, 34, 43)}  # fmt: skip
    for pairs in (first, set(PAIRS) - first):
        assert Counter(a for pair in pairs for a in pair) == dict.fromkeys(range(5), 4)


def test_seeds_and_tasks_have_streams_of_their_own() -> None:
    again = [build(SMALL, seed)[0].tokens for seed in (3, 3, 4)]
    assert torch.equal(again[0], again[1]) and not torch.equal(again[0], again[2])
    other = composite.build(CompositeTask(train_per_pair=38, test_per_pair=15), 3)[0].tokens
    assert len(other) == len(again[0]) and (other == again[0]).float().mean() < 0.1


class Knows(torch.nn.Module):
    """Stands in for a model: has learnt all pairs, and answers 43 by the shift it is given."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shifts = {**PAIR_SHIFTS, 43: shift}

    def forward(self, tokens: torch.Tensor, last_token_only: bool) -> torch.Tensor:
        out = torch.zeros(len(tokens), 120)
        for row, sequence in enumerate(tokens.tolist()):
            at = next(i for i, token in enumerate(sequence) if token < 20)
            key, pair = sequence[at - 1], 10 * sequence[at] + sequence[at + 1]
            out[row, key + self.shifts[pair]] = 1.0
        return out


@pytest.mark.parametrize(("shift", "composed", "mirrored"), [(-10, 0, 1), (5, 1, 0), (-6, 0, 0)])
def test_rates_are_those_of_the_composite_task(shift: int, composed: int, mirrored: int) -> None:
    _, test = build(SMALL, 0)
    found = {k: float(v) for k, v in rates(Knows(shift), test).items()}
    assert found == {"composite": composed, "symmetric": mirrored, "seen": 1.0}
    by_pair = rates_by_pair(Knows(shift), test)
    assert by_pair["pair_34"] == by_pair["pair_04"] == 1 and by_pair["pair_43"] == mirrored
    assert stacked([test, test]).tokens.shape == (2, len(test), 8)


def test_interventions_use_the_pairs_of_the_task() -> None:
    split = intervention_split(SymmetryTask(key_max=27), 0)
    assert set(split.pairs.tolist()) == set(PAIR_SHIFTS)
    turned = twin(SymmetryTask(key_max=27), split, 4)
    assert torch.equal(turned.labels, split.keys - 7)
    with pytest.raises(ValueError, match=r"pair is 11, allowed: 01, 02"):
        twin(SymmetryTask(key_max=27), split, 11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second_shift_of_4": -13}, r"SymmetryTask.second_shift_of_4 is -13, allowed: any but"),
        ({"second_shift_of_4": -30}, r"SymmetryTask.key_min is 20: .* at least 39"),
        ({"key_min": 4}, r"SymmetryTask.key_min is 4, allowed: at least 5"),
        ({"train_total": 18}, r"train_total is 18, allowed: at least 19"),
        ({"residue_modulus": 200}, r"SymmetryTask.residue_modulus is 200: no key"),
    ],
)
def test_bad_settings_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SymmetryTask(**change)  # type: ignore[arg-type]
