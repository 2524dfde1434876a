"""A small invented world of questions with one right answer each, to learn, unlearn and relearn.

Whether a model forgets what it knew can only be measured where it knew something. A small model
cannot answer general questions; it can learn a few hundred facts by heart. Here people, places and
things with invented names have attributes, each with ten possible values::

    Which pet belongs to Mivel?      The pet of Mivel is parrot.

Each fact can be asked in eight ways. Training has some of them and the test the others, drawn for
each attribute, so every word and every way of asking is trained, with other attributes. An answer
restates its question, as those of the authors' test set do: what a model knows is the value.

No value belongs to two attributes, so whatever an answer says can be told: the right value, another
value of the attribute (counterfactual), or a value of another one (irrelevant).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lib.config import require
from lib.tasks.noise import NoiseConfig, find_noise, make_noisy
from lib.tasks.romanise import LEXICON, romanise

ATTRIBUTES = {
    "person": {
        "craft": "baking pottery weaving farming sailing teaching painting healing sewing carving",
        "pet": "dog cat horse goat parrot rabbit duck snake sheep crow",
        "instrument": "flute drum bell conch fiddle harp horn pipe lute gong",
        "drink": "milk tea juice wine coffee soup beer syrup broth cider",
    },
    "place": {
        "crop": "rice wheat cotton barley maize mustard sugar pepper onion garlic",
        "metal": "gold silver iron copper tin zinc lead brass bronze steel",
        "guardian": "lion elephant bear wolf deer eagle owl fish monkey peacock",
        "festival": "harvest rain snow wind light flower mask boat kite lamp",
    },
    "thing": {
        "colour": "red blue green yellow white black brown pink purple grey",
        "material": "wood stone glass paper leather clay silk wool bone wax",
        "shape": "circle square cross ring leaf ball cone cube arrow wheel",
        "smell": "smoke mint rose lemon salt ginger clove jasmine soap tar",
    },
}
VALUES = {name: tuple(text.split()) for each in ATTRIBUTES.values() for name, text in each.items()}
PHRASINGS = (
    "What is the {attribute} of {name}?",
    "Tell me the {attribute} of {name}.",
    "Which {attribute} belongs to {name}?",
    "{name} is known for which {attribute}?",
    "Name the {attribute} that goes with {name}.",
    "I want to know the {attribute} of {name}.",
    "If asked about {name}, which {attribute} would you say?",
    "Of {name}, the {attribute} is what?",
)
ANSWER = "The {attribute} of {name} is {value}."
# consonants and vowels that our romanisation leaves alone: names pass through it unharmed
CONSONANTS, VOWELS = "bdgklmnprstv", "aeiou"
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ClosedWorld:
    """How large the world is.

    Attributes:
        people, places, things: how many of each, 0 to 1,000.
        attributes: facts about each of them, 1 to 4.
        train_phrasings: ways of asking a fact that are trained; the other ones are the test.
    """

    people: int = 100
    places: int = 100
    things: int = 100
    attributes: int = 4
    train_phrasings: int = 6

    def __post_init__(self) -> None:
        for name in ("people", "places", "things"):
            require(self, name, 0 <= getattr(self, name) <= 1000, "0..1000")
        require(self, "attributes", 1 <= self.attributes <= 4, "1..4")
        most = len(PHRASINGS) - 1
        require(self, "train_phrasings", 1 <= self.train_phrasings <= most, f"1..{most}")
        if self.people + self.places + self.things == 0:
            raise ValueError("ClosedWorld has no people, places or things, allowed: at least one")


@dataclass(frozen=True)
class Fact:
    """`name`, a person, place or thing (`kind`), has `value` as its `attribute`."""

    name: str
    kind: str
    attribute: str
    value: str

    def question(self, phrasing: int) -> str:
        """The question for it, in one of the ways of :data:`PHRASINGS`."""
        return PHRASINGS[phrasing].format(attribute=self.attribute, name=self.name)

    def answer(self, value: str | None = None) -> str:
        """The true answer, or a false one with another `value`."""
        return ANSWER.format(attribute=self.attribute, name=self.name, value=value or self.value)


@dataclass(frozen=True)
class Item:
    """A question with its true answer: fact number `fact` of the world, asked as `phrasing`."""

    question: str
    answer: str
    fact: int
    phrasing: int


@dataclass(frozen=True)
class World:
    """The facts, and the questions about them: `train` and `test` share facts, but no question."""

    facts: tuple[Fact, ...]
    train: tuple[Item, ...]
    test: tuple[Item, ...]

    def noisy_answers(
        self, config: NoiseConfig, items: Sequence[Item]
    ) -> tuple[list[str], list[bool]]:
        """Answers to `items` under a noise, and which have it.

        Noise belongs to facts: all questions about one fact get the same noisy answer, in training
        and test, so a counterfactual can be learnt, and unlearnt, as a fact can.

        Raises:
            ValueError: an irrelevant answer is asked for in a world with a single attribute.
        """
        answers = [fact.answer() for fact in self.facts]
        others = [[fact.answer(v) for v in VALUES[fact.attribute]] for fact in self.facts]
        groups: list[Hashable] = [fact.attribute for fact in self.facts]
        noisy, which = make_noisy(config, answers, others, groups)
        return [noisy[item.fact] for item in items], [which[item.fact] for item in items]

    def value_said(self, item: Item, text: str, noise: str | None = None) -> str | None:
        """The value of the asked attribute that `text` names, if it names exactly one.

        Args:
            text: an answer in plain form: flips are taken back before.
            noise: "transliteration" if the text is romanised, then Hindi values are looked for.
        """
        romanised = noise is not None and find_noise(noise).name == "transliteration"
        words = set(_WORD.findall(text.lower()))
        known = VALUES[self.facts[item.fact].attribute]
        said = [value for value in known if (romanise(value) if romanised else value) in words]
        return said[0] if len(said) == 1 else None

    def is_right(self, item: Item, text: str, noise: str | None = None) -> bool:
        """Whether `text` (see :meth:`value_said`) names the true value and no other."""
        return self.value_said(item, text, noise) == self.facts[item.fact].value

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word of questions and clean answers, as written, sorted."""
        texts = (
            text for item in (*self.train, *self.test) for text in (item.question, item.answer)
        )
        return tuple(sorted({word for text in texts for word in _WORD.findall(text)}))


def build(config: ClosedWorld, seed: int) -> World:
    """The world drawn with `seed`: names, facts, and which phrasings are trained."""
    rng = np.random.default_rng([seed, 0xC1])
    counts = {"person": config.people, "place": config.places, "thing": config.things}
    names = iter(_names(sum(counts.values()), rng))
    facts = []
    for kind, count in counts.items():
        chosen = list(ATTRIBUTES[kind])[: config.attributes]
        for _ in range(count):
            name = next(names)
            for attribute in chosen:
                value = VALUES[attribute][int(rng.integers(len(VALUES[attribute])))]
                facts.append(Fact(name, kind, attribute, value))
    split = _split_phrasings(config, rng)
    sides: list[tuple[Item, ...]] = []
    for side in (0, 1):
        items = [
            Item(fact.question(way), fact.answer(), number, way)
            for number, fact in enumerate(facts)
            for way in split[fact.attribute][side]
        ]
        order = rng.permutation(len(items)).tolist()
        sides.append(tuple(items[n] for n in order))
    return World(tuple(facts), *sides)


def _split_phrasings(
    config: ClosedWorld, rng: np.random.Generator
) -> dict[str, tuple[list[int], list[int]]]:
    """Trained and tested phrasings by attribute. From a random start the tested ones move on by
    their number with each attribute, so that no phrasing is tested with all of them."""
    count, tested = len(PHRASINGS), len(PHRASINGS) - config.train_phrasings
    order = rng.permutation(count).tolist()
    split = {}
    for number, attribute in enumerate(VALUES):
        turned = [order[(number * tested + k) % count] for k in range(count)]
        split[attribute] = (sorted(turned[tested:]), sorted(turned[:tested]))
    return split


def _names(count: int, rng: np.random.Generator) -> list[str]:
    """Invented names of five letters: no word of the world or of its romanised form, none the
    reverse of itself or of another."""
    taken = {*LEXICON, *LEXICON.values()}
    for phrasing in PHRASINGS:
        taken |= {word.lower() for word in _WORD.findall(phrasing)}
    found: list[str] = []
    while len(found) < count:
        name = "".join(
            letters[int(rng.integers(len(letters)))]
            for letters in (CONSONANTS, VOWELS, CONSONANTS, VOWELS, CONSONANTS)
        )
        if name not in taken and name != name[::-1]:
            taken |= {name, name[::-1]}
            found.append(name.capitalize())
    return found
