"""All that is measured of one decoder: numbers for claims, and small tables for the pages.

The pages on word classes, kinds of text, positions and prevalence look at the same decoders, so
each is measured once, with its controls (:mod:`lib.analysis.memory_controls`). Tables are
aggregated and put into one, whose column ``table`` tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.analysis import memory_controls as controls
from lib.analysis import omission
from lib.analysis.forgetting import (
    exact_matches,
    found_again,
    rouge,
    token_accuracy,
    token_table,
    word_table,
)
from lib.analysis.memory_trends import LEAST, Metrics, positions, prevalence
from lib.models.autoencoder import Decoded, StateAutoencoder, map_states, state_floats
from lib.tasks.memory_text import Asked

WRITERS = ("", "untrained_", "zero_", "shuffled_", "alone_")
AT_ONCE = 2048  # chunks decoded together: a step costs the same for one as for hundreds
READ_TOKENS = 32_768  # of which the logits are held at once
DRAWS = 500  # of chunks, for the intervals of tables
LEFT_OUT = ("X", "INTJ")  # of what word classes are tested against each other, as in the paper
EXAMPLES = 2  # of each category, kept as text
SWAP = 0  # seed of which answer stands for which

TABLED = ("", "zero_", "alone_")  # writers whose omission is tabulated

Decode = Callable[[list[int]], str]


# -- writing --------------------------------------------------------------------------------


@torch.no_grad()
def write_all(
    model: StateAutoencoder, tokens: Tensor, at_once: int = AT_ONCE
) -> dict[str, Decoded]:
    """What the decoder and each control write of chunks (b, L), by the prefixes of WRITERS.

    What the trained decoder writes from three states is decoded in one go. From zeros it writes one
    text, whatever the chunk.
    """
    found: dict[str, list[Decoded]] = {name: [] for name in WRITERS}
    for part in tokens.split(at_once):
        count = len(part)
        states, disorder = model.encode(part), model.encode(controls.shuffle(part))
        zeros = map_states(model.encode(part[:1]), torch.zeros_like)
        joined = [
            type(own)(*(torch.cat(each) for each in zip(own, other, none, strict=True)))
            for own, other, none in zip(states, disorder, zeros, strict=True)
        ]
        written, lengths = model.decode(joined, 2 * count + 1)
        found[""].append(Decoded(written[:count], lengths[:count]))
        found["shuffled_"].append(Decoded(written[count:-1], lengths[count:-1]))
        found["zero_"].append(
            Decoded(written[-1:].expand(count, -1), lengths[-1:].expand(count))
        )  # fmt: skip
        found["untrained_"].append(model.decode(states, count, untrained=True))
        found["alone_"].append(
            controls.in_batches(
                lambda few: controls.language_model_alone(model, few), part, _few(part)
            )
        )
    return {name: _joined(parts) for name, parts in found.items()}


@torch.no_grad()
def write(model: StateAutoencoder, tokens: Tensor, at_once: int = AT_ONCE) -> Decoded:
    """What the decoder alone writes of chunks (b, L)."""
    return controls.in_batches(model.reconstruct, tokens, at_once)


def _few(tokens: Tensor) -> int:
    return max(1, READ_TOKENS // tokens.shape[1])


def _joined(parts: Sequence[Decoded]) -> Decoded:
    written, lengths = zip(*parts, strict=True)
    return Decoded(torch.cat(written), torch.cat(lengths))


@torch.no_grad()
def perplexities(model: StateAutoencoder, tokens: Tensor) -> list[float]:
    """Perplexity of each chunk under the frozen language model."""
    found = [
        controls.perplexity(model.encoder, part, model.config.bos)
        for part in tokens.split(_few(tokens))
    ]
    return torch.cat(found).tolist()


@dataclass(frozen=True)
class Observed:
    """All that a device is needed for; what is made of it needs a processor.

    Attributes:
        rows: what each writer wrote of the chunks asked for, as tokens; by the prefixes of WRITERS.
        similarity: of each, by writer; of those that a model's embedding has compared.
        perplexity: of each chunk, or None if no model has read them.
        tagged_rows: what the decoder wrote of other chunks, with tags; None if there are none.
        sizes: of the state and of the decoder.
    """

    rows: dict[str, list[list[int]]]
    similarity: dict[str, list[float]]
    perplexity: list[float] | None
    tagged_rows: list[list[int]] | None
    sizes: dict[str, float]


def observe(model: StateAutoencoder, asked: Asked, tagged: Asked | None = None) -> Observed:
    """Let the decoder and its controls write.

    Args:
        asked: chunks of text that the decoder has never seen. tagged: others, with tags.
    """
    embedding = model.encoder.embedding.weight
    tokens = asked.chunks.tokens.to(embedding.device)
    written = write_all(model, tokens)
    others = None
    if tagged is not None:
        others = write(model, tagged.chunks.tokens.to(embedding.device)).rows()
    return Observed(
        {name: one.rows() for name, one in written.items()},
        {name: similarity(embedding, tokens, one) for name, one in written.items()},
        perplexities(model, tokens),
        others,
        {
            "state_floats": float(state_floats(model.encode(tokens[:1]))),
            "n_parameters": float(sum(p.numel() for p in model.decoder.parameters())),
        },
    )


@torch.no_grad()
def similarity(embedding: Tensor, tokens: Tensor, written: Decoded) -> list[float]:
    """Cosine between the mean token vectors of two texts, a second opinion beside matching words:
    a word in place of a like one costs less. The vectors are the frozen language model's own input
    embedding, less the mean over all the texts asked for, so that texts with nothing but common
    words in common score about 0. 0 where nothing was written.

    Args:
        embedding: (v, m). tokens: (b, L).
    """
    vectors = embedding.float()
    vectors = vectors - vectors[tokens.flatten()].mean(0)
    kept = torch.arange(written.tokens.shape[1], device=tokens.device) < written.lengths[:, None]
    wanted = F.embedding_bag(tokens, vectors, mode="sum")
    flags = kept.to(vectors.dtype)
    found = F.embedding_bag(written.tokens, vectors, mode="sum", per_sample_weights=flags)
    return F.cosine_similarity(wanted, found, dim=1).tolist()


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
        means = whole.mean().to_dict() | {"omission": 1 - float(items["found"].mean())}
        metrics |= {f"{name}{key}": float(value) for key, value in means.items()}
        for category, own in whole.groupby(asked.chunks.categories):
            metrics |= {f"{name}{key}_{category}": float(own[key].mean())
                        for key in ("rouge1", "token_accuracy", "similarity")
                        if key in own}  # fmt: skip
        for by, prefix in (("category", ""), ("label", "label_")):
            if by in items:
                found = _means(items, by)
                metrics |= {f"{name}omission_{prefix}{key}": v for key, v in found.items()}
        if name in TABLED:
            tables += _token_tables(items, asked.chunks.tokens.shape[1], name)
        if not name:
            metrics |= positions(items) | prevalence(items, perplexity)
            metrics |= swapped(asked, rows, decode)
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


def swapped(asked: Asked, rows: list[list[int]], decode: Decode) -> Metrics:
    """The decoder's own answers as a control: each chunk is held against the answer to another
    chunk of its category, from another document. Chunks that have no such partner are left out.

    Args:
        rows: what the decoder wrote of each chunk.

    Returns:
        ``swapped_`` rouge1, rouge2, rougeL, token_accuracy, omission and chunks (how many were
        compared), and omission by category; nothing where no chunk has a partner.
    """
    pairs = enumerate(controls.partners(asked.chunks, SWAP))
    other = {index: partner for index, partner in pairs if partner is not None}
    if not other:
        return {}
    chunks = asked.chunks.take(np.array(list(other)))
    answers = [rows[partner] for partner in other.values()]
    whole = scores(chunks.tokens.tolist(), answers, decode).drop(columns=["scorable", "exact"])
    items = token_table(chunks, answers)
    means = whole.mean().to_dict() | {"omission": 1 - float(items["found"].mean())}
    means |= {f"omission_{key}": value for key, value in _means(items, "category").items()}
    return {f"swapped_{key}": float(v) for key, v in (means | {"chunks": len(other)}).items()}


def _means(items: pd.DataFrame, by: str) -> dict[str, float]:
    return {str(key): 1 - float(v) for key, v in items.groupby(by)["found"].mean().items()}


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
    from lib.analysis.forgetting import found_by_occurrence

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
