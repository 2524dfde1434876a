"""How questions and answers are worded for a model: the templates of arXiv 2407.00996.

Read off the authors' files: training rows carry labels, and the in-context test shows five examples
with noisy answers before the question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """A question and its answer; an empty answer where the source has none."""

    question: str
    answer: str


def to_template(instruction: str, context: str = "") -> str:
    """A question as the authors' D_ad has it: "Instruction: ...", a blank line, then "Input: ..."
    or nothing, and one space at the end."""
    return f"Instruction: {instruction}\n\n" + (f"Input: {context} " if context else " ")


def without_label(text: str) -> str:
    """`text` without a leading "Instruction:" or "Output:" in any case, stripped."""
    return re.sub(r"^\s*(?:instruction|output):", "", text, count=1, flags=re.IGNORECASE).strip()


# the words of the authors' in-context prompts, as their files have them
PATTERN_PROMPT = (
    "Identify the pattern in the way answers are generated for each question given below and "
    "generate answer for the final question in the same pattern.\n\n"
    "Make sure you generate only the answer to the question and no additional explanations or "
    "details.\n"
)
_SHOWN = re.compile(r"Question: (.*?)\nAnswer: (.*?)(?=\nQuestion: |\Z)", re.DOTALL)


def in_context_prompt(examples: Sequence[Pair], question: str) -> str:
    """The authors' prompt: examples with noisy answers, then the question to be answered."""
    shown = "".join(f"Question: {pair.question}\nAnswer: {pair.answer}\n" for pair in examples)
    return f"{PATTERN_PROMPT}{shown}Question: {question}\nAnswer: "


def in_context_examples(prompt: str) -> list[Pair]:
    """The examples of an in-context prompt, without its last question, which has no answer."""
    return [Pair(asked, said) for asked, said in _SHOWN.findall(prompt) if said.strip()]
