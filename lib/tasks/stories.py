"""Small stories, made here: endless, seeded, and with frequencies that can be set by category.

A story has a frame (who, where, when, a wish that the ending fulfils) and a body of beats of a
sentence or two. A beat is plain, or of one of six categories that can be made rarer or more
frequent::

    numbers   a count goes on through the story: three numbers a beat, and they add up
    names     one proper name a beat; a character is named once and then goes by that name
    dialogue  question and answer in quotation marks; facts, and tastes that do not change
    objects   who has what: found, given, hidden, and still there later
    places    where the hero goes from and to, and what one does there
    feelings  what happened, how that felt, what came of it

Number words stand in `numbers` only, names in `names` only, quotation marks in `dialogue` only.
Each category has a state of its own, and each beat random numbers of its own, so a category's
frequency decides nothing else: story i at another frequency has the same frame, the same number of
beats, and the same words in all beats that are of another category in both.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lib.config import require
from lib.tasks import story_words as words
from lib.tasks.frequencies import category_at, require_fit

T = TypeVar("T")
VERSION = 1  # of the text that a config stands for: to be raised with any change of words or order
CATEGORIES = ("numbers", "names", "dialogue", "objects", "places", "feelings")
RATE = 0.06  # share of beats of a category at frequency 1: ten times one still leaves room


@dataclass(frozen=True)
class StoryConfig:
    """Stories of one kind; with an index it decides every letter.

    Attributes:
        seed: stories of different seeds have nothing in common.
        numbers, names, dialogue, objects, places, feelings: frequency of a category relative to
            its base rate, which is 6 % of the beats; 0 leaves it out. What all of them together
            leave is filled with plain beats.
        beats_min, beats_max: beats in a story, both ends included.
    """

    seed: int = 0
    numbers: float = 1.0
    names: float = 1.0
    dialogue: float = 1.0
    objects: float = 1.0
    places: float = 1.0
    feelings: float = 1.0
    beats_min: int = 8
    beats_max: int = 16

    def __post_init__(self) -> None:
        require(self, "seed", self.seed >= 0, "at least 0")
        require(self, "beats_min", self.beats_min >= 1, "at least 1")
        fits = self.beats_max >= self.beats_min
        require(self, "beats_max", fits, f"at least beats_min {self.beats_min}")
        require_fit(self, CATEGORIES, RATE)


def rich(seed: int = 0) -> StoryConfig:
    """Stories for training: every category at 2.5 times its base rate, 10 % plain beats."""
    return StoryConfig(seed, 2.5, 2.5, 2.5, 2.5, 2.5, 2.5)


@dataclass(frozen=True)
class Part:
    """A beat with its category; the first and last part of a story are its `frame`."""

    category: str
    text: str


@dataclass(frozen=True)
class Character:
    """Someone in a story: `noun` is unique in it, as is `name`."""

    noun: str
    trait: str
    pronoun: str
    name: str

    @property
    def the(self) -> str:
        """How others than names' beats call them: "the fox"."""
        return f"the {self.noun}"

    @property
    def possessive(self) -> str:
        """Her or his."""
        return "her" if self.pronoun == "she" else "his"


class Draws:
    """Random choices that are fixed by a key, the same with every version of Python."""

    def __init__(self, *key: int | str) -> None:
        text = "/".join(map(str, key))
        value = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
        # only random() itself is promised to stay as it is, so nothing else of Random is used
        self.uniform = random.Random(value).random

    def below(self, count: int) -> int:
        """A number of 0..count-1."""
        return int(self.uniform() * count)

    def pick(self, options: Sequence[T]) -> T:
        """One of `options`."""
        return options[self.below(len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different ones of `options`, in random order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(count)]


def plural(noun: str) -> str:
    """Plural of a counted thing."""
    if noun.endswith("f"):
        return noun[:-1] + "ves"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "to")) else "s")


def count(number: int, noun: str) -> str:
    """A number in words with its noun: "one egg", "two eggs"."""
    return f"{words.NUMBERS[number]} {noun if number == 1 else plural(noun)}"


def a(phrase: str) -> str:
    """The phrase behind "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def sentence(text: str) -> str:
    """First letter large, full stop at the end."""
    return f"{text[0].upper()}{text[1:]}."


class _Teller:
    """One story while it is told: its cast, and a state for each category."""

    def __init__(self, seed: int, index: int) -> None:
        self.key = (seed, index)
        draw = self.draws("frame")
        noun = draw.pick(tuple(words.CHILDREN))
        animal, elder = draw.pick(words.FRIENDS), draw.pick(tuple(words.ELDERS))
        pronouns = (words.CHILDREN[noun], draw.pick(("she", "he")), words.ELDERS[elder][0])
        nouns, traits = (noun, animal, elder), draw.some(words.TRAITS, 3)
        girls, boys = draw.some(words.GIRLS, 3), draw.some(words.BOYS, 3)
        self.cast = [
            Character(
                nouns[k], traits[k], pronouns[k], (girls if pronouns[k] == "she" else boys)[k]
            )
            for k in range(3)
        ]
        self.season, self.home = draw.pick(tuple(words.SEASONS)), draw.pick(words.HOMES)
        self.wish = f"{draw.pick(words.COLOURS)} {draw.pick(words.TOYS)}"
        self.ending = draw.pick(words.ENDINGS)
        # state of numbers: a basket of things, and how far away all live
        draw = self.draws("numbers")
        self.item, self.amount, self.counted = draw.pick(words.COUNTED), 4 + draw.below(9), False
        self.distances = draw.some(range(3, 21), 3)
        # names: who has been named. dialogue: what each likes best
        self.named: set[int] = set()
        self.tastes = self.draws("dialogue").some(words.FOODS, 3)
        # objects: colour of each thing, and who has it or where it is
        draw = self.draws("objects")
        self.things = [
            f"{draw.pick(words.COLOURS)} {thing}" for thing in draw.some(words.THINGS, 3)
        ]
        self.holders: list[int | str | None] = [None] * 3
        self.place = self.draws("places").pick(tuple(words.PLACES))
        self.events: list[str] = []  # feelings: what has not happened yet, in random order

    def draws(self, *more: int | str) -> Draws:
        """Random numbers of this story for one purpose."""
        return Draws(*self.key, *more)

    def opening(self) -> str:
        hero, friend, elder = self.cast
        born = f"once upon a time, in {self.season}, there was {a(hero.trait)} {hero.noun}"
        others = f"{a(friend.trait)} {friend.noun}, and {a(elder.trait)} {elder.noun}"
        return " ".join(
            sentence(text)
            for text in (
                f"{born} who lived {self.home}",
                f"{hero.the}'s best friend was {others} lived next door",
                f"more than anything, {hero.the} wanted {a(self.wish)}",
            )
        )

    def close(self) -> str:
        hero, _, elder = self.cast
        gift = f"{elder.the} gave {hero.the} {a(self.wish)}, just what {hero.pronoun} had wanted"
        return f"{sentence(f'in the end, {gift}')} {sentence(self.ending)}"

    def plain(self, draw: Draws) -> str:
        who = draw.pick(self.cast)
        kind = draw.below(8)
        if kind == 0:
            return sentence(draw.pick(words.SEASONS[self.season].split("|")))
        if kind == 1:
            small, large = sorted(draw.some(range(len(words.ANIMALS)), 2))
            low, high = a(words.ANIMALS[small]), a(words.ANIMALS[large])
            text = f"{low} was smaller than {high}"
            if draw.below(2):
                text = f"{high} was bigger than {low}"
            return sentence(f"in the picture book {text}")
        if kind == 2:
            elder = self.cast[2]
            return sentence(f"{elder.the} {draw.pick(words.ADVERBS)} {words.ELDERS[elder.noun][1]}")
        if kind in (3, 4):
            cause = draw.pick(words.CAUSES)
            return sentence(cause.format(s=who.the, h=who.pronoun, p=who.possessive))
        return sentence(f"{who.the} {self.deed(draw)}")

    def deed(self, draw: Draws) -> str:
        if draw.below(2):
            return draw.pick(words.DID)
        return f"{draw.pick(words.MOVED)} {draw.pick(words.ADVERBS)} {draw.pick(words.WAYS)}"

    def numbers(self, draw: Draws) -> str:
        hero, friend = self.cast[:2]
        kind = draw.below(5)
        if kind == 0:
            near, far = sorted(draw.some(range(3), 2), key=lambda k: self.distances[k])
            steps = self.distances[far] - self.distances[near]
            return sentence(
                f"{self.cast[far].the}'s house was {count(self.distances[far], 'step')} away and "
                f"{self.cast[near].the}'s only {words.NUMBERS[self.distances[near]]}, which was "
                f"{count(steps, 'step')} nearer"
            )
        if kind == 1:
            price, left = 1 + draw.below(10), 1 + draw.below(10)
            who = draw.pick(self.cast)
            return sentence(
                f"{who.the} had {count(price + left, 'coin')}, paid {words.NUMBERS[price]} for "
                f"{a(draw.pick(words.TOYS))}, and had {words.NUMBERS[left]} left"
            )
        had, still = self.amount, " still" if self.counted else ""
        self.counted = True
        start = f"{hero.the}{still} had {count(had, self.item)} in the basket"
        more = had < 3 or (had < 18 and draw.below(2))
        if more:
            change = 1 + draw.below(min(9, 20 - had))
            self.amount += change
            return sentence(f"{start}, found {words.NUMBERS[change]} more, and then had "
                            f"{words.NUMBERS[self.amount]}")  # fmt: skip
        change = 1 + draw.below(min(9, had - 1))
        self.amount -= change
        return sentence(f"{start}, gave {words.NUMBERS[change]} to {friend.the}, and kept "
                        f"{words.NUMBERS[self.amount]}")  # fmt: skip

    def names(self, draw: Draws) -> str:
        number = draw.below(3)
        who = self.cast[number]
        if number not in self.named:
            self.named.add(number)
            way = draw.pick(("{} was called {}", "everybody called {} {}", "{}'s name was {}"))
            return sentence(way.format(who.the, who.name))
        return sentence(f"{who.name} {self.deed(draw)}")

    def dialogue(self, draw: Draws) -> str:
        one, two = draw.some(range(3), 2)
        asker, other = self.cast[one], self.cast[two]
        if draw.below(3) == 0:
            question, answer = "What do you like to eat best?", f"I like {self.tastes[two]} best"
        else:
            question = draw.pick(tuple(words.FACTS))
            answer = words.FACTS[question]
        return (
            f'"{question}" {draw.pick(words.ASKED)} {asker.the}. '
            f'"{answer}," {draw.pick(words.SAID)} {other.the}.'
        )

    def objects(self, draw: Draws) -> str:
        number, kind = draw.below(3), draw.below(3)
        thing, holder = self.things[number], self.holders[number]
        if holder is None:
            self.holders[number] = new = draw.below(3)
            return sentence(f"{self.cast[new].the} found {a(thing)} and kept it")
        if isinstance(holder, str):
            self.holders[number] = new = draw.below(3)
            return sentence(f"{self.cast[new].the} took the {thing} that was {holder}")
        owner = self.cast[holder]
        new = (holder + 1 + draw.below(2)) % 3
        other = self.cast[new]
        if kind == 0:
            self.holders[number] = place = draw.pick(words.HIDING)
            return sentence(f"{owner.the} hid the {thing} {place}")
        if kind == 1:
            return sentence(f"{other.the} looked for the {thing}, but {owner.the} had it")
        self.holders[number] = new
        return sentence(f"{owner.the} gave the {thing} to {other.the}, who was pleased to have it")

    def places(self, draw: Draws) -> str:
        here, hero = self.place, self.cast[0]
        self.place = there = draw.pick([place for place in words.PLACES if place != here])
        way = f"{draw.pick(words.MOVED[:8])} from the {here} to the {there}"
        return sentence(f"{hero.the} {way} and {words.PLACES[there]}")

    def feelings(self, draw: Draws) -> str:
        who = draw.pick(self.cast)
        if not self.events:
            self.events = self.draws("feelings").some(words.FEELINGS, len(words.FEELINGS))
        event, feeling, effect = self.events.pop().split(";")
        felt = who.pronoun if "{s}" in event else who.the
        return sentence(f"{event.format(s=who.the)}, and {felt} felt {feeling} and {effect}")


def categories(config: StoryConfig, index: int) -> list[str]:
    """Category of each beat of story `index`, without telling it."""
    beats = config.beats_min + Draws(config.seed, index, "beats").below(
        config.beats_max - config.beats_min + 1
    )
    frequencies = {name: getattr(config, name) for name in CATEGORIES}
    places = (Draws(config.seed, index, slot).uniform() for slot in range(beats))
    return [category_at(at, frequencies, RATE) or "plain" for at in places]


def parts(config: StoryConfig, index: int) -> list[Part]:
    """Story `index`, 0 or more, in its parts: frame, beats, frame.

    Raises:
        ValueError: a negative index.
    """
    if index < 0:
        raise ValueError(f"index is {index}, allowed: at least 0")
    teller = _Teller(config.seed, index)
    told = [Part("frame", teller.opening())]
    for slot, name in enumerate(categories(config, index)):
        draw = teller.draws(slot)
        draw.uniform()  # the number that decided the category
        told.append(Part(name, getattr(teller, name)(draw)))
    return [*told, Part("frame", teller.close())]


def story(config: StoryConfig, index: int) -> str:
    """Text of story `index`: opening, body and ending, one line each."""
    told = [part.text for part in parts(config, index)]
    return "\n".join((told[0], " ".join(told[1:-1]), told[-1]))


def spans(config: StoryConfig, index: int) -> list[tuple[int, str]]:
    """Where each part of story `index` begins in its text, and the part's category."""
    told, place, found = parts(config, index), 0, []
    for part in told:
        found.append((place, part.category))
        place += len(part.text) + 1  # a blank or the end of a line follows
    return found


def endless(config: StoryConfig, start: int = 0) -> Iterator[str]:
    """Stories number `start`, `start` + 1 and so on, without end."""
    index = start
    while True:
        yield story(config, index)
        index += 1
