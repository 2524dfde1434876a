"""Answers of a closed world, read by the template that all true and noisy answers have.

In a closed world everything that an answer may be is known, so nothing has to be guessed: an answer
has a form *exactly* (exact-format rate) if it is the template's sentence as it stands, with its
characters or its words turned back, or romanised. Content is the value that it names. Where no form
fits exactly, the likeliest reading by characters is taken (:class:`FormReader`), so that a slip
in one letter does not hide what a model knows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import pandas as pd

from lib.analysis import noise_third_party as theirs
from lib.analysis.noise_metrics import (
    FORMS,
    PLAIN,
    CharacterModel,
    FormReader,
    as_plain,
    novel_word_match,
)
from lib.tasks.closed_world import ANSWER, Item, World
from lib.tasks.noise import find_noise
from lib.tasks.romanise import LEXICON, romanise

OTHER = "other"  # an answer that has no form exactly
SLOT = r"(\w+)"
# what is measured of every answer; each is 0 or 1, but for their English ratio
MEASURES = (
    "content", "clean", "noise", "novel", "their_accuracy", "their_flip", "their_english",
    *(f"form_{form}" for form in FORMS),
)  # fmt: skip


class Reading(NamedTuple):
    """What an answer says (attribute, name and value, in English), and in which form."""

    form: str
    attribute: str
    name: str
    value: str


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace("SLOT", SLOT))


_ENGLISH = _pattern(ANSWER.format(attribute="SLOT", name="SLOT", value="SLOT"))
# the words of the template one by one, since a slot is no word of the lexicon
_ROMANISED = _pattern(
    re.sub(r"\w+", lambda w: w[0] if w[0] == "SLOT" else romanise(w[0]),
           ANSWER.format(attribute="SLOT", name="SLOT", value="SLOT"))
)  # fmt: skip
_HINDI = {hindi: english for english, hindi in LEXICON.items()}


@lru_cache(maxsize=100_000)
def read_exactly(text: str) -> Reading | None:
    """The form that `text` has exactly, and what it says in it; None where no form fits."""
    text = text.strip()
    found = _ROMANISED.fullmatch(text)
    if found:
        attribute, name, value = found.groups()
        return Reading(
            "transliteration", _HINDI.get(attribute, attribute), name, _HINDI.get(value, value)
        )
    for form in (PLAIN, "char_flip", "word_flip"):
        found = _ENGLISH.fullmatch(as_plain(text, form))
        if found:
            attribute, name, value = found.groups()
            return Reading(form, attribute, name.lower(), value)
    return None


@dataclass(frozen=True)
class RememberingReader(FormReader):
    """A reader that reads no text twice: many models give the same answers."""

    known: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def form(self, text: str) -> str:
        """See :class:`FormReader`."""
        if text not in self.known:
            self.known[text] = super().form(text)
        return self.known[text]


def reader_of(world: World) -> FormReader:
    """A reader of forms fitted on the clean training answers of a world, plain and romanised."""
    answers = sorted({item.answer for item in world.train})
    return RememberingReader(
        CharacterModel(answers), CharacterModel([romanise(a) for a in answers])
    )


def score_world(
    world: World, items: Sequence[Item], responses: Sequence[str], noisy: Sequence[str] | None,
    reader: FormReader,
) -> pd.DataFrame:  # fmt: skip
    """One row a question: ``fact``, ``phrasing``, and the MEASURES:

    ``content``: the answer names the right value of what was asked, and no other, once its form is
    taken back, whichever it is. ``clean``: it is the clean answer to the letter. ``noise``: it is
    the noisy answer to the letter. ``form_<form>``: it has that form exactly. ``novel``: novel-word
    accuracy as written. ``their_...``: the third party's metrics.

    Args:
        noisy: the noisy answers to `items`, or None where there is no noise.

    Raises:
        ValueError: columns of different lengths, or none.
    """
    columns = [responses, items, *([] if noisy is None else [noisy])]
    if not len(items) or len({len(column) for column in columns}) != 1:
        raise ValueError(
            f"{[len(column) for column in columns]} responses, items and noisy answers; allowed: "
            "equally many, at least one"
        )
    rows = []
    for number, (item, said) in enumerate(zip(items, responses, strict=True)):
        found = read_exactly(said)
        form = found.form if found else OTHER
        reading = found.form if found else reader.form(said)
        noise = reading if reading == "transliteration" else None
        said = said.strip()
        row = {
            "fact": item.fact,
            "phrasing": item.phrasing,
            "content": world.is_right(item, as_plain(said, reading), noise),
            "clean": said == item.answer,
            "noise": noisy is not None and said == noisy[number],
            "novel": novel_word_match(said, item.question, item.answer),
            "their_accuracy": theirs.fuzzy_match(said, item.answer),
            "their_flip": theirs.looks_flipped(said),
            "their_english": theirs.english_ratio(said),
        }
        row |= {f"form_{name}": name == form for name in FORMS}
        rows.append({name: float(value) for name, value in row.items()})
    table = pd.DataFrame(rows)
    return table.astype({"fact": "int32", "phrasing": "int8"})


def form_of(noise: str) -> str:
    """The form that answers have under a noise; plain for those that change what is said."""
    return noise if noise != "none" and find_noise(noise).form else PLAIN
