"""Let a decoder and its controls write: all of a measurement that a device is needed for.

What is made of it (:mod:`lib.analysis.memory_measures`) needs a processor. States are large: that
of one chunk has 0.7 million numbers in mamba-130m and 3.7 million in mamba-1.4b, and thousands of
chunks are asked for. So as many are written together as there is room for. The parts that chunks
are taken in change nothing of what is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.analysis import memory_controls as controls
from lib.models.autoencoder import Decoded, StateAutoencoder, States, map_states, state_floats
from lib.tasks.memory_text import Asked

WRITERS = ("", "untrained_", "zero_", "shuffled_", "alone_")
SWAPPED = "swapped_"  # no writer: the decoder's answers, each held against another chunk
AT_ONCE = 2048  # chunks at most: a step costs the same for one as for hundreds
# of a chunk's state at once: the first, the last one, the one that a step makes of it, and what
# that takes in between
COPIES = 4
ROOM = 2 * 2**30  # bytes for them on a processor
SHARE = 0.25  # on a GPU, of what is free there: others may train beside
READ_TOKENS = 32_768  # read at once
READ_LOGITS = 2**28  # of these at once, where logits are wanted


# -- how many together ----------------------------------------------------------------------


@torch.no_grad()
def chunks_at_once(model: StateAutoencoder) -> int:
    """How many chunks are written together: as many as there is room for COPIES of their states, on
    a GPU in a SHARE of what is free now; from 1 to AT_ONCE."""
    c = model.config
    device = model.encoder.embedding.weight.device
    states = model.encode(torch.full((1, c.length), c.bos, device=device))
    floats = state_floats(states, more=c.length + 1)  # of attention each token that is written
    size = max(part.element_size() for state in states for part in state)
    return max(1, min(AT_ONCE, _room(device) // (COPIES * size * floats)))


def _room(device: torch.device) -> int:
    """Bytes for states."""
    if device.type != "cuda":
        return ROOM
    free, _ = torch.cuda.mem_get_info(device)
    # what torch has set aside and does not use is free as well
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(SHARE * (free + unused))


def _few(model: StateAutoencoder, logits: bool = False) -> int:
    """How many chunks are read together."""
    most = READ_TOKENS
    if logits:
        most = min(most, READ_LOGITS // model.encoder.config.vocab_size)
    return max(1, most // model.config.length)


# -- writing --------------------------------------------------------------------------------


@torch.no_grad()
def read(model: StateAutoencoder, tokens: Tensor) -> States:
    """The states of chunks (b, L), READ_TOKENS at a time."""
    parts = [model.encode(few) for few in tokens.split(_few(model))]
    return [
        type(states[0])(*(torch.cat(each) for each in zip(*states, strict=True)))
        for states in zip(*parts, strict=True)
    ]


@torch.no_grad()
def write_all(
    model: StateAutoencoder, tokens: Tensor, at_once: int | None = None
) -> dict[str, Decoded]:
    """What the decoder and each control write of chunks (b, L), by the prefixes of WRITERS.

    From zeros the decoder writes one text, whatever the chunk.

    Args:
        at_once: chunks written together; None for :func:`chunks_at_once`.
    """
    at_once = chunks_at_once(model) if at_once is None else at_once
    # an order hangs on its row, so on parts that are the same whatever there is room for
    disorder = torch.cat([controls.shuffle(part) for part in tokens.split(AT_ONCE)])
    found: dict[str, list[Decoded]] = {name: [] for name in WRITERS}
    for part, mixed in zip(tokens.split(at_once), disorder.split(at_once), strict=True):
        states = read(model, part)
        found[""].append(model.decode(states, len(part)))
        found["untrained_"].append(model.decode(states, len(part), untrained=True))
        del states  # before there are others
        found["shuffled_"].append(model.decode(read(model, mixed), len(mixed)))
    zeros = map_states(model.encode(tokens[:1]), torch.zeros_like)
    one, length = model.decode(zeros, 1)
    found["zero_"].append(Decoded(one.expand(len(tokens), -1), length.expand(len(tokens))))
    found["alone_"].append(
        controls.in_batches(
            lambda few: controls.language_model_alone(model, few), tokens, _few(model, logits=True)
        )
    )
    return {name: _joined(parts) for name, parts in found.items()}


@torch.no_grad()
def write(model: StateAutoencoder, tokens: Tensor, at_once: int | None = None) -> Decoded:
    """What the decoder alone writes of chunks (b, L); `at_once` as in :func:`write_all`."""
    return controls.in_batches(
        lambda part: model.decode(read(model, part), len(part)), tokens,
        chunks_at_once(model) if at_once is None else at_once,
    )  # fmt: skip


def _joined(parts: Sequence[Decoded]) -> Decoded:
    written, lengths = zip(*parts, strict=True)
    return Decoded(torch.cat(written), torch.cat(lengths))


@torch.no_grad()
def perplexities(model: StateAutoencoder, tokens: Tensor) -> list[float]:
    """Perplexity of each chunk under the frozen language model."""
    found = [
        controls.perplexity(model.encoder, part, model.config.bos)
        for part in tokens.split(_few(model, logits=True))
    ]
    return torch.cat(found).tolist()


# -- all of it ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observed:
    """What a device is needed for.

    Attributes:
        rows: what each writer wrote of the chunks asked for, as tokens; by the prefixes of WRITERS.
        similarity: of each, by writer, and of chunks and their partners' answers, by SWAPPED; of
            those that an embedding has compared.
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
    texts = Decoded(tokens, tokens.new_full((len(tokens),), tokens.shape[1]))
    near = {name: similarity(embedding, texts, one) for name, one in written.items()}
    partner = controls.swaps(asked.chunks)
    # who has none is left out later
    places = [partner.get(index, index) for index in range(len(tokens))]
    answers = Decoded(*(part[places] for part in written[""]))
    return Observed(
        {name: one.rows() for name, one in written.items()},
        near | {SWAPPED: similarity(embedding, texts, answers)},
        perplexities(model, tokens),
        others,
        {
            "state_floats": float(state_floats(model.encode(tokens[:1]))),
            "n_parameters": float(sum(p.numel() for p in model.decoder.parameters())),
        },
    )


@torch.no_grad()
def similarity(embedding: Tensor, asked: Decoded, written: Decoded) -> list[float]:
    """Cosine between the mean token vectors of two texts, a second opinion beside matching words:
    a word in place of a like one costs less. The vectors are a language model's own input
    embedding, less the mean over all the texts asked for. 0 where nothing was written.

    What is taken off is the mean of all texts, not of the kind, and the mean of many tokens says
    more of a text's kind than of the text. So another text of the kind is far from 0, the farther
    the longer both are: a decoder's number is worth what it has beyond that of swapped answers, or
    of unrelated text.

    Args:
        embedding: (v, m). asked, written: of as many texts, their tokens numbers of rows.
    """
    vectors = embedding.float()
    vectors = vectors - vectors[asked.tokens[asked.present()]].mean(0)
    wanted, found = (
        F.embedding_bag(
            text.tokens, vectors, mode="sum", per_sample_weights=text.present().to(vectors.dtype)
        )
        for text in (asked, written)
    )
    return F.cosine_similarity(wanted, found, dim=1).tolist()
