"""All that is measured of one decoder: numbers for claims, and small tables for the pages.

The pages on word classes, kinds of text, positions and prevalence look at the same decoders, so
each is measured once, with its controls (:mod:`lib.analysis.memory_controls`); what they wrote
comes from :mod:`lib.analysis.memory_writing`. Tables are aggregated and put into one, whose column
``table`` tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from lib.analysis import memory_controls as controls
from lib.analysis import omission
from lib.analysis.forgetting import (
    exact_matches,
    found_again,
    found_by_occurrence,
    rouge,
    token_accuracy,
    token_table,
    word_table,
)
from lib.analysis.memory_trends import LEAST, Metrics, positions, prevalence
from lib.analysis.memory_writing import SWAPPED, Observed
from lib.tasks.memory_text import Asked

DRAWS = 500  # of chunks, for the intervals of tables
LEFT_OUT = ("X", "INTJ")  # of what word classes are tested against each other, as in the paper
EXAMPLES = 2  # of each category, kept as text

TABLED = ("", "zero_", "alone_")  # writers whose omission is tabulated

Decode = Callable[[list[int]], str]


# -- tables ---------------------------------------------------------------------------------


def scores(
    references: list[list[int]], rows: list[list[int]], decode: Decode,
    similar: list[float] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """One row a chunk: ROUGE F1, scorable, token_accuracy, exact and, if given, similarity."""
    table = rouge([decode(row) for row in references], [decode(row) for row in rows])
    table["token_accuracy"] = token_accuracy(references, rows)
    table["exact"] = exact_matches(references, rows)
    table = table.astype(float)
    return table if similar is None else table.assign(similarity=similar)


def tabulate(
    observed: Observed, asked: Asked, decode: Decode, frequency: np.ndarray,
    tagged: Asked | None = None,
) -> tuple[Metrics, pd.DataFrame]:  # fmt: skip
    """Numbers and tables of a trained decoder.

    Args:
        decode: tokens to text.
        frequency: (v,) how often each token stands in the text of pretraining.
        asked, tagged: as they were observed; without `tagged` word classes are those of `asked`, if
            it has any.

    Returns:
        metrics: for each writer of WRITERS, as a prefix, rouge1, rouge2, rougeL, token_accuracy,
        exact, similarity and omission; by category; by word class (see :func:`by_class`); by
        position; correlations with frequency and perplexity; sizes; ``swapped_`` ones, see
        :func:`swapped`. And the tables: column
        ``table`` is category, position, frequency, perplexity, label, pos, entity, example, or one
        of these with ``_pairs``; ``writer`` a prefix of WRITERS.
    """
    references, perplexity = asked.chunks.tokens.tolist(), observed.perplexity
    counts = dict(enumerate(frequency.tolist()))
    metrics: Metrics = dict(observed.sizes)
    tables: list[pd.DataFrame] = []
    for name, rows in observed.rows.items():
        whole = scores(references, rows, decode, observed.similarity.get(name))
        if name:
            whole = whole.drop(columns="scorable")  # of the text asked for: the same for all
        items = token_table(
            asked.chunks, rows, perplexity=perplexity, frequency=counts, labels=asked.labels
        )
        means = whole.mean().to_dict() | _omissions(items)
        metrics |= {f"{name}{key}": float(value) for key, value in means.items()}
        for category, own in whole.groupby(asked.chunks.categories):
            metrics |= {f"{name}{key}_{category}": float(own[key].mean())
                        for key in ("rouge1", "token_accuracy", "similarity")
                        if key in own}  # fmt: skip
        if name in TABLED:
            tables += _token_tables(items, asked.chunks.tokens.shape[1], name)
        if not name:
            metrics |= positions(items) | prevalence(items, perplexity)
            metrics |= swapped(asked, rows, decode, observed.similarity.get(SWAPPED))
    words, written = asked, {k: v for k, v in observed.rows.items() if k in ("", "alone_")}
    if tagged is not None and observed.tagged_rows is not None:
        words, written = tagged, {"": observed.tagged_rows}
    if words.tagged is not None:
        classes, more = by_class(words, written)
        metrics |= classes
        tables += more
    tables.append(_examples(asked, observed.rows[""], decode))
    metrics["chunks"] = float(len(references))
    if perplexity is not None:
        metrics["perplexity"] = float(np.mean(perplexity))
    return metrics, pd.concat(tables, ignore_index=True)


def swapped(
    asked: Asked, rows: list[list[int]], decode: Decode, similar: list[float] | None = None
) -> Metrics:
    """The decoder's own answers as a control: each chunk is held against the answer to another
    chunk of its category, from another document. Chunks that have no such partner are left out.

    Args:
        rows: what the decoder wrote of each chunk.
        similar: of each chunk and its partner's answer, if an embedding has compared them.

    Returns:
        ``swapped_`` rouge1, rouge2, rougeL, token_accuracy, omission, similarity if given, and
        chunks (how many were compared); omission also by category and, as ``omission_label_...``,
        by label. Nothing where no chunk has a partner.
    """
    other = controls.swaps(asked.chunks)
    if not other:
        return {}
    kept = np.array(list(other))
    chunks, answers = asked.chunks.take(kept), [rows[partner] for partner in other.values()]
    near = None if similar is None else [similar[index] for index in other]
    whole = scores(chunks.tokens.tolist(), answers, decode, near)
    labels = None if asked.labels is None else asked.labels[kept]
    means = whole.drop(columns=["scorable", "exact"]).mean().to_dict()
    means |= _omissions(token_table(chunks, answers, labels=labels))
    return {f"swapped_{key}": float(v) for key, v in (means | {"chunks": len(other)}).items()}


def _omissions(items: pd.DataFrame) -> dict[str, float]:
    """omission, and omission_ by category and, where tokens have labels, by label."""
    out = {"omission": 1 - float(items["found"].mean())}
    for by, prefix in (("category", ""), ("label", "label_")):
        found = items.groupby(by)["found"].mean() if by in items else pd.Series(dtype=float)
        out |= {f"omission_{prefix}{key}": 1 - float(v) for key, v in found.items()}
    return out


def _named(table: pd.DataFrame, name: str, by: str, writer: str = "") -> pd.DataFrame:
    """Rates by `by` as rows of the whole table: numbers go to x, names to group."""
    out = table.rename(columns={by: "x" if pd.api.types.is_numeric_dtype(table[by]) else "group"})
    return out.assign(table=name, writer=writer)


def _token_tables(items: pd.DataFrame, length: int, writer: str) -> list[pd.DataFrame]:
    items = items.assign(
        position=omission.position_bins(items["position"], length),
        frequency=omission.frequency_bins(items["frequency"]),
    )
    if "perplexity" in items:
        items["perplexity"] = omission.perplexity_bins(items["perplexity"]).clip(max=200)
    names = [
        name
        for name in ("category", "position", "perplexity", "frequency", "label")
        if name in items
    ]
    out = [_named(omission.rates(items, by, draws=DRAWS), by, by, writer) for by in names]
    if not writer:
        out += [_pairs(items, by) for by in ("category", "label") if by in names]
    return out


def _pairs(items: pd.DataFrame, by: str) -> pd.DataFrame:
    found = omission.pairwise_tests(items, by)
    return found.rename(columns={"a": "group", "b": "other"}).assign(table=f"{by}_pairs", writer="")


# -- words ----------------------------------------------------------------------------------


def by_class(
    words: Asked, rows: dict[str, list[list[int]]]
) -> tuple[Metrics, list[pd.DataFrame]]:  # fmt: skip
    """Omission by part of speech and by entity.

    Returns:
        metrics: ``omission_pos_NUM`` and the like, with ``standardised_pos_NUM`` beside it;
        ``omission_pos_most``, the largest of the classes but numbers, and likewise for entities but
        organisations, so that a claim can hold one against the other. And tables.
    """
    assert words.tagged is not None
    metrics: Metrics = {}
    tables = []
    every = word_table(words.chunks, rows[""], words.tagged, words.encoded)
    for writer, written in rows.items():
        items = every if not writer else found_again(every, words.chunks, written)
        for by, own in (("pos", "NUM"), ("entity", "Organization")):
            sizes = items[by].value_counts()
            kept = items[items[by].isin(sizes[sizes >= LEAST].index)]
            if not len(kept):
                continue
            rates = omission.rates(kept, by, draws=DRAWS)
            plain = dict(zip(rates[by], rates["omission"], strict=True))
            metrics |= _against(f"{writer}omission_{by}", plain, own)
            try:
                even = omission.standardised(kept, by)
            except ValueError:  # no size of words that all classes have
                even = None
            if even is not None:
                adjusted = dict(zip(even[by], even["standardised"], strict=True))
                metrics |= _against(f"{writer}standardised_{by}", adjusted, own)
                rates = rates.assign(standardised=[adjusted.get(key) for key in rates[by]])
            tables.append(_named(rates, by, by, writer))
            tested = kept[~kept[by].isin(LEFT_OUT)]
            if not writer and tested[by].nunique() > 1:
                tables.append(_pairs(tested, by))
    return metrics, tables


def _against(name: str, values: dict[str, float], own: str) -> Metrics:
    out: Metrics = {f"{name}_{key}": float(value) for key, value in values.items()}
    others = [value for key, value in values.items() if key not in (own, *LEFT_OUT)]
    if others and own in values:
        out[f"{name}_most"] = float(max(others))
    return out


def _examples(asked: Asked, rows: list[list[int]], decode: Decode) -> pd.DataFrame:
    """A few chunks as text, what was written of them, and as 0 and 1 which tokens came back."""
    out = []
    for category in sorted(set(asked.chunks.categories)):
        for index in np.flatnonzero(asked.chunks.categories == category)[:EXAMPLES].tolist():
            tokens = asked.chunks.tokens[index].tolist()
            flags = found_by_occurrence(tokens, rows[index])
            pieces = "\x1f".join(decode([token]) for token in tokens)
            marks = "".join("01"[flag] for flag in flags)
            out.append((category, pieces, decode(rows[index]), marks))
    found = pd.DataFrame(out, columns=["group", "text", "written", "marks"])
    return found.assign(table="example", writer="")
