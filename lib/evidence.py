"""The cells and records that claims ask for; what several claims share is looked up once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lib.config import NoField, flatten, lookup, to_dict
from lib.experiments import cells_of, find
from lib.store import Record, Store

if TYPE_CHECKING:
    from lib.claims import Claim


class Evidence:
    """What claims ask for, of one store.

    Good for as long as no record changes: make a new one for each report.
    """

    def __init__(self, store: Store | None = None):
        self.store = store
        self._grids: dict[tuple[str, str], list[tuple[Any, dict[str, Any]]]] = {}
        self._records: dict[tuple[str, str], dict[Any, Record | None]] = {}
        self._paths: dict[tuple[str, tuple[str, ...]], str | None] = {}

    def cells(self, claim: Claim) -> list[Any]:
        """The cells that test `claim`; as for ``run --select``, a cell without a field that its
        `select` names (of another block, say) is none of them.

        Raises:
            ValueError: unknown experiment, a name in `select` that no cell has, no cell fits, or no
                cell has one of the values that `select` lists.
        """
        key = claim.experiment, claim.profile
        if key not in self._grids:
            cells = cells_of(find(claim.experiment), claim.profile)
            self._grids[key] = [(cell, flatten(to_dict(cell, complete=True))) for cell in cells]
        chosen = self._grids[key]
        for name, wanted in claim.select.items():
            paths = [self._path(flat, name) for _, flat in chosen]
            if chosen and not any(paths):
                lookup(chosen[0][1], name)  # which says what there is
            pairs = [
                (cell, cell[1][path]) for cell, path in zip(chosen, paths, strict=True) if path
            ]
            values = [value for _, value in pairs]
            chosen = [cell for cell, value in pairs if _fits(value, wanted)]
            if isinstance(wanted, list) and wanted not in values:
                absent = [each for each in wanted if each not in values]
                if absent:
                    raise ValueError(f"select {name}: {absent[0]!r} fits no cell")
        if not chosen:
            raise ValueError(f"select {claim.select} fits no cell of {claim.experiment}")
        return [cell for cell, _ in chosen]

    def _path(self, flat: dict[str, Any], name: str) -> str | None:
        """``lib.config.lookup``, once for all configs with the same fields; None without one."""
        key = name, tuple(flat)
        if key not in self._paths:
            try:
                self._paths[key] = lookup(flat, name)
            except NoField:
                self._paths[key] = None
        return self._paths[key]

    def records(self, claim: Claim) -> dict[Any, Record | None]:
        """The cells that test `claim`, each with its record or None."""
        if self.store is None:
            raise ValueError("store is None, allowed: a Store")
        key, cells = (claim.experiment, claim.profile), self.cells(claim)
        if key not in self._records:
            every = [cell for cell, _ in self._grids[key]]
            protocol = find(claim.experiment).protocol
            found = self.store.records(claim.experiment, protocol, every)
            self._records[key] = dict(zip(every, found, strict=True))
        return {cell: self._records[key][cell] for cell in cells}


def _fits(actual: Any, wanted: Any) -> bool:
    """Whether a config's value is the wanted one, or one of the wanted ones."""
    return bool(actual == wanted or (isinstance(wanted, list) and actual in wanted))
