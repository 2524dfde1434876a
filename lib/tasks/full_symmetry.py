"""The full symmetry task of "Achilles' Heel of Mamba" (arXiv 2509.17514, App. C.1, Fig. 7a).

Sequences are those of :mod:`lib.tasks.composite`: one key, followed by a pair of anchors, in noise.
Here two sets of shifts are in force at once, and which of them holds depends on the pair alone::

    anchor             0    1    2    3    4
    first set         +2   +5   +1   -2   -8     pairs 01 02 14 23 34 and their mirrors
    second set        -9   +6   -7   +3   +2?    pairs 03 04 12 13 24 and their mirrors

    position   1   2   3   4   5   6   7   8
    token     34  71 |59   0   3| 41  54  67     key 59, pair 03, second set
    label     59 - 9 + 3 = 53

No anchor has a shift of its own to be learnt, and every pair has its mirror's shift, so a model is
pushed to see that order does not matter. Pair 43 is never trained. Its mirror 34 belongs to the
first set: key - 10 is the label, and the symmetric answer.

**The second set's shift of anchor 4 is not in the paper**, though pairs 04, 40, 24 and 42 need it.
We chose +2: of the numbers closest to 0, the first (+2 before -2) with which the pairs 04 and 24,
and pair 43 composed with the second set, have shifts (-7, -5, +5) that no other pair has. So an
answer tells which rule was used. Labels go from 10 to 108 for keys 20..99; token 0 is an anchor
here and never a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lib.config import require
from lib.tasks.composite import CompositeTask, Rules, Split, draw

ANCHORS = (0, 1, 2, 3, 4)
FIRST_SET = {0: 2, 1: 5, 2: 1, 3: -2, 4: -8}
SECOND_SET = {0: -9, 1: 6, 2: -7, 3: 3}  # that of anchor 4 is a choice: SymmetryTask
FIRST_PAIRS = frozenset(
    pair for a, b in ((0, 1), (0, 2), (1, 4), (2, 3), (3, 4)) for pair in ((a, b), (b, a))
)
PAIRS = tuple((a, b) for a in ANCHORS for b in ANCHORS if a != b)
HELD_OUT = (4, 3)


@dataclass(frozen=True)
class SymmetryTask(CompositeTask):
    """Data of the task: the composite task's fields with other sizes, and one open choice.

    Attributes:
        train_per_pair, test_per_pair: sequences for each of 19 training and 20 test pairs; 4.5 %
            and 0.5 % of 300,000.
        second_shift_of_4: shift of anchor 4 in the second set, which the paper does not give; see
            the module. With -13 both sets would give pair 43 the same answer.
    """

    kind: ClassVar[str] = "full_symmetry"

    train_per_pair: int = 13_500
    test_per_pair: int = 1_500
    second_shift_of_4: int = 2

    def __post_init__(self) -> None:
        differ = self.rules.composite[HELD_OUT] != self.rules.symmetric[HELD_OUT]
        require(self, "second_shift_of_4", differ, "any but -13, which makes 43 one with 34")
        super().__post_init__()

    @property
    def rules(self) -> Rules:
        """Twenty ordered pairs. Of the held-out pair 43, ``labels`` and ``symmetric`` hold the
        shift of its mirror (first set), ``composite`` the sum of its shifts in the second set: what
        a model answers that composes with the set that 43 is not in. All other pairs have one
        shift under every rule."""
        second = {**SECOND_SET, 4: self.second_shift_of_4}

        def shift(pair: tuple[int, int]) -> int:
            own = FIRST_SET if pair in FIRST_PAIRS else second
            return own[pair[0]] + own[pair[1]]

        labels = {pair: shift(pair) for pair in PAIRS}
        return Rules(
            labels=labels,
            composite={**labels, HELD_OUT: second[4] + second[3]},
            symmetric={pair: labels[pair[1], pair[0]] for pair in PAIRS},
            held_out=HELD_OUT,
        )


def build(task: SymmetryTask, seed: int) -> tuple[Split, Split]:
    """Training and test split, in streams of its own: no data of the composite task come again."""
    return draw(task, seed, 0xF5)
