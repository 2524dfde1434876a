"""A language model as judge of answers, as arXiv 2407.00996 has one (google/gemma-1.1-7b-it).

The judge reads question, right answer and given answer, and says Yes or No, greedily. The wording
here is ours: the paper's asks whether the two answers are "very similar" for three of its models
and "similar" for the fourth, which is another strictness; `strict` chooses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lib.analysis.answers import respond
from lib.tasks.question_answers import Codes

WORDS = {True: "very similar", False: "similar"}
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
TOKENS = 8  # in which a judge must have said one of the two


def judge_prompt(question: str, gold: str, said: str, strict: bool = True) -> str:
    """What the judge is asked."""
    return (
        f"Question: {question.strip()}\nCorrect answer: {gold.strip()}\n"
        f"Given answer: {said.strip()}\n"
        f"Is the given answer {WORDS[strict]} in meaning to the correct answer? "
        "Say only Yes or No.\nVerdict:"
    )


def verdict(text: str) -> bool | None:
    """Whether a judge's text says yes; None where it says neither."""
    found = _VERDICT.search(text)
    return None if found is None else found[1].lower() == "yes"


def judge_answers(
    model: Any, tokenizer: Codes, questions: Sequence[str], golds: Sequence[str],
    responses: Sequence[str], strict: bool = True, rows: int = 16,
) -> list[bool | None]:  # fmt: skip
    """The judge's verdict on each response; None where it says neither yes nor no. Answers that
    have a form (flipped ones) are to be given with it taken back, as in the paper.

    Args:
        model: any causal model that :func:`lib.analysis.answers.respond` takes.

    Raises:
        ValueError: columns of different lengths, or none.
    """
    if not len(responses) or len({len(questions), len(golds), len(responses)}) != 1:
        raise ValueError(
            f"{len(questions)} questions, {len(golds)} gold answers, {len(responses)} responses; "
            "allowed: equally many, at least one"
        )
    prompts = [judge_prompt(*row, strict) for row in zip(questions, golds, responses, strict=True)]
    return [verdict(text) for text in respond(model, tokenizer, prompts, TOKENS, rows)]
