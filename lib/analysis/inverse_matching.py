"""What a model answers on the inverse matching task, and what little knowledge is worth there."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction

import torch
from torch import nn

from lib.analysis.composite import answers
from lib.tasks.inverse_matching import InverseTask, Matching, MatchingTests
from lib.training.batches import narrow

Order = tuple[int, ...]


def stacked(tests: Sequence[MatchingTests]) -> MatchingTests:
    """Test data of several runs as one, (runs, count, ...), in the smallest integers that hold it:
    for :func:`rates` of an ensemble."""

    def joined(parts: Sequence[Matching]) -> Matching:
        names = [field.name for field in dataclasses.fields(Matching)]
        return Matching(**{
            name: narrow(torch.stack([getattr(part, name) for part in parts])) for name in names
        })  # fmt: skip

    return MatchingTests(joined([t.test for t in tests]), joined([t.ood for t in tests]))


def rates(model: nn.Module, tests: MatchingTests) -> dict[str, torch.Tensor]:
    """Accuracies ``test`` and ``ood`` as float64 tensors on the device, () or, for an ensemble with
    :func:`stacked` data, (runs,). Nothing waits for the host, so a CUDA graph can hold it."""
    return {
        name: (answers(model, part.tokens) == part.labels).double().mean(-1)
        for name, part in (("test", tests.test), ("ood", tests.ood))
    }


def parity(order: Order) -> int:
    """0 for an even order of 0..n-1, 1 for an odd one: inversions modulo 2."""
    inversions = [order[i] > order[j] for i in range(len(order)) for j in range(i + 1, len(order))]
    return sum(inversions) % 2


# what an observer is told of the order that is asked for; it sees the whole list in any case
OBSERVERS: dict[str, Callable[[Order], Hashable]] = {
    "blind": lambda order: None,
    "parity": parity,
    "one position": lambda order: order[0],
    "all": lambda order: order,
}


def yardsticks(task: InverseTask) -> dict[str, float]:
    """Best accuracy of observers that see the list and know so much of the order asked for.

    * ``blind`` knows nothing of the query and guesses a place in the list: 1/5.
    * ``parity`` knows whether the order asked for is even or odd (its tokens read as ranks in the
      set), and guesses among the listed orders of that kind: 2/5. Reversing three tokens turns the
      parity, so this is what the parity of the query gives.
    * ``one position`` knows the token at one place of the order asked for, as from the token at the
      mirrored place of the query, and guesses among the listed orders with that token there: 3/5.
      Which place does not matter.
    * ``all`` knows the order asked for: 1.

    Exact: an observer's answer is right once for each different thing it could be told of the
    listed orders, out of `listed`; all lists being equally likely, the mean number of different
    things follows from how many of all set_size! orders share each of them.
    """
    every = [tuple(order) for order in task.orders.tolist()]
    return {
        name: float(_best_accuracy(Counter(told(order) for order in every), task.listed))
        for name, told in OBSERVERS.items()
    }


def _best_accuracy(sharing: Counter[Hashable], listed: int) -> Fraction:
    """Accuracy of the best guess, given how many orders share each thing to be told."""
    count = sum(sharing.values())
    lists = math.comb(count, listed)
    # a thing can be told if not all listed orders are among the others
    present = [1 - Fraction(math.comb(count - own, listed), lists) for own in sharing.values()]
    return sum(present, Fraction(0)) / listed
