"""The five noises of "learn, unlearn, relearn" (arXiv 2407.00996): what is done to an answer.

Questions stay as they are; a model is tuned on clean answers, then on noisy ones, then on clean
ones again. The two flips are the authors' own functions, to the letter (they reproduce the authors'
in-context files from the clean answers); the other three are data in the authors' repository,
without a script that makes them, and are made here as the paper describes them:

* **char_flip**: the answer's characters in reverse order. Inverse: itself.
* **word_flip**: punctuation is set apart, then the words are put in reverse order. The inverse is
  exact for plain sentences; elsewhere it loses spacing and the place of doubled punctuation.
* **transliteration**: romanised Hindi. Here :mod:`lib.tasks.romanise`, a stated substitute.
* **irrelevant**: the answer to another question.
* **counterfactual**: an answer of the same kind that is false; somebody must say which those are.

The label "Output:" in front of an answer is not part of it: see :func:`apart_from_label`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from lib.config import require
from lib.tasks.romanise import romanise

# The authors' class of marks is ASCII punctuation without the backslash. A mark is set apart where
# it ends a word; of several in a row only the last is.
MARKS = string.punctuation.replace("\\", "")
_CLOSING = re.compile(rf"(?<=\S)[{re.escape(MARKS)}](?=\s|$)")
_OPENING = re.compile(r"[(\[{]")
_ALONE = re.compile(rf"(?<=\S) (?=[{re.escape(MARKS.translate(dict.fromkeys(b'([{')))}](?:\s|$))")
_ALONE_OPENING = re.compile(r"(?<!\S)([(\[{]) (?=\S)")
_LABEL = re.compile(r"\s*output:\s*", re.IGNORECASE)


def flip_characters(text: str) -> str:
    """The characters in reverse order, spaces and punctuation included. Its own inverse."""
    return text[::-1]


def set_apart(text: str) -> list[str]:
    """Words and set-apart marks of `text`, in order: what the word flip reverses."""
    spaced = _CLOSING.sub(lambda mark: f" {mark[0]}", text)
    return _OPENING.sub(lambda mark: f"{mark[0]} ", spaced).split()


def flip_words(text: str) -> str:
    """Words in reverse order with one space between, punctuation set apart before."""
    return " ".join(reversed(set_apart(text)))


def unflip_words(text: str) -> str:
    """Words put back in order and single marks attached again: opening brackets to what follows,
    other marks to what comes before.

    The exact inverse of :func:`flip_words` on texts of words with single spaces between, in which a
    word begins with at most one bracket and ends with at most one mark, and no mark stands alone.
    Quotation marks that open are not told from those that close.
    """
    text = " ".join(reversed(text.split()))
    return _ALONE_OPENING.sub(r"\1", _ALONE.sub("", text))


def apart_from_label(text: str, change: Callable[[str], str]) -> str:
    """`text` with `change` made to what follows a leading "Output:" (in any case), if there is one:
    the authors' training files carry that label, and their flips leave it in front."""
    label = _LABEL.match(text)
    end = label.end() if label else 0
    return text[:end] + change(text[end:])


def irrelevant(
    answers: Sequence[str], seed: int, groups: Sequence[Hashable] | None = None
) -> list[str]:
    """For each answer that of another question, by a permutation drawn with `seed`.

    Args:
        groups: what each answer is about; if given, no answer is replaced by one of its own group.
            In the closed world that is the attribute: else another value of it would be a
            counterfactual.

    Raises:
        ValueError: an answer (or group) is so frequent that not every question can be given
            another one's.
    """
    labels = list(answers if groups is None else groups)
    count = len(answers)
    if len(labels) != count:
        raise ValueError(f"groups has {len(labels)} entries, allowed: {count}, one an answer")
    if count == 0:
        return []
    kinds: dict[Hashable, list[int]] = {}
    for row in np.random.default_rng([seed, 0x1E]).permutation(count).tolist():
        kinds.setdefault(labels[row], []).append(row)
    most = max(map(len, kinds.values()))
    if 2 * most > count:
        raise ValueError(
            f"an answer (or group) occurs {most} times in {count} rows; "
            f"allowed: at most {count // 2}, or some question would keep its own answer"
        )
    # equal ones lie side by side: moving on by the size of the largest block leaves every block
    order = [row for rows in kinds.values() for row in rows]
    moved = order[most:] + order[:most]
    out = [""] * count
    for row, other in zip(order, moved, strict=True):
        out[row] = answers[other]
    if groups is not None and any(a == b for a, b in zip(answers, out, strict=True)):
        raise ValueError("two groups share an answer, allowed: answers that differ between groups")
    return out


def counterfactual(
    answers: Sequence[str], alternatives: Sequence[Sequence[str]], seed: int
) -> list[str]:
    """For each answer one of its false alternatives, drawn with `seed`.

    Raises:
        ValueError: the lengths differ, or an answer has no alternative that differs from it.
    """
    if len(answers) != len(alternatives):
        raise ValueError(
            f"alternatives has {len(alternatives)} entries, allowed: {len(answers)}, one an answer"
        )
    rng = np.random.default_rng([seed, 0xCF])
    out = []
    for row, (answer, others) in enumerate(zip(answers, alternatives, strict=True)):
        false = [other for other in others if other != answer]
        if not false:
            raise ValueError(f"row {row}: answer {answer!r} has no false alternative")
        out.append(false[int(rng.integers(len(false)))])
    return out


@dataclass(frozen=True)
class Noise:
    """One of the five.

    Attributes:
        name: as in configs and records. title: as shown to readers.
        text: what it does to one answer by itself, or None where other answers are needed.
        inverse: takes it back, or None where that cannot be done from the text alone.
        form: whether it changes how an answer is written (else: what it says).
    """

    name: str
    title: str
    text: Callable[[str], str] | None
    inverse: Callable[[str], str] | None
    form: bool


NOISES = {
    noise.name: noise
    for noise in (
        Noise("char_flip", "character flip", flip_characters, flip_characters, form=True),
        Noise("word_flip", "word flip", flip_words, unflip_words, form=True),
        Noise("transliteration", "transliteration", romanise, None, form=True),
        Noise("irrelevant", "irrelevant", None, None, form=False),
        Noise("counterfactual", "counterfactual", None, None, form=False),
    )
}
NONE = "none"  # no noise: the control that trains on clean answers as long as the others
TITLES = {NONE: "no noise (control)", **{name: noise.title for name, noise in NOISES.items()}}


def find_noise(name: str) -> Noise:
    """The noise called `name`.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in NOISES:
        raise ValueError(f"noise is {name!r}, allowed: {', '.join(NOISES)}")
    return NOISES[name]


@dataclass(frozen=True)
class NoiseConfig:
    """Which noise, for how many of the answers.

    Attributes:
        name: a key of NOISES.
        share: part of the answers that become noisy, more than 0 and at most 1.
        seed: of the choice of those, and of the replacements.
    """

    name: str
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, "name", self.name in NOISES, ", ".join(NOISES))
        require(self, "share", 0 < self.share <= 1, "more than 0 and at most 1")
        require(self, "seed", self.seed >= 0, "at least 0")


def make_noisy(
    config: NoiseConfig,
    answers: Sequence[str],
    alternatives: Sequence[Sequence[str]] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> tuple[list[str], list[bool]]:
    """Answers with the noise, and which of them have it; the rest are returned as they were.

    Args:
        alternatives: false answers to each question; needed by the counterfactual noise alone.
        groups: of :func:`irrelevant`.

    Raises:
        ValueError: the noise needs `alternatives` and there are none, or cannot be made.
    """
    noise = find_noise(config.name)
    if noise.text is not None:
        noisy = [noise.text(answer) for answer in answers]
    elif config.name == "irrelevant":
        noisy = irrelevant(answers, config.seed, groups)
    elif alternatives is None:
        raise ValueError("alternatives is None, but the counterfactual noise draws from them")
    else:
        noisy = counterfactual(answers, alternatives, config.seed)
    count = round(config.share * len(answers))
    chosen = np.zeros(len(answers), dtype=bool)
    rng = np.random.default_rng([config.seed, 0x5E])
    chosen[rng.permutation(len(answers))[:count]] = True
    pairs = zip(chosen.tolist(), noisy, answers, strict=True)
    return [changed if which else clean for which, changed, clean in pairs], chosen.tolist()
