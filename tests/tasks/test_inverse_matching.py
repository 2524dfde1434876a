"""The inverse matching task: every property read out of the tokens alone."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config import from_dict, to_dict
from lib.tasks.inverse_matching import InverseTask, Matching, MatchingTests, build

SMALL = InverseTask(train_samples=400, test_samples=150, ood_samples=150)


@pytest.fixture(scope="module")
def paper() -> tuple[Matching, MatchingTests]:
    return build(InverseTask(), seed=1)


def read(task: InverseTask, tokens: list[int]) -> tuple[list[list[int]], list[int], list[int]]:
    """Listed orders, fillers (separators and blanks) and query of one sequence."""
    step = task.set_size + 1
    listed = [tokens[step * k : step * k + task.set_size] for k in range(task.listed)]
    separators = [tokens[step * k + task.set_size] for k in range(task.listed)]
    end = step * task.listed
    return (
        listed,
        separators + tokens[end : end + 3 * task.layers],
        tokens[end + 3 * task.layers :],
    )


def test_the_paper_s_sizes(paper: tuple[Matching, MatchingTests]) -> None:
    train, tests = paper
    assert (len(train), len(tests.test), len(tests.ood)) == (80_000, 10_000, 10_000)
    assert [InverseTask(layers=n).length for n in (1, 2, 5)] == [26, 29, 38]
    assert train.tokens.shape == (80_000, 29) and train.tokens.dtype == torch.int64
    assert InverseTask().largest_token == 200


def test_ranges_and_residues(paper: tuple[Matching, MatchingTests]) -> None:
    train, tests = paper
    assert set(train.tokens.unique().tolist()) == set(range(20, 101))
    assert set(tests.test.tokens.unique().tolist()) == set(range(20, 101))
    assert set(tests.ood.tokens.unique().tolist()) == set(range(101, 201))

    def equal(split: Matching) -> torch.Tensor:
        residues = split.tokens[:, -3:] % 3  # the query holds the whole set
        return (residues == residues[:, :1]).all(1)

    assert not equal(train).any() and equal(tests.test).all()
    # without a constraint, as many are equal as of all sets of 101..200
    share = (2 * math.comb(33, 3) + math.comb(34, 3)) / math.comb(100, 3)
    assert equal(tests.ood).double().mean() == pytest.approx(share, abs=0.01)


def test_all_answers_and_orders_are_equally_likely(paper: tuple[Matching, MatchingTests]) -> None:
    train, tests = paper
    for split in (train, tests.test, tests.ood):
        shares = torch.bincount(split.labels)[1:] / len(split)
        assert len(shares) == 5 and (shares - 0.2).abs().max() < 0.015
    ranks = train.tokens[:, -3:].argsort(1).argsort(1) @ torch.tensor([100, 10, 1])
    shares = Counter(ranks.tolist())
    assert set(shares) == {12, 21, 102, 120, 201, 210}
    assert max(abs(n / 80_000 - 1 / 6) for n in shares.values()) < 0.01
    # the query is listed as it stands in four of five sequences, which tempts to match forwards
    forward = (train.listed == train.tokens[:, None, -3:]).all(-1).any(-1)
    assert forward.double().mean() == pytest.approx(0.8, abs=0.01)


def test_tokens_of_test_sets_are_drawn_evenly(paper: tuple[Matching, MatchingTests]) -> None:
    counts = torch.bincount(paper[1].test.elements.flatten())[20:].double()
    assert len(counts) == 81  # 27 of each residue: each token in 30,000 / 81 sets
    assert (counts / counts.mean() - 1).abs().max() < 0.25


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(2, 4), listed=st.integers(1, 6), layers=st.integers(1, 4),
    residue=st.integers(2, 5), repeat=st.booleans(), in_set=st.booleans(),
    top=st.integers(95, 101), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_any_variant_is_consistent(
    size: int, listed: int, layers: int, residue: int, repeat: bool, in_set: bool, top: int,
    seed: int,
) -> None:  # fmt: skip
    task = InverseTask(
        layers=layers, set_size=size, listed=min(listed, 2 if size == 2 else 6),
        token_max=top, ood_min=102, residue_modulus=residue, fillers_repeat=repeat,
        blanks_in_set=in_set, train_samples=25, test_samples=15, ood_samples=15,
    )  # fmt: skip
    train, tests = build(task, seed)
    for name, split in {"train": train, **vars(tests)}.items():
        assert split.tokens.shape == (15 if split is not train else 25, task.length)
        for row, tokens in enumerate(split.tokens.tolist()):
            orders, fillers, query = read(task, tokens)
            members = set(query)
            assert len(members) == size and split.elements[row].tolist() == sorted(members)
            assert all(set(order) == members for order in orders)
            assert len({tuple(order) for order in orders}) == task.listed
            assert orders.index(query[::-1]) + 1 == split.labels[row]
            assert split.listed[row].tolist() == orders
            assert split.answer[row].tolist() == query[::-1]
            inside = fillers[: task.listed] if in_set else fillers
            assert not members & set(inside)
            assert repeat or len(set(fillers)) == len(fillers)
            residues = len({token % residue for token in members})
            assert (residues == 1) if name == "test" else (name == "ood" or residues > 1)
            low, high = (102, 200) if name == "ood" else (20, top)
            assert low <= min(tokens) and max(tokens) <= high <= task.largest_token


def test_fillers_may_be_what_the_fields_allow() -> None:
    def fillers(**change: bool) -> tuple[bool, bool]:
        task = dataclasses.replace(SMALL, **change)
        rows = build(task, 0)[0].tokens.tolist()
        found = [read(task, row) for row in rows]
        repeated = any(len(set(f)) < len(f) for _, f, _ in found)
        return repeated, any(set(f[5:]) & set(q) for _, f, q in found)

    assert fillers() == (True, False)
    assert fillers(fillers_repeat=False) == (False, False)
    assert fillers(blanks_in_set=True) == (True, True)
    assert fillers(fillers_repeat=False, blanks_in_set=True) == (False, True)


def test_seed_decides_the_data_and_splits_have_their_own_streams() -> None:
    (train, tests), (again, _), (other, _) = build(SMALL, 3), build(SMALL, 3), build(SMALL, 4)
    for name, value in vars(train).items():
        assert torch.equal(value, getattr(again, name))
    assert not torch.equal(train.tokens, other.tokens)
    larger = build(dataclasses.replace(SMALL, train_samples=500, test_samples=200), 3)[1]
    assert torch.equal(larger.ood.tokens, tests.ood.tokens)
    assert not torch.equal(tests.ood.labels, tests.test.labels)


def test_parts_and_configs_travel() -> None:
    train, tests = build(SMALL, 0)
    assert torch.equal(tests.to("cpu").ood.tokens, tests.ood.tokens)
    assert len(train.take(slice(7))) == 7 and len(tests.to("meta").test.labels) == 150
    assert from_dict(InverseTask, to_dict(SMALL)) == SMALL
    assert to_dict(SMALL)["kind"] == "inverse_matching"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"set_size": 1}, r"InverseTask.set_size is 1, allowed: 2..5"),
        ({"set_size": 6}, r"InverseTask.set_size is 6, allowed: 2..5"),
        ({"listed": 7}, r"InverseTask.listed is 7, allowed: 1..6"),
        ({"listed": 0}, r"InverseTask.listed is 0"),
        ({"layers": 0}, r"InverseTask.layers is 0"),
        ({"blanks_per_layer": -1}, r"blanks_per_layer is -1"),
        ({"token_min": 5}, r"token_min is 5, allowed: at least 6"),
        ({"token_max": 22}, r"token_max is 22, allowed: at least 23: sequences need 4 tokens"),
        ({"token_max": 32, "fillers_repeat": False}, r"token_max is 32, allowed: at least 33"),
        ({"ood_min": 100}, r"ood_min is 100, allowed: at least 101"),
        ({"ood_max": 103}, r"ood_max is 103, allowed: at least 104"),
        ({"ood_max": 113, "fillers_repeat": False}, r"ood_max is 113, allowed: at least 114"),
        ({"residue_modulus": 1}, r"residue_modulus is 1, allowed: at least 2"),
        ({"residue_modulus": 41}, r"residue_modulus is 41: no 3 tokens of 20..100 .* test set"),
        ({"test_samples": 0}, r"test_samples is 0"),
    ],
)
def test_bad_settings_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InverseTask(**change)  # type: ignore[arg-type]
