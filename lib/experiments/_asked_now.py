"""What models whose weights were kept say now, for pages: no training, a few hundred sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.config import from_dict
from lib.experiments.achilles import CompositeCell, in_words, load_model
from lib.store import Record

if TYPE_CHECKING:
    from lib.models.language_model import LanguageModel

# ends: where the pair may stand. "end": the second anchor may be the last token; "inner": not
ENDS = {"end": True, "inner": False}
ENDS_TEXT = {"end": "pair may end", "inner": "pair never last"}
ANCHORS_TOO, AFTER_PAIR = "anchors are later tokens", "only tokens after the pair"


def _loaded(records: Sequence[Record]) -> Iterator[tuple[Record, LanguageModel, CompositeCell]]:
    """Of the records that kept weights each, its model, and the cell that this was trained as."""
    for record in records:
        if record.weights:
            yield record, *load_model(record)


def _gamma(record: Record) -> float | None:
    return from_dict(CompositeCell, record.config).model.initialisation.gamma


def read_later_table(records: Sequence[Record], gamma: float = 1.0) -> pd.DataFrame:
    """Of the models that kept their weights and started with `gamma`, one row each: how much wider
    lines from key and anchors to later tokens are than the others (``lib.analysis.flow``), a column
    a layer, medians over every fifth of the 400 sequences with pair 43 behind which there is more.
    """
    import torch

    from lib.analysis.flow import flow, read_later
    from lib.tasks.interventions import intervention_split

    rows: list[dict[str, float]] = []
    for record, model, cell in _loaded([r for r in records if _gamma(r) == gamma]):
        split = intervention_split(cell.task, cell.seed, pair_may_end=False)
        widths = []
        for row in split.where(43).nonzero().flatten()[::5].tolist():
            pair = [int(split.index[row]) + k for k in range(3)]
            widths.append(read_later(flow(model, split.tokens[row]), pair))
        middle = torch.stack(widths).median(0).values.tolist()
        start = {"layers": len(middle), "composite at the end": record.metrics["final_composite"]}
        rows.append(start | {f"layer {n}": width for n, width in enumerate(middle, 1)})
    return pd.DataFrame(rows).sort_values("layers") if rows else pd.DataFrame()


def kept_of_held_out(records: Sequence[Record]) -> pd.DataFrame:
    """How many answers to pair 43 stay as they were when S is cut in every layer, of the models
    that kept their weights: one row a model (`model`, in words), a column for each of ENDS and of
    two ways to read "later tokens". Its head says of how many sequences the share is."""
    from lib.analysis.composite import answers
    from lib.analysis.interventions import blocked_answers
    from lib.tasks.interventions import intervention_split

    rows = []
    for _, model, cell in _loaded(records):
        row: dict[str, Any] = {"model": in_words(cell)}
        for end, may_end in ENDS.items():
            split = intervention_split(cell.task, cell.seed, pair_may_end=may_end)
            split = split.take(split.where(43))
            before = answers(model, split.tokens)
            for reading, within_pair in ((ANCHORS_TOO, True), (AFTER_PAIR, False)):
                same = before == blocked_answers(model, split, within_pair=within_pair)
                name = f"{ENDS_TEXT[end]} ({len(split)}); {reading}"
                row[name] = float(same.double().mean())
        rows.append(row)
    return pd.DataFrame(rows)


def alike_untouched(records: Sequence[Record]) -> pd.DataFrame:
    """How often a sequence and its twin with pair 43 are answered alike though nothing is exchanged
    between them, of the models that kept their weights: one row a model (`model`, in words), shares
    over the fifteen other pairs, never last, of the `trained` model and of the same `untrained`."""
    from lib.analysis.composite import answers
    from lib.models.language_model import build_language_model
    from lib.tasks.interventions import intervention_split, twin

    rows = []
    for _, model, cell in _loaded(records):
        split = intervention_split(cell.task, cell.seed, pair_may_end=False)
        split = split.take(~split.where(43))
        twins = twin(cell.task, split)
        start = build_language_model(cell.model, seed=cell.seed).eval()
        alike = {
            name: float((answers(one, split.tokens) == answers(one, twins.tokens)).double().mean())
            for name, one in (("trained", model), ("untrained", start))
        }
        rows.append({"model": in_words(cell), **alike})
    return pd.DataFrame(rows)
