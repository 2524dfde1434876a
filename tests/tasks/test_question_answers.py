from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.tasks.question_answers import longest, pack
from lib.tasks.tokenizers import ByteTokenizer

BYTES = ByteTokenizer()
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_what_is_scored_is_the_answer_and_its_end(pairs: list[tuple[str, str]]) -> None:
    prompts, answers = (list(column) for column in zip(*pairs, strict=True))
    rows = pack(prompts, answers, BYTES)
    whole = pack(prompts, answers, BYTES, scored="whole")
    assert rows.kept == tuple(range(len(pairs)))
    assert rows.tokens.shape[1] == longest(prompts, [answers], BYTES) + 1
    for row, (prompt, answer) in enumerate(pairs):
        targets = rows.tokens[row, 1:]
        scored = targets[rows.first[row] : rows.last[row]].tolist()
        assert scored == [*answer.encode(), BYTES.eos]
        everything = targets[whole.first[row] : whole.last[row]].tolist()
        assert everything == [*prompt.encode()[1:], *answer.encode(), BYTES.eos]
        assert (targets[rows.last[row] :] == BYTES.eos).all()  # padding stands on the right


def test_the_tokens_of_a_prompt_do_not_depend_on_its_answer() -> None:
    a, b = (pack(["ask"], [answer], BYTES, 20).tokens[0, :3] for answer in ("x", "yz"))
    assert a.equal(b)


def test_long_pairs_are_refused_left_out_or_cut() -> None:
    prompts, answers = ["ab", "abcdefgh", "a"], ["1234567", "1", "2"]
    with pytest.raises(ValueError, match="pair 0 has 9 targets, allowed: up to length 6"):
        pack(prompts, answers, BYTES, 6)
    assert pack(prompts, answers, BYTES, 6, too_long="drop").kept == (2,)
    cut = pack(prompts, answers, BYTES, 6, too_long="cut")
    assert cut.kept == (0, 2)  # of pair 1 no target of the answer would be left
    assert bytes(cut.tokens[0].tolist()) == b"ab12345" and int(cut.last[0]) == 6
    with pytest.raises(ValueError, match="length is 1, allowed: at least the targets of one pair"):
        pack(["abc"], ["d"], BYTES, 1, too_long="drop")


@pytest.mark.parametrize(
    ("prompts", "answers", "options", "message"),
    [
        ([], [], {}, "0 prompts and 0 answers"),
        (["a"], ["b", "c"], {}, "1 prompts and 2 answers, allowed: equally many"),
        (["a"], [""], {}, "answer 0 is empty"),
        ([""], ["a"], {}, "prompt 0 is empty"),
        (["a"], ["b"], {"length": 0}, "length is 0, allowed: at least 1"),
        (["a"], ["b"], {"scored": "x"}, "scored is 'x', allowed: answer, whole"),
        (["a"], ["b"], {"too_long": "x"}, "too_long is 'x', allowed: refuse, drop, cut"),
    ],
)
def test_bad_input_is_named(
    prompts: list[str], answers: list[str], options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pack(prompts, answers, BYTES, **options)


def test_tensors_are_those_of_batches() -> None:
    rows = pack(["a", "b"], ["c", "d"], BYTES)
    assert len(rows) == 2 and [len(t) for t in rows.tensors] == [2, 2, 2]
    assert rows.tensors[-1].dtype == torch.int64
