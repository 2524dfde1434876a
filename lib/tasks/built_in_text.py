"""A little text of five kinds, made up on the spot: for small runs that must need no data.

Sentences, code, sums, dictionary entries and dialogue from short lists of words and a seed. It says
nothing about real text; quick runs use it to show that the whole way works.
"""

from __future__ import annotations

import numpy as np

from lib.tasks.reconstruction import CATEGORIES, Document

NAMES = ("Ada", "Ben", "Clara", "David", "Emma", "Frank", "Greta", "Hugo")
NOUNS = ("river", "garden", "letter", "window", "horse", "clock", "bridge", "candle", "teacher")
VERBS = ("found", "carried", "watched", "painted", "opened", "followed", "remembered")
ADJECTIVES = ("old", "quiet", "bright", "narrow", "golden", "heavy", "small")
PLACES = ("in the village", "by the sea", "after the rain", "on the hill", "before dawn")
VARIABLES = ("count", "total", "index", "value", "items", "left", "right")


class _Writer:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(np.random.SeedSequence([seed, 0x7E]))

    def pick(self, words: tuple[str, ...]) -> str:
        return words[int(self.rng.integers(len(words)))]

    def number(self, high: int) -> int:
        return int(self.rng.integers(1, high))

    def prose(self) -> str:
        thing = f"the {self.pick(ADJECTIVES)} {self.pick(NOUNS)}"
        return f"{self.pick(NAMES)} {self.pick(VERBS)} {thing} {self.pick(PLACES)}. "

    def code(self) -> str:
        name, other = self.pick(VARIABLES), self.pick(VARIABLES)
        body = f"{name} {self.pick(('+', '-', '*'))} {self.number(20)}"
        return (
            f"def {name}_of({other}):\n    {name} = {other}[{self.number(9)}]\n    return {body}\n"
        )

    def mathematics(self) -> str:
        a, b = self.number(1000), self.number(100)
        sign, value = (("+", a + b), ("-", a - b), ("*", a * b))[int(self.rng.integers(3))]
        return f"What is {a} {sign} {b}?\n{value}\n"

    def reference(self) -> str:
        noun = self.pick(NOUNS)
        return f"{noun}, n. A {self.pick(ADJECTIVES)} {self.pick(NOUNS)}; see {self.pick(NOUNS)}.\n"

    def dialogue(self) -> str:
        question = f"Where is the {self.pick(NOUNS)}?"
        return f'"{question}" asked {self.pick(NAMES)}. "{self.pick(PLACES).capitalize()}."\n'


def documents(each: int, characters: int = 300, seed: int = 0) -> list[Document]:
    """`each` documents of every category, of `characters` or a little more.

    Raises:
        ValueError: fewer than one document or character.
    """
    if each < 1 or characters < 1:
        raise ValueError(f"each is {each}, characters {characters}; allowed: at least 1")
    writer, out = _Writer(seed), []
    for category in CATEGORIES:
        for index in range(each):
            text = ""
            while len(text) < characters:
                text += getattr(writer, category)()
            out.append(Document(text, category, f"{category} {index}"))
    return out
