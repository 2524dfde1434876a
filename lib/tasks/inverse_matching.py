"""The inverse sequence matching task of "Achilles' Heel of Mamba" (arXiv 2509.17514, App. C.2).

A set of three tokens is written down in five of its six orders, each followed by a token from
outside the set. After some blanks comes a query: one of the five, reversed. The answer is which
one. The paper's example (Fig. 3), here with separators x and blanks _ in place of numbers::

    1: 28 37 92 x   2: 92 28 37 x   3: 37 28 92 x   4: 37 92 28 x   5: 28 92 37 x
    _ _ _ _ _ _     query: 28 92 37     label 4, for 28 92 37 is 37 92 28 reversed

(set {28, 92, 37}, answer and query are the paper's; the other four orders are ours). A model that
matches forwards answers 5 here: the query itself is listed too in four of five sequences.

The blanks are as many as all convolutions together can look back, 3 a layer with kernels of 4, so
that the query cannot be matched by convolution alone. Training and test differ in the sets: three
tokens that are all equal modulo 3 make a test sequence and never a training sequence. In the third
split (``ood``) all tokens come from a range that training never shows.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lib.config import require

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class InverseTask:
    """Data of the task; the defaults are the paper's.

    Attributes:
        layers: layers of the model, which decide the number of blanks.
        set_size: tokens in the generating set.
        listed: how many of its orders a sequence lists; labels are 1..listed.
        blanks_per_layer: blanks for each layer, d_conv - 1.
        token_min, token_max: range of all tokens in training and test, both ends included. The
            paper says "from the range 20 to 100"; 99 leaves token 100 out.
        ood_min, ood_max: the same for the out-of-distribution split.
        residue_modulus: test sets are those whose tokens are all equal modulo this.
        train_samples, test_samples, ood_samples: sequences; 80, 10 and 10 % of 100,000.
        fillers_repeat: whether a separator or blank may occur twice in a sequence (unstated).
        blanks_in_set: whether a blank may be a token of the set; by the paper (Fig. 3) neither a
            blank nor a separator may.
    """

    kind: ClassVar[str] = "inverse_matching"

    layers: int = 2
    set_size: int = 3
    listed: int = 5
    blanks_per_layer: int = 3
    token_min: int = 20
    token_max: int = 100
    ood_min: int = 101
    ood_max: int = 200
    residue_modulus: int = 3
    train_samples: int = 80_000
    test_samples: int = 10_000
    ood_samples: int = 10_000
    fillers_repeat: bool = True
    blanks_in_set: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("layers", 1, None),
            ("set_size", 2, 5),
            ("listed", 1, math.factorial(min(max(self.set_size, 0), 5))),
            ("blanks_per_layer", 0, None),
            ("token_min", self.listed + 1, None),  # smaller ones are labels
            ("token_max", self.token_min, None),
            ("ood_min", self.token_max + 1, None),
            ("ood_max", self.ood_min, None),
            ("residue_modulus", 2, None),
            ("train_samples", 1, None),
            ("test_samples", 1, None),
            ("ood_samples", 1, None),
        ):
            value = getattr(self, name)
            fits = value >= low and (high is None or value <= high)
            require(self, name, fits, f"at least {low}" if high is None else f"{low}..{high}")
        taken = self.set_size if self.fillers_repeat else self.set_size + self.listed + self.blanks
        need = max(self.set_size + 1, taken)
        for name, least in (("token_max", self.token_min), ("ood_max", self.ood_min)):
            fits = getattr(self, name) >= least + need - 1
            require(self, name, fits, f"at least {least + need - 1}: sequences need {need} tokens")
        same = sum(math.comb(int(count), self.set_size) for count in self.classes)
        every = math.comb(int(self.classes.sum()), self.set_size)
        for split, count in (("test", same), ("training", every - same)):
            if not count:
                raise ValueError(
                    f"InverseTask.residue_modulus is {self.residue_modulus}: no {self.set_size} "
                    f"tokens of {self.token_min}..{self.token_max} may make a {split} set"
                )

    @property
    def blanks(self) -> int:
        """Tokens between the last separator and the query."""
        return self.blanks_per_layer * self.layers

    @property
    def length(self) -> int:
        """Tokens in a sequence: 29 for two layers."""
        return self.listed * (self.set_size + 1) + self.blanks + self.set_size

    @property
    def largest_token(self) -> int:
        """Largest token or label that can occur: the vocabulary must exceed it."""
        return max(self.ood_max, self.listed)

    @property
    def orders(self) -> np.ndarray:
        """All orders of the set as places in it, (set_size!, set_size)."""
        return np.array(list(itertools.permutations(range(self.set_size))))

    @property
    def classes(self) -> np.ndarray:
        """Tokens of training and test by residue, starting with that of token_min:
        (residue_modulus,)."""
        count = self.token_max - self.token_min + 1
        return (count + np.arange(self.residue_modulus)[::-1]) // self.residue_modulus


@dataclass(frozen=True)
class Matching:
    """Sequences with their answers; analysis finds here what would have to be read out of tokens.

    Attributes:
        tokens: (count, length) int64.
        labels: (count,) int64, number of the listed order that the query reverses, from 1.
        elements: (count, set_size) int64, the generating set in increasing order.
        listed: (count, listed, set_size) int64, the orders as they stand in the sequence.
        answer: (count, set_size) int64, the listed order that is asked for: the query reversed.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    elements: torch.Tensor
    listed: torch.Tensor
    answer: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Matching:
        """The same sequences on another device."""
        return Matching(**{name: value.to(device) for name, value in vars(self).items()})

    def take(self, rows: slice | torch.Tensor) -> Matching:
        """The sequences at `rows`: a slice, indices or a mask."""
        return Matching(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True)
class MatchingTests:
    """What a run is tested on.

    Attributes:
        test: known tokens in sets of a kind never trained.
        ood: tokens never trained, in any set.
    """

    test: Matching
    ood: Matching

    def to(self, device: torch.device | str) -> MatchingTests:
        """Both parts on another device."""
        return MatchingTests(self.test.to(device), self.ood.to(device))


def build(task: InverseTask, seed: int) -> tuple[Matching, MatchingTests]:
    """Training and test sequences. Each seed has its own streams, and so has each split."""
    streams = np.random.SeedSequence([seed, 0x1A]).spawn(3)
    train, test, ood = (np.random.Generator(np.random.PCG64(stream)) for stream in streams)
    known, unknown = (task.token_min, task.token_max), (task.ood_min, task.ood_max)
    return (
        _sequences(task, train, _mixed_sets(task, train, task.train_samples), known),
        MatchingTests(
            test=_sequences(task, test, _equal_sets(task, test, task.test_samples), known),
            ood=_sequences(task, ood, _any_sets(ood, *unknown, task, task.ood_samples), unknown),
        ),
    )


def _draw_others(
    rng: np.random.Generator, count: int | np.ndarray, taken: np.ndarray, width: int, repeats: bool
) -> np.ndarray:
    """Numbers below `count` (one for all rows, or one a row) that are not among the `taken` (rows,
    k), all equally likely: (rows, width), different from each other unless `repeats`."""
    found = np.empty((len(taken), width), dtype=np.int64)
    for column in range(width):
        out = taken if repeats else np.concatenate([taken, found[:, :column]], axis=1)
        value = rng.integers(0, count - out.shape[1], len(taken))
        # the value-th of those left: step over each smaller one that is out
        for other in np.sort(out, axis=1).T:
            value += value >= other
        found[:, column] = value
    return found


def _any_sets(
    rng: np.random.Generator, low: int, high: int, task: InverseTask, rows: int
) -> np.ndarray:
    """Sets of different tokens of low..high, (rows, set_size)."""
    nothing = np.empty((rows, 0), dtype=np.int64)
    return low + _draw_others(rng, high - low + 1, nothing, task.set_size, repeats=False)


def _mixed_sets(task: InverseTask, rng: np.random.Generator, rows: int) -> np.ndarray:
    """Training sets: not all equal modulo `residue_modulus`."""
    sets = _any_sets(rng, task.token_min, task.token_max, task, rows)
    while len(equal := np.flatnonzero(np.ptp(sets % task.residue_modulus, axis=1) == 0)):
        sets[equal] = _any_sets(rng, task.token_min, task.token_max, task, len(equal))
    return sets


def _equal_sets(task: InverseTask, rng: np.random.Generator, rows: int) -> np.ndarray:
    """Test sets: all equal modulo `residue_modulus`, each such set equally likely."""
    weights = np.array([math.comb(int(count), task.set_size) for count in task.classes], float)
    residue = rng.choice(task.residue_modulus, rows, p=weights / weights.sum())
    nothing = np.empty((rows, 0), dtype=np.int64)
    ranks = _draw_others(rng, task.classes[residue], nothing, task.set_size, repeats=False)
    return task.token_min + residue[:, None] + task.residue_modulus * ranks


def _sequences(
    task: InverseTask, rng: np.random.Generator, sets: np.ndarray, allowed: tuple[int, int]
) -> Matching:
    """Sequences around the given sets (rows, set_size), other tokens from `allowed`."""
    import torch

    rows = len(sets)
    sets = np.sort(sets, axis=1)
    orders = task.orders
    codes = rng.permuted(np.tile(np.arange(len(orders)), (rows, 1)), axis=1)[:, : task.listed]
    listed = sets[np.arange(rows)[:, None, None], orders[codes]]
    answer = rng.integers(0, task.listed, rows)
    asked = listed[np.arange(rows), answer]

    low, count = allowed[0], allowed[1] - allowed[0] + 1
    ranks, repeats = sets - low, task.fillers_repeat
    separators = _draw_others(rng, count, ranks, task.listed, repeats)
    out = [] if task.blanks_in_set else [ranks]
    out += [] if repeats else [separators]
    taken = np.concatenate(out, axis=1) if out else ranks[:, :0]
    blanks = _draw_others(rng, count, taken, task.blanks, repeats)

    keys = np.concatenate([listed, low + separators[:, :, None]], axis=2).reshape(rows, -1)
    tokens = np.concatenate([keys, low + blanks, asked[:, ::-1]], axis=1)
    return Matching(
        tokens=torch.from_numpy(tokens),
        labels=torch.from_numpy(answer + 1),
        elements=torch.from_numpy(sets),
        listed=torch.from_numpy(listed),
        answer=torch.from_numpy(asked),
    )
