"""What is memory and what is guessing: the controls beside a trained decoder.

A good language model writes likely text from nothing, and a decoder trained on one corpus knows its
words. None of the controls is in arXiv 2512.15653. All write of the same chunks, and go through the
same measures; :func:`lib.analysis.memory_writing.write_all` lets them, under these names:

========= ======================= =========================== =====================
control   decoder                 state                       what it shows
========= ======================= =========================== =====================
untrained the language model      the chunk's own             what training adds
zero      trained                 zeros: of a model that has  the decoder's habits
                                  read nothing
shuffled  trained                 of the chunk in disorder    words without order
alone     none: guesses each      none; the true text before  what can be guessed
          next token              each token
========= ======================= =========================== =====================

Of attention the keys and values of the slots are zeros: each slot then gets the same weight.
:func:`unrelated_text` needs no model at all: it says what the measures give to a writer that knows
a text's kind and nothing of the text. :func:`partners` also serves to swap answers: the decoder's
answer to another chunk of the kind has all of its habits, and no memory of this chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.models.autoencoder import Decoded, StateAutoencoder
from lib.models.language_model import LanguageModel
from lib.tasks.reconstruction import Chunks

SWAP = 0  # seed of which answer stands for which


def partners(chunks: Chunks, seed: int) -> list[int | None]:
    """For each chunk the number of another one of its category, from another document; None where
    the category has chunks of one document alone."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xA7]))
    own = {name: np.flatnonzero(chunks.categories == name) for name in set(chunks.categories)}
    found: list[int | None] = []
    for category, document in zip(chunks.categories, chunks.documents, strict=True):
        others = own[category][chunks.documents[own[category]] != document]
        found.append(int(rng.choice(others)) if len(others) else None)
    return found


def swaps(chunks: Chunks) -> dict[int, int]:
    """Whose answer each chunk is held against: numbers of chunks, of those that have a partner."""
    found = enumerate(partners(chunks, SWAP))
    return {index: other for index, other in found if other is not None}


def unrelated_text(chunks: Chunks, seed: int) -> list[list[int]]:
    """In place of what a decoder writes of each chunk, another chunk of its category, from another
    document.

    Raises:
        ValueError: a category with chunks of one document alone.
    """
    rows, tokens = [], chunks.tokens.tolist()
    for category, other in zip(chunks.categories, partners(chunks, seed), strict=True):
        if other is None:
            raise ValueError(
                f"category {category} has chunks of one document, allowed: of two or more"
            )
        rows.append(tokens[other])
    return rows


@torch.no_grad()
def language_model_alone(model: StateAutoencoder, tokens: Tensor) -> Decoded:
    """The language model's best guess at each token, given the start token and the true text before
    it. It is told more than any decoder is, but of the token itself it has no memory."""
    logits = _teacher_forced(model.encoder, tokens, model.config.bos)
    guesses = logits.argmax(-1)
    lengths = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
    return Decoded(guesses, lengths)


@torch.no_grad()
def perplexity(model: LanguageModel, tokens: Tensor, bos: int = 0) -> Tensor:
    """Perplexity of each chunk (b, L) under a language model that starts from `bos`: (b,)."""
    return _token_losses(model, tokens, bos).mean(1).exp()


@torch.no_grad()
def surprise(model: LanguageModel, texts: Decoded, bos: int = 0) -> Tensor:
    """Loss of each text as a whole, in nats, under a language model that starts from `bos`: (b,).

    Args:
        texts: of any lengths, which are 1 or more.
    """
    return (_token_losses(model, texts.tokens, bos) * texts.present()).sum(1)


def shuffle(tokens: Tensor, seed: int = 0) -> Tensor:
    """Each row of (b, L) in an order of its own, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(tokens.shape, generator=generator).argsort(1).to(tokens.device)
    return tokens.gather(1, order)


def in_batches(write: Callable[[Tensor], Decoded], tokens: Tensor, batch_size: int) -> Decoded:
    """`write` on up to `batch_size` chunks at a time, put together.

    Raises:
        ValueError: a batch size below 1, or no chunks.
    """
    if batch_size < 1 or not len(tokens):
        raise ValueError(f"batch_size is {batch_size} of {len(tokens)} chunks, allowed: 1 or more")
    parts: Iterable[Decoded] = (write(part) for part in tokens.split(batch_size))
    written, lengths = zip(*parts, strict=True)
    return Decoded(torch.cat(written), torch.cat(lengths))


def _token_losses(model: LanguageModel, tokens: Tensor, bos: int) -> Tensor:
    """(b, L): loss of each token in nats, given those before it; in float32 or wider."""
    logits = _teacher_forced(model, tokens, bos)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide.transpose(1, 2), tokens, reduction="none")


def _teacher_forced(model: LanguageModel, tokens: Tensor, bos: int) -> Tensor:
    """(b, L, v): logits of each token, given those before it."""
    start = tokens.new_full((len(tokens), 1), bos)
    return model(torch.cat([start, tokens[:, :-1]], 1))
