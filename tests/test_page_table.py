"""Tables that pages make of frames."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lib import page


@pytest.mark.parametrize(
    ("value", "precision", "text"),
    [
        (0.12345, 3, "0.123"), (1234.5, 1, "1,234.5"), (2048, 3, "2,048"), (3.0, 3, "3"),
        (-0.00012, 3, "-1.2e-04"), (0.0, 3, "0"), (np.float32(0.5), 2, "0.50"),
        (np.int64(7), 2, "7"), (float("nan"), 3, "–"), (None, 3, "–"), (True, 3, "yes"),
        (np.False_, 3, "no"), ("a < b\nand c", 3, "a &lt; b<br>and c"),
        (float("inf"), 3, "inf"),
    ],
)  # fmt: skip
def test_a_cell_is_written_for_readers(value: object, precision: int, text: str) -> None:
    html = page.table(pd.DataFrame({"column": pd.Series([value], dtype=object)}), precision).data
    assert f"<td>{text}</td>" in html


def test_no_row_says_so_and_there_is_no_index() -> None:
    assert "No run yet." in page.table(pd.DataFrame(columns=["a"])).data
    html = page.table(pd.DataFrame({"a": [1]}, index=["hidden"])).data
    assert "hidden" not in html and "<th>a</th>" in html
