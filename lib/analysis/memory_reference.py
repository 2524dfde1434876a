"""Published numbers of the memory chapter, from ``book/reference/memory.yml``, as shares."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from lib import provenance

TABLES = ("rouge_by_size", "rouge1_by_source", "rouge1_by_dialect")
GROUPS = ("omission_by_pos", "omission_by_entity")


def published(table: str, root: Path = provenance.ROOT) -> pd.DataFrame:
    """One row a printed number.

    Args:
        table: of the first kind, by length: columns model, group ("" by size), length, value; of
            the second, at length 256: model, group, value.

    Raises:
        ValueError: no such table, or one whose rows have not as many numbers as lengths.
    """
    if table not in (*TABLES, *GROUPS):
        raise ValueError(f"table is {table!r}, allowed: {', '.join((*TABLES, *GROUPS))}")
    data = yaml.safe_load((root / "book" / "reference" / "memory.yml").read_text())
    lengths, found = data["lengths"], data[table]
    if table in GROUPS:
        shares = [(m, group, v / 100) for m, own in found.items() for group, v in own.items()]
        return pd.DataFrame(shares, columns=["model", "group", "value"])
    curves = {
        (model, group): values
        for model, own in found.items()
        for group, values in (own.items() if isinstance(own, dict) else [("", own)])
    }
    for name, values in curves.items():
        if len(values) != len(lengths):
            raise ValueError(f"{table} {name} has {len(values)} numbers, allowed: {len(lengths)}")
    rows = [
        (*name, length, value / 100)
        for name, values in curves.items()
        for length, value in zip(lengths, values, strict=True)
    ]
    return pd.DataFrame(rows, columns=["model", "group", "length", "value"])
