"""Text of five kinds, made here: endless, seeded, tagged, and with frequencies that can be set.

A document is prose, dialogue, mathematics, reference or code. Each word carries its part of speech
and, in names, the kind of entity, because who writes a sentence from a template knows them: nothing
has to be guessed by a tagger. Persons, towns and companies are put together from parts, so most of
them are rare; a document has a cast of its own that comes back within it.

Prose fills what the other kinds leave. A kind has a stretch of 0..1 of its own
(:mod:`lib.tasks.frequencies`): document i at another frequency of one kind is the same document,
word for word, unless its kind itself changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lib.config import require
from lib.tasks import kinds_words as words
from lib.tasks.frequencies import category_at, require_fit
from lib.tasks.stories import Draws
from lib.tasks.tags import TaggedText, Word

VERSION = 1  # of the text that a config stands for: to be raised with any change of words or order
KINDS = ("dialogue", "mathematics", "reference", "code")  # beside prose, which fills the rest
RATE = 0.08  # share of documents of a kind at frequency 1: ten times one still leaves room


@dataclass(frozen=True)
class KindsConfig:
    """Documents of five kinds; with an index it decides every letter.

    Attributes:
        seed: documents of different seeds have nothing in common.
        dialogue, mathematics, reference, code: frequency relative to the base rate, 8 % of the
            documents; 0 leaves a kind out. By default all five kinds are equally frequent.
        characters: length of a document, or a little more.
    """

    seed: int = 0
    dialogue: float = 2.5
    mathematics: float = 2.5
    reference: float = 2.5
    code: float = 2.5
    characters: int = 1600

    def __post_init__(self) -> None:
        require(self, "seed", self.seed >= 0, "at least 0")
        require(self, "characters", self.characters >= 1, "at least 1")
        require_fit(self, KINDS, RATE)


class Made(NamedTuple):
    """A document: its kind, its text and its words."""

    kind: str
    tagged: TaggedText


def kind_of(config: KindsConfig, index: int) -> str:
    """Kind of document `index`, without writing it."""
    at = Draws(config.seed, index, "kind").uniform()
    return category_at(at, {name: getattr(config, name) for name in KINDS}, RATE) or "prose"


def document(config: KindsConfig, index: int) -> Made:
    """Document `index`, 0 or more.

    Raises:
        ValueError: a negative index.
    """
    if index < 0:
        raise ValueError(f"index is {index}, allowed: at least 0")
    kind = kind_of(config, index)
    writer = _Writer(Draws(config.seed, index, kind))
    while writer.size < config.characters:
        getattr(writer, kind)()
    return Made(kind, writer.done(f"{kind} {index}"))


def text(config: KindsConfig, index: int) -> str:
    """Text of document `index`."""
    return document(config, index).tagged.text


class _Writer:
    """One document while it is written, and its cast."""

    def __init__(self, draw: Draws) -> None:
        self.draw, self.pick = draw, draw.pick
        self.pieces: list[str] = []
        self.words: list[Word] = []
        self.size = 0
        self.persons = [(self.pick(words.FIRST_NAMES), self.surname()) for _ in range(3)]
        self.towns = [self.town() for _ in range(2)]
        self.body = self.company()

    # -- putting words down --------------------------------------------------------------------

    def put(self, pattern: str) -> None:
        """Append words: items apart by blanks, ``word|TAG`` or ``word|TAG|TYPE`` of an entity; in
        front of an item, ``~`` means that no blank comes before it."""
        for item in pattern.split(" "):
            glued, (spelt, *tags) = item[0] == "~", item.lstrip("~").split("|")
            if self.pieces and not glued and self.pieces[-1][-1] not in "\n ":
                self.add(" ")
            start = self.size
            self.add(spelt)
            self.words.append(Word(spelt, start, self.size, tags[0], "", "".join(tags[1:])))

    def add(self, piece: str) -> None:
        """Append characters that are no word."""
        self.pieces.append(piece)
        self.size += len(piece)

    def done(self, name: str) -> TaggedText:
        return TaggedText(name, "".join(self.pieces), tuple(self.words))

    # -- parts of sentences: patterns for `put` ------------------------------------------------

    def number(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + self.draw.below(high - low + 1)

    def surname(self) -> str:
        return self.pick(words.NAME_STARTS) + self.pick(words.SURNAME_ENDS)

    def town(self) -> str:
        return self.pick(words.NAME_STARTS) + self.pick(words.TOWN_ENDS)

    def company(self) -> tuple[str, ...]:
        first = self.town() if self.draw.below(2) else self.surname()
        return first, self.pick(words.TRADES), self.pick(words.BODIES)

    def person(self) -> str:
        first, last = self.pick(self.persons)
        if self.draw.below(3):
            return f"{self.pick((first, last))}|PROPN|PERSON"
        return f"{first}|PROPN|PERSON {last}|PROPN|PERSON"

    def place(self) -> str:
        return f"{self.pick(self.towns)}|PROPN|GPE"

    def organisation(self) -> str:
        return "the|DET " + " ".join(f"{word}|PROPN|ORG" for word in self.body)

    def event(self) -> str:
        names = (self.pick(self.towns), self.pick(words.EVENTS))
        return "the|DET " + " ".join(f"{name}|PROPN|EVENT" for name in names)

    def thing(self) -> str:
        noun = f"{self.pick(words.NOUNS)}|NOUN"
        if self.draw.below(2):
            noun = f"{self.pick(words.ADJECTIVES)}|ADJ {noun}"
        return f"{self.pick(words.DETERMINERS)}|DET {noun}"

    def who(self) -> str:
        kind = self.draw.below(6)
        if kind < 3:
            return self.person()
        if kind == 3:
            return f"{self.pick(words.PRONOUNS)}|PRON"
        return self.organisation() if kind == 4 else f"the|DET {self.pick(words.PROFESSIONS)}|NOUN"

    def adverb(self) -> str:
        return f"{self.pick(words.ADVERBS)}|ADV"

    def preposition(self) -> str:
        return f"{self.pick(words.PREPOSITIONS)}|ADP"

    def verb(self) -> str:
        return f"{self.pick(words.VERBS)}|VERB"

    def sentence(self, pattern: str, end: str = ".") -> None:
        """Put a pattern down with its first letter large, and `end`."""
        self.put(f"{pattern[0].upper()}{pattern[1:]} ~{end}|PUNCT")

    # -- prose ---------------------------------------------------------------------------------

    def prose(self) -> None:
        kind = self.draw.below(8)
        if kind < 3:
            clause = f"{self.who()} {self.verb()} {self.thing()}"
            if self.draw.below(2):
                clause += f" {self.preposition()} {self.thing()}"
            if self.draw.below(3) == 0:
                clause += f" ~,|PUNCT {self.pick(words.LINKS)}|CCONJ {self.verb()} {self.thing()}"
            self.sentence(clause)
        elif kind == 3:
            start = f"in|ADP {self.number(1780, 1949)}|NUM {self.who()}"
            way = f"{self.pick(words.WENT)}|VERB from|ADP {self.place()} to|ADP {self.place()}"
            self.sentence(f"{start} {way}")
        elif kind == 4:
            why = (
                f"{self.pick(words.SUBORDINATORS)}|SCONJ {self.who()} {self.verb()} {self.thing()}"
            )
            self.sentence(f"{self.who()} {self.adverb()} {self.verb()} {self.thing()} {why}")
        elif kind == 5:
            many = f"{self.number(2, 980)}|NUM {self.pick(words.ADJECTIVES)}|ADJ"
            things = f"{self.pick(words.NOUNS)}s|NOUN"
            self.sentence(f"{self.organisation()} sold|VERB {many} {things} in|ADP {self.place()}")
        elif kind == 6:
            self.sentence(f"{self.adverb()} {self.who()} {self.verb()} {self.thing()} before|ADP "
                          f"{self.event()}")  # fmt: skip
        else:
            paid = f"~{self.number(2, 99)}|NUM for|ADP {self.thing()}"
            self.sentence(
                f"{self.who()} paid|VERB $|SYM {paid} {self.preposition()} {self.place()}"
            )

    # -- dialogue ------------------------------------------------------------------------------

    def dialogue(self) -> None:
        self.put('"|PUNCT')
        first, _ = self.pick(self.persons)
        kind = self.draw.below(5)
        if self.draw.below(2):
            word = self.pick(words.INTERJECTIONS)
            self.put(f"~{word.capitalize()}|INTJ ~,|PUNCT {first}|PROPN|PERSON ~,|PUNCT")
        else:
            self.put(f"~{first}|PROPN|PERSON ~,|PUNCT")
        noun = f"{self.pick(words.NOUNS)}|NOUN"
        if kind == 0:
            self.put(f"who|PRON {self.verb()} my|DET {noun} ~?|PUNCT")
        elif kind == 1:
            self.put(f"where|ADV is|AUX the|DET {noun} ~?|PUNCT")
        elif kind == 2:
            self.put(f"I|PRON {self.verb()} it|PRON {self.preposition()} {self.thing()} ~,|PUNCT")
        elif kind == 3:
            self.put(f"you|PRON must|AUX not|PART tell|VERB {self.person()} about|ADP the|DET "
                     f"{noun} ~!|PUNCT")  # fmt: skip
        else:
            self.put(f"meet|VERB me|PRON in|ADP {self.place()} at|ADP {self.number(1, 12)}|NUM "
                     "~,|PUNCT")  # fmt: skip
        said = self.pick(words.SAID)
        self.put(f'~"|PUNCT {said}|VERB {self.person()} ~.|PUNCT')
        self.add("\n")

    # -- mathematics (after the questions of arXiv 1904.01557) ---------------------------------

    def mathematics(self) -> None:
        kind, name = self.draw.below(5), self.pick(("x", "y", "k", "n", "t"))
        a, b, c = (self.number(2, high) for high in (99, 999, 30))
        if kind == 0:
            sign, value = (("+", a + b), ("-", a - b), ("*", a * b))[self.draw.below(3)]
            self.put(f"What|PRON is|AUX {a}|NUM {sign}|SYM {b}|NUM ~?|PUNCT")
            answer = value
        elif kind == 1:
            self.put(f"Solve|VERB {c}|NUM ~*|SYM ~{name}|X +|SYM {b}|NUM =|SYM {c * a + b}|NUM "
                     f"for|ADP {name}|X ~.|PUNCT")  # fmt: skip
            answer = a
        elif kind == 2:
            self.put(f"Let|VERB f|X ~(|PUNCT ~{name}|X ~)|PUNCT =|SYM {a}|NUM ~*|SYM ~{name}|X "
                     f"-|SYM {b}|NUM ~.|PUNCT Calculate|VERB f|X ~(|PUNCT ~{c}|NUM ~)|PUNCT "
                     "~.|PUNCT")  # fmt: skip
            answer = a * c - b
        elif kind == 3:
            self.put(f"What|PRON is|AUX the|DET remainder|NOUN when|SCONJ {b}|NUM is|AUX "
                     f"divided|VERB by|ADP {c}|NUM ~?|PUNCT")  # fmt: skip
            answer = b % c
        else:
            self.put(f"Sort|VERB {a}|NUM ~,|PUNCT {b}|NUM ~,|PUNCT {c}|NUM ~.|PUNCT")
            self.add("\n")
            low, middle, high = sorted((a, b, c))
            self.put(f"{low}|NUM ~,|PUNCT {middle}|NUM ~,|PUNCT")
            answer = high
        if kind < 4:
            self.add("\n")
        self.put(f"{answer}|NUM")
        self.add("\n")

    # -- reference -----------------------------------------------------------------------------

    def reference(self) -> None:
        kind = self.draw.below(3)
        if kind == 0:
            noun, other = self.pick(words.NOUNS), self.pick(words.NOUNS)
            self.put(f"{noun}|NOUN ~,|PUNCT n.|NOUN A|DET {self.pick(words.ADJECTIVES)}|ADJ "
                     f"{other}|NOUN {self.preposition()} {self.thing()} ~;|PUNCT see|VERB "
                     f"{self.pick(words.NOUNS)}|NOUN ~.|PUNCT")  # fmt: skip
        elif kind == 1:
            born, first = self.number(1700, 1899), self.pick(words.FIRST_NAMES)
            self.put(
                f"{self.surname()}|PROPN|PERSON ~,|PUNCT {first}|PROPN|PERSON (|PUNCT "
                f"~{born}|NUM ~-|PUNCT ~{born + self.number(25, 90)}|NUM ~)|PUNCT ~,|PUNCT "
                f"{self.pick(words.ADJECTIVES)}|ADJ {self.pick(words.PROFESSIONS)}|NOUN of|ADP "
                f"{self.place()} ~,|PUNCT known|VERB for|ADP {self.thing()} ~.|PUNCT"
            )
        else:
            people = f"{self.number(1, 99)},{self.number(100, 999)}"
            self.put(
                f"{self.town()}|PROPN|GPE ~.|PUNCT A|DET town|NOUN near|ADP {self.place()} "
                f"~;|PUNCT population|NOUN {people}|NUM ~;|PUNCT founded|VERB in|ADP "
                f"{self.number(900, 1899)}|NUM by|ADP {self.organisation()} ~.|PUNCT"
            )
        self.add("\n")

    # -- code ----------------------------------------------------------------------------------

    def code(self) -> None:
        one, two, three = self.draw.some(words.IDENTIFIERS, 3)
        action = f"{self.pick(words.ACTIONS)}_{one}"
        self.put(f"def|X {action}|X ~(|PUNCT ~{two}|X ~,|PUNCT {three}|X ~)|PUNCT ~:|PUNCT")
        self.line(f"{one}|X =|SYM {two}|X ~.|PUNCT ~{self.pick(words.ACTIONS)}|X ~(|PUNCT "
                  f"~{three}|X ~)|PUNCT")  # fmt: skip
        kind = self.draw.below(3)
        sign = self.pick(("+", "-", "*", "//", "%"))
        if kind == 0:
            self.line(f"if|X {one}|X >|SYM {self.number(0, 255)}|NUM ~:|PUNCT")
            self.line(f"return|X {two}|X ~[|PUNCT ~{self.number(0, 31)}|NUM ~]|PUNCT", 2)
        elif kind == 1:
            item = self.pick(words.IDENTIFIERS)
            self.line(f"for|X {item}|X in|X {three}|X ~:|PUNCT")
            other, number = self.pick("+-*"), self.number(1, 64)
            self.line(f"{one}|X {sign}=|SYM {item}|X {other}|SYM {number}|NUM", 2)
        self.line(f"return|X {one}|X {sign}|SYM {self.number(1, 999)}|NUM")
        self.add("\n\n")

    def line(self, pattern: str, depth: int = 1) -> None:
        """A line of code, indented."""
        self.add("\n" + "    " * depth)
        self.put(pattern)
