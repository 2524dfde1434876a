"""Published numbers of the memory chapter, from ``book/reference/memory.yml``, as shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    data = _reference(root)
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


def omitted_by_length(root: Path = provenance.ROOT) -> pd.DataFrame:
    """Published counts of omitted tokens: length, omission (share of all tokens), first and last
    (counts in the first and the last part of the text), ratio of these."""
    data = _reference(root)
    found = data["omitted_by_length"]
    table = pd.DataFrame({"length": data["lengths"], "omission": found["total"]})
    table["omission"] /= found["tokens"]
    table["first"], table["last"] = found["first_bin"], found["last_bin"]
    return table.assign(ratio=table["first"] / table["last"])


def omitted_by_perplexity(root: Path = provenance.ROOT) -> pd.DataFrame:
    """Published omission by the reference's perplexity: x (lower end of the bin), omission, count
    (records)."""
    found = _reference(root)["omission_by_perplexity"]
    return pd.DataFrame(
        {"x": found["start"], "omission": [v / 100 for v in found["omission"]],
         "count": found["records"]}
    )  # fmt: skip


def _reference(root: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((root / "book" / "reference" / "memory.yml").read_text())
    return data
