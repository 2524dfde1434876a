from __future__ import annotations

import pytest

from lib.analysis import judge
from lib.tasks.tokenizers import ByteTokenizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Yes", True),
        ("no.", False),
        ("I say: NO, not yes", False),
        ("Yesterday", None),
        ("", None),
    ],
)
def test_the_first_of_yes_and_no_decides(text: str, expected: bool | None) -> None:
    assert judge.verdict(text) is expected


def test_a_judge_reads_question_gold_and_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def respond(
        model: object, codes: object, prompts: list[str], most: int, rows: int
    ) -> list[str]:
        seen.extend(prompts)
        return [" Yes" if "Given answer: Paris" in prompt else " No" for prompt in prompts]

    monkeypatch.setattr(judge, "respond", respond)
    rows = (["Capital of France?", "Of Italy?"], ["Paris.", "Rome."], ["Paris", "Oslo"])
    assert judge.judge_answers(None, ByteTokenizer(), *rows) == [True, False]
    for column, prompt in zip(zip(*rows, strict=True), seen, strict=True):
        assert all(text in prompt for text in column) and "very similar" in prompt
    assert "very similar" not in judge.judge_prompt("q", "g", "a", strict=False)
    with pytest.raises(ValueError, match="equally many, at least one"):
        judge.judge_answers(None, ByteTokenizer(), ["q"], [], ["a"])
