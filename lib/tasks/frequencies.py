"""How often categories occur in made-up text, so that changing one moves no other.

Every category has a stretch of 0..1 of its own, `rate` wide, of which a frequency below 1 uses a
part only; what a frequency above 1 needs beyond it is taken from behind all stretches, where
nothing in particular stands. So an item drawn at a place in 0..1 keeps its category when another
category's frequency changes, unless it was or becomes one of those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib.config import require


def require_fit(config: Any, names: Sequence[str], rate: float) -> None:
    """Refuse frequencies (fields `names` of `config`) below 0, or for which 0..1 has no room.

    A category below 1 keeps its whole stretch: the rest of it stays plain, so that nothing else
    moves there. It takes as much room as one at 1.

    Raises:
        ValueError: naming the field, its value and the allowed range.
    """
    whole = 1 / rate + 1e-9
    # the largest first: it is the one to blame if they do not fit together
    for name in sorted(names, key=lambda name: -getattr(config, name)):
        rest = whole - sum(max(getattr(config, other), 1) for other in names if other != name)
        fits = 0 <= getattr(config, name) <= rest
        require(
            config, name, fits,
            f"0..{max(rest, 0):.4g} (with at least 1 for each of the others, frequencies add up to "
            f"at most {whole:.4g})",
        )  # fmt: skip


def category_at(at: float, frequencies: Mapping[str, float], rate: float) -> str | None:
    """Category at a place in 0..1, None where nothing in particular stands.

    Args:
        frequencies: category to frequency, in the order of the stretches.
        rate: width of a stretch, the share of a category at frequency 1.
    """
    start, more = 0.0, len(frequencies) * rate
    for name, frequency in frequencies.items():
        if start <= at < start + rate * min(frequency, 1):
            return name
        extra = rate * max(frequency - 1, 0)
        if more <= at < more + extra:
            return name
        start, more = start + rate, more + extra
    return None
