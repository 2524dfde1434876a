"""Numbers that readers give to a page, checked before anything runs."""

from __future__ import annotations


def check_whole(name: str, value: int, least: int, most: int | None = None) -> None:
    """Refuse what is no whole number from `least` to `most`.

    Args:
        name: of the parameter, for the message.
        most: None for no limit.

    Raises:
        ValueError: naming parameter, value and what is allowed.
    """
    # True is an int in Python; as a length it is a mistake
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} is {value!r}, allowed: a whole number, {allowed}")
