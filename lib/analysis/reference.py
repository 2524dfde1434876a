"""Published numbers that ours are compared with, from ``book/reference``: facts, no records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from lib import provenance

LABELS = ("composite", "symmetric")
KINDS = ("best", "final")
PARTS = ("train", "test", "ood")
TEXTS = ("source", "where", "taken", "meaning", "missing")


class ReferenceDataError(ValueError):
    """A file of published numbers that cannot be used, naming file and field."""


@dataclass(frozen=True)
class Reference:
    """A published phase diagram, as read from ``book/reference``.

    Attributes:
        source: bibtex key.
        where: figure or files there; `taken`: how the numbers were read from them.
        meaning: what one number is; `missing`: what the source does not give.
        seeds: seeds behind one number.
        maps: metric, such as ``"best_composite"``, to its map.
        failed: (n_layers, gamma) of the cells that the source reports as failed.
    """

    source: str
    where: str
    taken: str
    meaning: str
    missing: str
    seeds: int
    maps: dict[str, pd.DataFrame]
    failed: tuple[tuple[int, float], ...] = ()

    def cells(self, metric: str) -> int:
        """How many cells of a map have a number."""
        return int(self.maps[metric].notna().sum().sum())


@dataclass(frozen=True)
class Counts:
    """Published counts by pair of anchors, as read from ``book/reference``.

    Attributes:
        source, where, taken, meaning, missing: as in :class:`Reference`.
        sequences: how many sequences each count is of.
        shares: name, such as ``"blocking"``, to pair (43) to count / sequences.
    """

    source: str
    where: str
    taken: str
    meaning: str
    missing: str
    sequences: int
    shares: dict[str, dict[int, float]]


def load_counts(name: str, root: Path = provenance.ROOT) -> Counts:
    """Published counts by pair from ``book/reference/<name>.yml``, checked.

    Raises:
        ReferenceDataError: unreadable, a field missing, or a count outside 0..sequences.
    """
    data = _read(name, root, ("sequences", "counts"))
    total = int(data["sequences"])
    shares: dict[str, dict[int, float]] = {}
    for kind, counts in data["counts"].items():
        wrong = [pair for pair, count in counts.items() if not 0 <= count <= total]
        if wrong:
            given = f"{kind} of pair {wrong[0]} is {counts[wrong[0]]}"
            raise ReferenceDataError(f"{name}.yml: {given}, allowed: 0..{total}")
        shares[kind] = {int(pair): count / total for pair, count in counts.items()}
    facts = {key: str(data[key]).strip() for key in TEXTS}
    return Counts(**facts, sequences=total, shares=shares)


def load_parts(name: str, root: Path = provenance.ROOT) -> dict[str, dict[float, dict[str, float]]]:
    """Published accuracies from ``book/reference/<name>.yml``, checked: model to gamma to part
    (train, test, ood) to accuracy.

    Raises:
        ReferenceDataError: unreadable, a field missing, an unknown part, or no accuracy.
    """
    data = _read(name, root, ("models",))
    for model, rows in data["models"].items():
        for gamma, parts in rows.items():
            for part, value in parts.items():
                if part not in PARTS or not 0 <= value <= 1:
                    raise ReferenceDataError(
                        f"{name}.yml: {model}, gamma {gamma}, {part} is {value}, allowed: "
                        f"{', '.join(PARTS)} in 0..1"
                    )
    return {
        str(model): {float(gamma): dict(parts) for gamma, parts in rows.items()}
        for model, rows in data["models"].items()
    }


def load_reference(name: str, root: Path = provenance.ROOT) -> Reference:
    """Published numbers from ``book/reference/<name>.yml``, checked.

    The file has `n_layers` and `gamma`, and either a grid for each label, or for one of them
    (``composite: {7: [...]}`` of the file's `kind`, best or final), or `columns` and `cells`, a row
    for each cell there is.

    Raises:
        ReferenceDataError: unreadable, a field missing, a grid of another shape, or a number
            that is no accuracy.
    """
    data = _read(name, root, ("seeds", "n_layers", "gamma"))
    file = f"{name}.yml"
    maps = _listed(data, file) if "cells" in data else _printed(data, file)
    for metric, values in maps.items():
        found = values.to_numpy()
        if ((found < 0) | (found > 1)).any():  # NaN is neither: a cell that the source lacks
            raise ReferenceDataError(f"{file}: {metric} has a number outside 0..1")
    failed = tuple((int(layers), float(gamma)) for layers, gamma in data.get("failed", ()))
    facts = {key: str(data[key]).strip() for key in TEXTS}
    return Reference(**facts, seeds=int(data["seeds"]), maps=maps, failed=failed)


def _read(name: str, root: Path, fields: tuple[str, ...]) -> dict[str, Any]:
    """A file of ``book/reference`` with its texts and `fields`."""
    path = root / "book" / "reference" / f"{name}.yml"
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ReferenceDataError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ReferenceDataError(f"{path.name} must hold an object")
    absent = [key for key in (*TEXTS, *fields) if key not in data]
    if absent:
        raise ReferenceDataError(f"{path.name} lacks the field {absent[0]!r}")
    return data


def _empty(data: dict[str, Any]) -> pd.DataFrame:
    layers = pd.Index(data["n_layers"], name="n_layers")
    gammas = pd.Index([float(g) for g in data["gamma"]], name="gamma")
    return pd.DataFrame(np.nan, index=layers, columns=gammas)


def _printed(data: dict[str, Any], file: str) -> dict[str, pd.DataFrame]:
    """Maps from a full grid a label."""
    kind = data.get("kind")
    if kind not in KINDS:
        raise ReferenceDataError(f"{file}: kind is {kind!r}, allowed: {', '.join(KINDS)}")
    maps = {}
    given = [label for label in LABELS if label in data]
    for label in given or LABELS:  # none at all is an error below
        grid, rows = _empty(data), data.get(label)
        if not isinstance(rows, dict) or set(rows) != set(grid.index):
            raise ReferenceDataError(f"{file}: {label} must have a row for {list(grid.index)}")
        for layers, values in rows.items():
            if len(values) != grid.shape[1]:
                raise ReferenceDataError(
                    f"{file}: {label}, {layers} layers has {len(values)} numbers, "
                    f"allowed: {grid.shape[1]}"
                )
            grid.loc[layers] = [float(value) for value in values]
        maps[f"{kind}_{label}"] = grid
    return maps


def _listed(data: dict[str, Any], file: str) -> dict[str, pd.DataFrame]:
    """Maps from a list of cells."""
    columns = data.get("columns", [])
    metrics = [name for name in columns if name.startswith(KINDS)]
    if columns[:2] != ["n_layers", "gamma"] or not metrics:
        raise ReferenceDataError(
            f"{file}: columns must begin with n_layers, gamma and have metrics"
        )
    maps = {metric: _empty(data) for metric in metrics}
    for row in data["cells"]:
        if len(row) != len(columns):
            raise ReferenceDataError(f"{file}: {row} has {len(row)} items, allowed: {len(columns)}")
        cell = dict(zip(columns, row, strict=True))
        layers, gamma = cell["n_layers"], float(cell["gamma"])
        for metric, grid in maps.items():
            if layers not in grid.index or gamma not in grid.columns:
                raise ReferenceDataError(f"{file}: {row} lies outside n_layers and gamma")
            if not np.isnan(grid.loc[layers, gamma]):
                raise ReferenceDataError(f"{file}: {layers} layers, gamma {gamma} stands twice")
            grid.loc[layers, gamma] = float(cell[metric])
    return maps
