"""Rows of tables by number, for many runs at once.

PyTorch's kernel took 356 us of a training step for 590,000 rows of 32 float32 numbers on an H200,
whose memory could have taken them in some 20, by count of its rate. This one has not been measured.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rows_of(
    table, table_s, index, index_s, out, numbers,
    V: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out (r, n, M), without gaps: rows of table (r, V, M) by index (r, n), M <= COLUMNS. A number
    that is no row's gets what is no number. Grid: (ROWS of the n, runs), flat."""
    lots = (numbers + ROWS - 1) // ROWS
    run = (tl.program_id(0) // lots).to(tl.int64)
    i = tl.program_id(0) % lots * ROWS + tl.arange(0, ROWS)
    m = tl.arange(0, COLUMNS)
    here = i < numbers
    row = tl.load(index + run * index_s[0] + i * index_s[1], mask=here, other=0).to(tl.int64)
    known = here & (row >= 0) & (row < V)
    at = table + run * table_s[0] + row[:, None] * table_s[1] + m[None, :] * table_s[2]
    found = tl.load(at, mask=known[:, None] & (m[None, :] < M), other=float("nan"))
    out += (run * numbers + i)[:, None] * M + m[None, :]
    tl.store(out, found, mask=here[:, None] & (m[None, :] < M))
