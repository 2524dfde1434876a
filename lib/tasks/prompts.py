"""How questions and answers are worded for a model: the templates of arXiv 2407.00996.

Read off the authors' files, whose training rows carry labels.
"""

from __future__ import annotations

import re
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
