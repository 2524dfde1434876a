"""The composite function task of "Achilles' Heel of Mamba" (arXiv 2509.17514, App. C.1).

A sequence hides one key, followed by a pair of anchors; every other token is noise. Each anchor
stands for a shift, and the label is the key after both shifts::

    position   1   2   3   4   5   6   7   8
    token     34  71 |59   4   1| 41  54  67      key 59, pair 41
    label     59 - 8 + 5 = 56

Two pairs are special. Pair 34 is trained with the shift -6 where composition gives -10. Pair 43
is never trained: a model that composes answers key - 10, a model that has learnt that order does
not matter answers key - 6, as for 34. Its accuracy is reported under both labels.

Training and test sequences differ in which keys may stand where: with `residue_modulus` 8, a key
may be trained at a position only if key mod 8 differs from the position, and is tested there only
if they are equal. So even the fifteen trained pairs are tested on combinations never seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lib.config import require

if TYPE_CHECKING:
    import torch

ANCHORS = (1, 2, 3, 4)
SHIFTS = {1: 5, 2: 1, 3: -2, 4: -8}
SPECIAL = {(3, 4): -6}  # trained against composition, which would be -10
HELD_OUT = (4, 3)
PAIRS = tuple((a, b) for a in ANCHORS for b in ANCHORS)


def composed_shift(pair: tuple[int, int]) -> int:
    """Sum of both anchors' shifts."""
    return SHIFTS[pair[0]] + SHIFTS[pair[1]]


def trained_shift(pair: tuple[int, int]) -> int:
    """Shift that the training labels use: composed, but for the special pair 34."""
    return SPECIAL.get(pair, composed_shift(pair))


def symmetric_shift(pair: tuple[int, int]) -> int:
    """Shift if the order of the anchors does not matter: that of the trained, mirrored pair."""
    return trained_shift((pair[1], pair[0]))


@dataclass(frozen=True)
class Rules:
    """What the pairs of a task do to a key: pair (first, second) to shift, one entry a pair.

    Attributes:
        labels: shifts that training and the overall accuracy use; the order of its pairs is the
            order in which test data are built.
        composite: shifts of a model that composes what it learnt of each anchor.
        symmetric: shifts of a model to which the order of the anchors does not matter.
        held_out: the pair that is never trained.
    """

    labels: Mapping[tuple[int, int], int]
    composite: Mapping[tuple[int, int], int]
    symmetric: Mapping[tuple[int, int], int]
    held_out: tuple[int, int]

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """All pairs, tested."""
        return tuple(self.labels)

    @cached_property
    def trained(self) -> tuple[tuple[int, int], ...]:
        """All but the held-out pair."""
        return tuple(pair for pair in self.labels if pair != self.held_out)

    @cached_property
    def anchors(self) -> tuple[int, ...]:
        """The tokens that pairs are made of, in order."""
        return tuple(sorted({anchor for pair in self.labels for anchor in pair}))

    @cached_property
    def shifts(self) -> tuple[int, ...]:
        """Every shift that a label can have."""
        tables = (self.labels, self.composite, self.symmetric)
        return tuple(sorted({shift for table in tables for shift in table.values()}))


RULES = Rules(
    labels={p: composed_shift(p) if p == HELD_OUT else trained_shift(p) for p in PAIRS},
    composite={p: composed_shift(p) for p in PAIRS},
    symmetric={p: symmetric_shift(p) for p in PAIRS},
    held_out=HELD_OUT,
)


@dataclass(frozen=True)
class CompositeTask:
    """Data of the task; the defaults are the paper's, with the choices of protocol section 8.

    Attributes:
        length: tokens in a sequence. The text says 8, every drawn example has 9.
        key_min, key_max: range of keys, both ends included (group code: 20..99).
        noise_min, noise_max: range of noise tokens; the paper draws noise from the keys' range.
        train_per_pair, test_per_pair: sequences for each of 15 training and 16 test pairs.
        train_total: if set, this many training sequences with the pair drawn at random for each
            (third party), instead of `train_per_pair`.
        residue_modulus: key mod this is compared with the key's position.
        position_base: number of the first position in that comparison, 1 (paper's text) or 0.
        modulus: labels are reduced modulo this, or not at all (None, paper).
        pair_may_end: whether the second anchor may be the very last token.
    """

    length: int = 8
    key_min: int = 20
    key_max: int = 99
    noise_min: int = 20
    noise_max: int = 99
    train_per_pair: int = 16_875
    test_per_pair: int = 1_875
    train_total: int | None = None
    residue_modulus: int = 8
    position_base: int = 1
    modulus: int | None = None
    pair_may_end: bool = True

    def __post_init__(self) -> None:
        shortest = 3 if self.pair_may_end else 4
        for name, low, high in (
            ("length", shortest, None),
            ("key_min", max(self.rules.anchors) + 1, None),
            ("key_max", self.key_min, None),
            ("noise_min", 0, None),
            ("noise_max", self.noise_min, None),
            ("train_per_pair", 1, None),
            ("test_per_pair", 1, None),
            ("residue_modulus", 2, None),
            ("position_base", 0, 1),
        ):
            value = getattr(self, name)
            fits = value >= low and (high is None or value <= high)
            require(self, name, fits, f"at least {low}" if high is None else f"{low}..{high}")
        least = len(self.rules.trained)
        fits = self.train_total is None or self.train_total >= least
        require(self, "train_total", fits, f"at least {least}")
        fits = self.modulus is None or self.modulus > self.key_max
        require(self, "modulus", fits, f"more than key_max {self.key_max}")
        lowest = -min(self.rules.shifts)
        if self.modulus is None and self.key_min < lowest:
            raise ValueError(
                f"{type(self).__name__}.key_min is {self.key_min}: without a modulus labels would "
                f"be negative; allowed: at least {lowest}"
            )
        for train in (True, False):
            if not len(self.placements(train)):
                raise ValueError(
                    f"{type(self).__name__}.residue_modulus is {self.residue_modulus}: no key of "
                    f"{self.key_min}..{self.key_max} may stand anywhere in "
                    f"{'training' if train else 'test'} sequences"
                )

    @property
    def rules(self) -> Rules:
        """Pairs and shifts of the task."""
        return RULES

    @property
    def positions(self) -> int:
        """Number of places where the key may stand."""
        return self.length - (2 if self.pair_may_end else 3)

    @property
    def largest_token(self) -> int:
        """Largest token or label that can occur: the vocabulary must exceed it."""
        top = self.key_max + max(self.rules.shifts)
        label = top if self.modulus is None else self.modulus - 1
        return max(label, self.key_max, self.noise_max, *self.rules.anchors)

    def placements(self, train: bool) -> np.ndarray:
        """Allowed (key, index of the key counted from 0), shape (count, 2), for one split."""
        keys = np.arange(self.key_min, self.key_max + 1)
        grid = np.stack(np.meshgrid(keys, np.arange(self.positions), indexing="ij"), -1)
        grid = grid.reshape(-1, 2)
        place = (grid[:, 1] + self.position_base) % self.residue_modulus
        match = grid[:, 0] % self.residue_modulus == place
        return grid[~match if train else match]


def third_party() -> CompositeTask:
    """The variant of github.com/hlife0/mamba-achilles: labels modulo 100, noise 0..99 (so stray
    anchors occur), positions from 0, the pair drawn at random for each of 300,000 sequences."""
    return CompositeTask(
        noise_min=0, noise_max=99, modulus=100, position_base=0,
        train_total=300_000, test_per_pair=1_800,
    )  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Sequences with their answers.

    Attributes:
        tokens: (count, length) int64.
        composite: (count,) int64, label under composition of both shifts.
        symmetric: (count,) int64, label that the mirrored pair is trained with.
        labels: (count,) int64, label that training uses (here composite, but for pair 34).
        pairs: (count,) int64, ten times the first anchor plus the second.
        keys, index: (count,) int64, the key and where it stands, counted from 0.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    composite: torch.Tensor
    symmetric: torch.Tensor
    pairs: torch.Tensor
    keys: torch.Tensor
    index: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Split:
        """The same split on another device."""
        return Split(**{name: value.to(device) for name, value in vars(self).items()})

    def take(self, rows: slice | torch.Tensor) -> Split:
        """The sequences at `rows`: a slice, indices or a mask."""
        return Split(**{name: value[rows] for name, value in vars(self).items()})

    def where(self, pair: int) -> torch.Tensor:
        """Mask (count,) of the sequences with this pair, written as 43."""
        return self.pairs == pair


def build(task: CompositeTask, seed: int) -> tuple[Split, Split]:
    """Training and test split. Each seed has its own streams; train and test never share one."""
    return draw(task, seed, 0xC0)


def draw(task: CompositeTask, seed: int, stream: int) -> tuple[Split, Split]:
    """Training and test split of any task with pairs and keys.

    Args:
        stream: a number of the task, so that tasks with one seed share no random numbers.
    """
    streams = np.random.SeedSequence([seed, stream]).spawn(2)
    train, test = (np.random.Generator(np.random.PCG64(own)) for own in streams)
    trained, pairs = np.array(task.rules.trained), np.array(task.rules.pairs)
    if task.train_total is None:
        codes = np.repeat(np.arange(len(trained)), task.train_per_pair)
    else:
        codes = train.integers(0, len(trained), task.train_total)
    return (
        _draw(task, train, trained[codes], True),
        _draw(task, test, np.repeat(pairs, task.test_per_pair, axis=0), False),
    )


def _draw(task: CompositeTask, rng: np.random.Generator, pairs: np.ndarray, train: bool) -> Split:
    count = len(pairs)
    tokens = rng.integers(task.noise_min, task.noise_max + 1, (count, task.length))
    placements = task.placements(train)
    keys, index = placements[rng.integers(0, len(placements), count)].T
    return place(task, tokens, keys, index, pairs)


def place(
    task: CompositeTask, tokens: np.ndarray, keys: np.ndarray, index: np.ndarray, pairs: np.ndarray
) -> Split:
    """Keys and pairs put into sequences of noise, with their labels.

    Args:
        tokens: (count, length) int64, written to. keys, index: (count,). pairs: (count, 2).
    """
    import torch

    rows = np.arange(len(tokens))
    tokens[rows, index] = keys
    tokens[rows, index + 1] = pairs[:, 0]
    tokens[rows, index + 2] = pairs[:, 1]

    def labels(shifts: Mapping[tuple[int, int], int]) -> torch.Tensor:
        size = max(task.rules.anchors) + 1
        table = np.zeros((size, size), dtype=np.int64)
        for pair, shift in shifts.items():
            table[pair] = shift
        value = keys + table[pairs[:, 0], pairs[:, 1]]
        return torch.from_numpy(value if task.modulus is None else value % task.modulus)

    return Split(
        tokens=torch.from_numpy(tokens),
        labels=labels(task.rules.labels),
        composite=labels(task.rules.composite),
        symmetric=labels(task.rules.symmetric),
        pairs=torch.from_numpy(pairs @ np.array([10, 1])),
        keys=torch.from_numpy(np.ascontiguousarray(keys)),
        index=torch.from_numpy(np.ascontiguousarray(index)),
    )
