"""What a model learnt of a noise: the form of its answers apart from their content.

A flipped answer has no word in common with the gold answer, so comparing the two says nothing of
what the model knows. Here an answer is read in two steps:

1. **Form.** Is it plain, character-flipped or word-flipped (or romanised)? It is unflipped both
   ways and a :class:`CharacterModel`, fitted on clean text, says which reading looks most like
   language. No list of reversed words, and no mark at the start, decides.
2. **Content.** The answer is read in that form, and compared with the gold answer. Gold answers
   restate their questions, so only their *novel* words count, those that the question has not:
   whoever repeats the question scores nothing. (In the closed world the value alone counts, which
   is stricter: ``World.is_right`` of :mod:`lib.tasks.closed_world`, on the same reading.)

Every number needs its controls: an answer that echoes the question, gold answers dealt out to other
questions, and the same measure before any noise was trained (:func:`controls`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lib.analysis.noise_third_party import normalise
from lib.tasks.noise import find_noise, flip_characters, flip_words, irrelevant, unflip_words

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

PLAIN = "plain"
FORMS = (PLAIN, "char_flip", "word_flip", "transliteration")
START, END = "\x02", "\x03"


class CharacterModel:
    """Language model over characters: how much like the fitted text another text looks.

    The probability of a character given the `order` - 1 before it mixes its frequency there with
    its probability after one character less, down to a flat one over all characters, so nothing is
    impossible. Contexts reach over spaces and to both ends of a text, which is what tells a
    sentence from its words in reverse.
    """

    def __init__(self, texts: Sequence[str], order: int = 5, weight: float = 4.0):
        """
        Args:
            texts: clean text, at least one character.
            order: characters of the longest n-gram.
            weight: how many observations the shorter context's opinion is worth.

        Raises:
            ValueError: no text, order below 1 or weight not above 0.
        """
        if not any(texts):
            raise ValueError("texts are empty, allowed: at least one character")
        if order < 1 or weight <= 0:
            raise ValueError(
                f"order is {order} and weight {weight}, allowed: at least 1, more than 0"
            )
        self.order, self.weight = order, weight
        self._counts: dict[str, int] = defaultdict(int)  # of n-grams
        self._totals: dict[str, int] = defaultdict(int)  # of contexts
        for text in texts:
            whole = self._framed(text)
            for end in range(order - 1, len(whole)):
                for size in range(order):
                    context = whole[end - size : end]
                    self._counts[context + whole[end]] += 1
                    self._totals[context] += 1
        self._characters = len({gram for gram in self._counts if len(gram) == 1}) + 1

    def _framed(self, text: str) -> str:
        return START * (self.order - 1) + " ".join(text.split()) + END

    def score(self, text: str) -> float:
        """Mean log probability of a character of `text`, in nats; the end counts as one."""
        whole = self._framed(text)
        total = 0.0
        for end in range(self.order - 1, len(whole)):
            chance = 1 / self._characters
            for size in range(self.order):
                context = whole[end - size : end]
                seen = self._totals.get(context)
                if not seen:
                    break
                count = self._counts.get(context + whole[end], 0)
                chance = (count + self.weight * chance) / (seen + self.weight)
            total += math.log(chance)
        return total / (len(whole) - self.order + 1)


@dataclass(frozen=True)
class FormReader:
    """Tells the form of an answer.

    Attributes:
        english: fitted on clean answers, such as the training data.
        romanised: fitted on romanised answers, or None where nobody was trained on them.
    """

    english: CharacterModel
    romanised: CharacterModel | None = None

    def form(self, text: str) -> str:
        """The likeliest of FORMS; plain where no other reading is likelier, as for an empty text
        or one that reads the same both ways."""
        readings = {
            PLAIN: self.english.score(text),
            "char_flip": self.english.score(flip_characters(text)),
            "word_flip": self.english.score(unflip_words(text)),
        }
        if self.romanised is not None:
            readings["transliteration"] = self.romanised.score(text)
        return max(readings, key=lambda form: readings[form])  # the first of equals

    def read(self, text: str) -> str:
        """`text` in plain form: flips taken back, whichever way it was flipped."""
        return as_plain(text, self.form(text))


def as_plain(text: str, form: str) -> str:
    """`text`, which has a form of FORMS or is noisy by the noise of that name, with a flip taken
    back; as it is for forms that have no inverse.

    Raises:
        ValueError: unknown form.
    """
    if form == PLAIN:
        return text
    inverse = find_noise(form).inverse
    return text if inverse is None else inverse(text)


def novel_words(question: str, gold: str) -> set[str]:
    """Words of the gold answer that the question has not."""
    return set(normalise(gold).split()) - set(normalise(question).split())


def novel_word_match(response: str, question: str, gold: str, threshold: float = 0.5) -> bool:
    """Whether the response has at least `threshold` of the gold answer's novel words. Where there
    are none (the question says it all) nothing can be right."""
    words = novel_words(question, gold)
    found = words & set(normalise(response).split())
    return bool(words) and len(found) / len(words) >= threshold


def repeats_itself(text: str, more_than: int = 2) -> bool:
    """Whether any three words in a row occur more than so often in `text`."""
    words = text.split()
    seen = Counter(zip(words, words[1:], words[2:], strict=False))
    return max(seen.values(), default=0) > more_than


def rouge_l(response: str, gold: str, scorer: RougeScorer | None = None) -> float:
    """ROUGE-L F1 of `rouge_score`, without stemming: longest common subsequence of words."""
    if scorer is None:
        scorer = rouge_scorer()
    return float(scorer.score(gold, response)["rougeL"].fmeasure)


def rouge_scorer() -> RougeScorer:
    """A scorer to share between many calls of :func:`rouge_l`."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


Row = Mapping[str, float]


def score_answers(
    responses: Sequence[str], questions: Sequence[str], golds: Sequence[str], reader: FormReader,
    rouge: bool = True,
) -> list[Row]:  # fmt: skip
    """Every sound measure of every answer, by name; an accuracy is 0 or 1.

    Names: ``form_<form>`` (exact-format rate: 1 for the answer's form); ``novel`` (novel-word
    accuracy as written); ``content`` (the same after the form was taken back, whichever it is);
    ``content_char_flip``, ``content_word_flip`` (after that flip was taken back, right or not);
    ``rouge_l`` (as written), ``rouge_l_content`` (form taken back), both left out without `rouge`,
    which needs a package of its own; ``repeats``.

    Raises:
        ValueError: no rows, or columns of different lengths.
    """
    if not len(responses) or len({len(responses), len(questions), len(golds)}) != 1:
        raise ValueError(
            f"{len(responses)} responses, {len(questions)} questions, {len(golds)} gold answers; "
            "allowed: equally many, at least one"
        )
    scorer = rouge_scorer() if rouge else None
    rows: list[Row] = []
    for response, question, gold in zip(responses, questions, golds, strict=True):
        form = reader.form(response)
        plain = as_plain(response, form)
        row = {f"form_{name}": float(name == form) for name in FORMS}
        row["novel"] = float(novel_word_match(response, question, gold))
        row["content"] = float(novel_word_match(plain, question, gold))
        for name in ("char_flip", "word_flip"):
            row[f"content_{name}"] = float(
                novel_word_match(as_plain(response, name), question, gold)
            )
        if scorer is not None:
            row["rouge_l"] = rouge_l(response, gold, scorer)
            row["rouge_l_content"] = rouge_l(plain, gold, scorer)
        row["repeats"] = float(repeats_itself(response))
        rows.append(row)
    return rows


def controls(questions: Sequence[str], golds: Sequence[str], seed: int = 0) -> dict[str, list[str]]:
    """Answers that no model gave, to be scored beside the models':

    * ``echo``: the question; what is scored for it is no knowledge.
    * ``gold``: the right answer; what it does not score, no model can.
    * ``shuffled``: right answers to other questions, dealt out with `seed`; what they score is due
      to words that answers share.
    * ``gold_char_flip``, ``gold_word_flip``: right answers with the noise.
    """
    return {
        "echo": list(questions),
        "gold": list(golds),
        "shuffled": irrelevant(golds, seed),
        "gold_char_flip": [flip_characters(gold) for gold in golds],
        "gold_word_flip": [flip_words(gold) for gold in golds],
    }
