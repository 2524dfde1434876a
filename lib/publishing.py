"""Publishing records, and verifying that what is published can be had again."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib import origins, runner
from lib.experiments import Context, Experiment, find, registry
from lib.store import Record, Store, StoreError, files_of, read_record

WEIGHTS_LIMIT = 2 * 2**20
# a published accuracy is a count over 1,875 sequences or more, measured on another device: single
# near-ties may fall the other way
ACCURACY_TOLERANCE = 0.005
# 30 steps on another processor: the order of float additions differs, nothing else
LOSS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """One thing that `verify` looked at."""

    what: str
    ok: bool
    detail: str


def publish(
    root: Path, name: str, profile: str, select: Sequence[str] = (), weights: Sequence[str] = ()
) -> Iterator[str]:
    """Copy the finished records of a profile to ``book/results``; says a line for each.

    A cell that was run again (``run --fresh``) since it was published is published anew. Weights
    that were kept with it are kept of the new run too.

    Args:
        select: conditions on the cells, as for ``run``.
        weights: conditions; the cells that meet them keep their weights (2 MiB at most each).

    Raises:
        StoreError: nothing to publish, or weights too large for the book's repository.
    """
    experiment, store = find(name), Store.at(root)
    cells = runner.chosen_cells(experiment, profile, select, None)
    keep = runner.select_cells(cells, weights) if weights else []
    found = list(zip(cells, store.records(name, experiment.protocol, cells), strict=True))
    yield from (f"note: {problem}" for problem in store.problems)
    if keep and not any(
        record is not None and record.weights for cell, record in found if cell in keep
    ):
        yield f"note: no record of the cells that meet {' and '.join(weights)} has weights to keep"
    ready = [(cell, record) for cell, record in found if record is not None]
    if not ready:
        raise StoreError(f"no cell of {name} {profile} has a record yet; nothing to publish")
    runs = []
    for cell, before in ready:
        record, published = store.latest(before), before.folder == store.published / name
        # kept weights stay kept, of a record that can not be read any more as well
        kept = [
            path.name
            for path in files_of(store.published / name / record.name)
            if path.suffix == ".safetensors"
        ]
        weights_too = cell in keep or bool(kept)
        _check_weights(record, weights_too, kept)
        runs.append((before, record, published, weights_too))
    published_now: list[Record] = []
    for before, record, published, weights_too in runs:
        anew = published and before.started != record.started
        adds_weights = weights_too and record.weights and not before.weights
        if published and not anew and not adds_weights:
            yield f"already published: {before.name}"
            continue
        instead = f", for the run of {before.started}" if anew else ""
        yield f"published: {store.publish(record, weights_too).relative_to(root)}{instead}"
        published_now.append(record)
    yield from _untraced(published_now, root)
    yield f"{len(ready)} of {len(cells)} cells of {name} {profile} are published"


def _untraced(records: Sequence[Record], root: Path) -> Iterator[str]:
    """A line for each code that is not that of the commit its record names."""
    try:
        found = origins.origins(records, root)  # the history is read once for all
    except origins.NoHistory:
        return
    for origin in dict.fromkeys(found):
        if not origin.as_named:
            named = f"names commit {origin.named}" if origin.named else "names no commit"
            where = "the code that ran is of no commit here"
            if origin.commit:
                where = f"the code that ran is that of {origin.commit}"
            elif origin.code is None:
                where = "it does not say which code ran"
            yield f"note: {origin.record} {named}; {where}"


def _check_weights(record: Record, keep: bool, kept: Sequence[str]) -> None:
    path = record.weights_path() if keep else None
    if path is not None and path.stat().st_size > WEIGHTS_LIMIT:
        raise StoreError(f"{path.name} has {path.stat().st_size} bytes, allowed: {WEIGHTS_LIMIT}")
    if kept and path is None:
        raise StoreError(
            f"{record.name}: the run of {record.started} has no weights, those published, "
            f"{', '.join(kept)}, would be lost; remove them to publish without"
        )


def verify(root: Path, name: str | None = None, models: int | None = None) -> list[Check]:
    """Check every published record, every published model and every pinned run.

    Records: seals and files. Models: their accuracies, measured again on the processor from
    rebuilt test data, against the record's. Pinned runs: trained again, loss by loss.

    Args:
        name: of one experiment; None for all.
        models: of each experiment at most so many, the smallest files; None for all.

    Raises:
        ValueError: fewer models than 0.
        StoreError: nothing is published.
    """
    if models is not None and models < 0:
        raise ValueError(f"models is {models}, allowed: 0 or more")
    store = Store.at(root)
    experiments = [find(name)] if name else list(registry().values())
    checks: list[Check] = []
    records: list[Record] = []
    for experiment in experiments:
        found = _read(store.published / experiment.name)
        records += [record for record in found.values() if isinstance(record, Record)]
        checks += _check_records(experiment, store.published / experiment.name, found, models)
        checks += _check_pinned(experiment, store)
    if not checks:
        what = f"of {name}" if name else "yet"
        raise StoreError(f"nothing is published {what}, so there is nothing to verify")
    return [*checks, _check_origins(records, root)]


def _check_origins(records: Sequence[Record], root: Path) -> Check:
    """Where the code of all records is: told, not judged, since a history may have been cut."""
    try:
        told = origins.summary(origins.origins(records, root))
    except origins.NoHistory as error:
        told = f"not looked for: {error}"
    return Check(f"code of {len(records)} records", True, told)


def _read(folder: Path) -> dict[Path, Record | StoreError]:
    """Each record of a folder, or why it cannot be read."""
    found: dict[Path, Record | StoreError] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path] = read_record(path)
        except StoreError as error:
            found[path] = error
    return found


def _check_records(
    experiment: Experiment, folder: Path, found: Mapping[Path, Record | StoreError],
    models: int | None,
) -> Iterator[Check]:  # fmt: skip
    kept = {path: _model(experiment, record) for path, record in found.items()}
    files = {path: weights for path, weights in kept.items() if isinstance(weights, Path)}
    chosen = dict(sorted(files.items(), key=lambda pair: _size(pair[1]))[:models])
    named: set[str] = set()
    for path, record in found.items():
        if isinstance(record, StoreError):
            named |= {own.name for own in files_of(path)}
            yield Check(path.name, False, str(record))
            continue
        named |= {path.name, *filter(None, (record.curves, record.weights))}
        yield Check(path.name, True, f"seal and files fit, {record.status}")
        if isinstance(lost := kept[path], StoreError):
            yield Check(path.name, False, str(lost))
        weights = chosen.get(path)
        if weights is None or experiment.reevaluate is None:
            continue
        again = experiment.reevaluate(record)
        gaps = {k: abs(v - record.metrics[k]) for k, v in again.items() if k in record.metrics}
        if not gaps:
            names = ", ".join(again) or "nothing"
            detail = f"measured again: {names}, of which the record holds nothing"
            yield Check(weights.name, False, detail)
            continue
        # what is no number is further off than any other
        worst = max(gaps, key=lambda key: (math.isnan(gaps[key]), gaps[key]))
        yield Check(
            weights.name,
            gaps[worst] <= ACCURACY_TOLERANCE,
            f"{len(gaps)} accuracies measured again, largest difference {gaps[worst]:.4f} "
            f"({worst}), allowed {ACCURACY_TOLERANCE}",
        )
    for path in sorted(folder.glob("*")):
        if path.name not in named:
            yield Check(path.name, False, "no record names this file; remove it")


def _model(experiment: Experiment, record: Record | StoreError) -> Path | StoreError | None:
    """What can be measured again of a record, or why no longer."""
    if experiment.reevaluate is None or isinstance(record, StoreError):
        return None
    try:
        return experiment.weights(record)
    except StoreError as error:
        return error


def _size(path: Path) -> tuple[int, str]:
    return path.stat().st_size, path.name


def _check_pinned(experiment: Experiment, store: Store) -> Iterator[Check]:
    cells = experiment.pinned()
    # of local records nobody knows anything
    published = Store(store.published, store.published)
    for cell, record in zip(
        cells, published.records(experiment.name, experiment.protocol, cells), strict=True
    ):
        what = f"pinned run {experiment.readable(cell)}"
        if record is None:
            both = f"{experiment.name} --profile pinned"
            yield Check(
                what, False,
                f"no published record; python -m lib run {both} && python -m lib publish {both}",
            )  # fmt: skip
            continue
        (outcome,) = experiment.run([cell], Context())
        with tempfile.TemporaryDirectory() as folder:
            scratch = Store(Path(folder), Path(folder) / "none")
            again = runner.save_outcome(experiment, scratch, outcome, "pinned", "cpu", "", 0.0)
            if again.status != "done":
                yield Check(what, False, again.reason or again.status)
                continue
            ours = again.read_curves()["train_loss"].to_numpy()
        theirs = record.read_curves()["train_loss"].to_numpy()
        if len(ours) != len(theirs):
            yield Check(what, False, f"{len(ours)} epochs instead of {len(theirs)}")
            continue
        gap = float((abs(ours - theirs) / theirs).max())
        detail = f"largest relative difference of the loss {gap:.1e}, allowed {LOSS_TOLERANCE}"
        yield Check(what, gap <= LOSS_TOLERANCE, detail)
