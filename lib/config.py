"""Frozen dataclass configs as canonical JSON, and back.

A cell's identity is the hash of its canonical JSON, so this module must map equal configs to equal
text: floats stay floats even when written as ``1``, tuples become lists, and a dataclass that can
stand for several things carries its class attribute ``kind``.

A field that is added to a config after records were published is declared with ``added_later``;
it is left out of the canonical form while it holds its default, so that old records keep their
identity.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
_ADDED = "added_later"
SHOWN, SHOWN_NEAR = 16, 3  # names of fields in an error


def added_later(default: Any) -> Any:
    """Field of a frozen config added after records exist: absent from the identity at `default`."""
    return dataclasses.field(default=default, metadata={_ADDED: True})


def require(config: Any, name: str, fits: bool, allowed: str) -> None:
    """Raise a ValueError that names config, field, value and what is allowed, unless `fits`."""
    if not fits:
        value = getattr(config, name)
        raise ValueError(f"{type(config).__name__}.{name} is {value!r}, allowed: {allowed}")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def to_dict(config: Any, complete: bool = False) -> dict[str, Any]:
    """Plain JSON values of a (nested) config dataclass.

    Args:
        complete: also the fields that were added later and hold their default. For choosing among
            cells by any field; such a dict is not the canonical form.

    Raises:
        TypeError: `config` is not a dataclass instance, or holds a value JSON cannot carry.
        ValueError: a float is not finite (JSON has no such number).
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"config must be a dataclass instance, got {type(config).__name__}")
    hints = _hints(type(config))
    out: dict[str, Any] = {}
    kind = getattr(type(config), "kind", None)
    if isinstance(kind, str):
        out["kind"] = kind
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get(_ADDED) and value == field.default and not complete:
            continue
        where = f"{type(config).__name__}.{field.name}"
        out[field.name] = _plain(value, hints[field.name], where, complete)
    return out


def _plain(value: Any, hint: Any, where: str, complete: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value, complete)
    if isinstance(value, (tuple, list)):
        return [
            _plain(item, inner, where, complete)
            for item, inner in zip(value, _item_hints(hint, len(value)), strict=True)
        ]
    if isinstance(value, dict):
        return {
            str(name): _plain(item, Any, f"{where}.{name}", complete)
            for name, item in value.items()
        }
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return float(value) if _wants_float(hint) else value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} must be finite, got {value}")
        return value
    raise TypeError(f"{where} holds a {type(value).__name__}, which a record cannot carry")


def _item_hints(hint: Any, count: int) -> list[Any]:
    """Types of a tuple's items, also for an optional tuple."""
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    for option in options:
        args = typing.get_args(option)
        if typing.get_origin(option) is tuple and args:
            return [args[0]] * count if args[-1] is Ellipsis else list(args)
    return [Any] * count


def _wants_float(hint: Any) -> bool:
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    return float in options and int not in options


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def from_dict(cls: type[T], data: dict[str, Any], where: str = "") -> T:
    """Rebuild config class `cls` from :func:`to_dict`'s output; the inverse, fully checked.

    Raises:
        ValueError: an unknown or missing field, or a value of the wrong type, named by its path.
    """
    where = where or cls.__name__
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be an object, got {data!r}")
    hints = _hints(cls)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields) - {"kind"})
    if unknown:
        raise ValueError(f"{where} has no field {unknown[0]!r}; its fields: {sorted(fields)}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _revive(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} lacks the field {name!r}")
    return cls(**values)


def _revive(hint: Any, value: Any, where: str) -> Any:
    if _is_union(hint):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        options = tuple(o for o in options if o is not type(None))
        if isinstance(value, dict):
            for option in options:
                if getattr(option, "kind", None) == value.get("kind"):
                    return from_dict(option, value, where)
            kinds = [getattr(o, "kind", o) for o in options]
            raise ValueError(f"{where}.kind is {value.get('kind')!r}, allowed: {kinds}")
        for option in options:
            try:
                return _revive(option, value, where)
            except ValueError:
                continue
        raise ValueError(f"{where} is {value!r}, allowed types: {hint}")
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} must be a list, got {value!r}")
        inner = _item_hints(hint, len(value))
        if len(inner) != len(value):
            raise ValueError(f"{where} must have {len(inner)} items, got {len(value)}")
        return tuple(
            _revive(h, v, f"{where}[{i}]")
            for i, (h, v) in enumerate(zip(inner, value, strict=True))
        )
    if typing.get_origin(hint) is typing.Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{where} is {value!r}, allowed: {list(typing.get_args(hint))}")
        return value
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be an object, got {value!r}")
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any:
        return value
    # bool is an int in Python; a seed of True is a mistake, not a 1
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, finite numbers only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of :func:`canonical_json` of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict to ``{"model.n_layers": 7}``; list items are numbered, ``"a.0.b"``."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            value = {str(i): v for i, v in enumerate(value)}
        if isinstance(value, dict):
            out.update(flatten(value, path + "."))
        else:
            out[path] = value
    return out


class NoField(ValueError):
    """A name that no path of a config ends in. Its text comes when it is asked for: choosing among
    cells meets many of these and shows none.

    Args:
        name: what was asked for.
        paths: those there are, the most telling first.
    """

    def __init__(self, name: str, paths: Iterable[str]) -> None:
        super().__init__(name, tuple(paths))

    def __str__(self) -> str:
        name, paths = self.args
        names = list(short_names(paths).values())
        # by last parts: long paths are never near a short name
        lasts = {last: each for each in names if (last := each.rpartition(".")[2])}
        wanted = name.rpartition(".")[2]
        near = [lasts[last] for last in difflib.get_close_matches(wanted, lasts, SHOWN_NEAR, 0.7)]
        rest = [each for each in names if each not in near]
        shown = ", ".join(rest[:SHOWN])
        if len(rest) > SHOWN:
            shown += f" and {len(rest) - SHOWN} more"
        if not near:
            return f"no field {name!r}; fields: {shown}"
        others = f"; others: {shown}" if rest else ""
        return f"no field {name!r}; fields like it: {', '.join(near)}{others}"


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Each path to its shortest end that :func:`lookup` takes for it: ``model.n_layers`` to
    ``n_layers``."""
    paths = tuple(paths)
    ends = {path: _ends(path) for path in paths}
    meant = Counter(end for every in ends.values() for end in every)
    whole = set(paths)
    return {
        path: next((end for end in every if meant[end] == 1 and end not in whole), path)
        for path, every in ends.items()
    }


def _ends(path: str) -> list[str]:
    """``a.b.0.c`` to ``c`` and ``b.0.c``, shortest first; without the path itself, and without ends
    that begin with an item's number, which say little."""
    parts = path.split(".")
    return [".".join(parts[at:]) for at in range(len(parts) - 1, 0, -1) if not parts[at].isdigit()]


def differing_first(flats: Sequence[dict[str, Any]]) -> list[str]:
    """All paths of flat configs, first those by which they differ: one would select by these."""
    paths = list(dict.fromkeys(path for flat in flats for path in flat))
    values = {path: {repr(flat.get(path, NoField)) for flat in flats} for path in paths}
    return sorted(paths, key=lambda path: len(values[path]) == 1)


def lookup(flat: dict[str, Any], name: str) -> str:
    """The full path in `flat` that `name` means: itself, or the one path that ends in ``.name``.

    Raises:
        ValueError: no path (NoField) or more than one path fits; the message lists candidates.
    """
    if name in flat:
        return name
    found = [path for path in flat if path.endswith("." + name)]
    if len(found) == 1:
        return found[0]
    if found:
        names = short_names(flat)
        raise ValueError(f"{name!r} is ambiguous: {', '.join(names[path] for path in found)}")
    raise NoField(name, flat)
