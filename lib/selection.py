"""Which cells of a profile: those that meet all conditions, or one of several equal parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from lib.config import NoField, differing_first, flatten, lookup, to_dict
from lib.experiments import PINNED, PROFILES, Experiment, cells_of


def parse_shard(text: str | None) -> tuple[int, int]:
    """``"2/4"`` to (2, 4): the second of four parts.

    Raises:
        ValueError: not of that form or out of range.
    """
    if text is None:
        return 1, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard is {text!r}, allowed: I/N with 1 <= I <= N, such as 1/4")
    return int(match[1]), int(match[2])


def select_cells(cells: Sequence[Any], conditions: Sequence[str]) -> list[Any]:
    """The cells for which every ``name=value`` holds; names as in ``lib.config.lookup``. Of several
    values, ``task.length=64|128``, any will do. A cell without such a field (of another block, say)
    does not fit.

    Raises:
        ValueError: a condition is malformed, its name unknown to all cells, or no cell fits.
    """
    chosen = [(cell, flatten(to_dict(cell, complete=True))) for cell in cells]
    met: dict[str, str] = {}  # conditions so far: name to value
    for condition in conditions:
        name, equals, value = (part.strip() for part in condition.partition("="))
        if not equals or not name:
            raise ValueError(f"select is {condition!r}, allowed: NAME=VALUE, such as n_layers=7")
        wanted = [one.strip() for one in value.split("|")]
        owned = [_own(flat, name) for _, flat in chosen]
        if all(own is _NONE for own in owned):
            lookup(dict.fromkeys(differing_first([flat for _, flat in chosen])), name)
        kept = [
            pair
            for pair, own in zip(chosen, owned, strict=True)
            if own is not _NONE and any(_same(own, one) for one in wanted)
        ]
        if not kept:
            values = ", ".join(sorted({str(own) for own in owned if own is not _NONE}))
            before = " and ".join(f"{other}={each}" for other, each in met.items())
            where = f" that meets {before}" if met else ""
            text = f"select {condition!r} fits no cell{where}; values: {values}"
            if name in met:
                text += f". All conditions must hold; for either write '{name}={met[name]}|{value}'"
            raise ValueError(text)
        chosen, met[name] = kept, value
    return [cell for cell, _ in chosen]


_NONE = object()


def _own(flat: dict[str, Any], name: str) -> Any:
    """A config's value by a name as in ``lib.config.lookup``; _NONE if it has no such field."""
    try:
        return flat[lookup(flat, name)]
    except NoField:
        return _NONE


def chosen_cells(
    experiment: Experiment, profile: str, select: Iterable[str], shard: str | None
) -> list[Any]:
    """The cells of a profile that the conditions and the part name, at least one.

    Raises:
        ValueError: a profile, condition or part that is none, or fits no cell.
    """
    part, parts = parse_shard(shard)
    cells = cells_of(experiment, profile)
    if not cells:
        others = ", ".join(each for each in (*PROFILES, PINNED) if cells_of(experiment, each))
        raise ValueError(f"profile is {profile!r}, allowed for {experiment.name}: {others}")
    cells = select_cells(cells, list(select))
    if part > len(cells):
        raise ValueError(
            f"shard is {shard!r}, allowed: I up to {len(cells)}, since there are {len(cells)} cells"
        )
    return cells[part - 1 :: parts]


def _same(actual: Any, text: str) -> bool:
    if isinstance(actual, bool) or actual is None:
        return str(actual).lower() == text.lower()
    if isinstance(actual, (int, float)):
        try:
            return float(text) == float(actual)
        except ValueError:
            return False
    return str(actual) == text
