"""Documents in padded rows: which targets are text, and that nothing of a document is lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.tasks.padding import IGNORED, padded_rows, with_padding
from lib.tasks.tokenizers import ByteTokenizer

BYTES = ByteTokenizer()


def test_a_row_by_hand() -> None:
    inputs, targets = padded_rows(["abc"], BYTES, 7)
    end = BYTES.eos
    assert inputs.tolist() == [[end, 97, 98, 99, end, end, end]]
    assert targets.tolist() == [[97, 98, 99, end, IGNORED, IGNORED, IGNORED]]
    assert with_padding(targets, end).tolist() == [[97, 98, 99, end, end, end, end]]


@given(st.lists(st.text(max_size=12), min_size=1, max_size=5), st.integers(1, 15))
def test_text_targets_are_the_document_and_its_end_cut_to_the_row(
    documents: list[str], length: int
) -> None:
    inputs, targets = padded_rows(documents, BYTES, length)
    for row, document in enumerate(documents):
        wanted = [*document.encode(), BYTES.eos][:length]
        kept = targets[row][targets[row] != IGNORED]
        assert kept.tolist() == wanted
        assert (targets[row, len(wanted) :] == IGNORED).all()
        # every target but the last is the next input
        counted = with_padding(targets[row], BYTES.eos)
        assert inputs[row, 1:].tolist() == counted[:-1].tolist() and inputs[row, 0] == BYTES.eos
    assert inputs.dtype == targets.dtype == torch.int64 and inputs.shape == (len(documents), length)


@pytest.mark.parametrize(("documents", "length"), [([], 4), (["a"], 0)])
def test_nothing_to_lay_out_is_refused(documents: list[str], length: int) -> None:
    with pytest.raises(ValueError, match=r"documents and length are .* allowed: at least 1 each"):
        padded_rows(documents, BYTES, length)
