"""One decoder as a cell: what all experiments of the chapter on memory share.

Hossain et al. 2025 (arXiv 2512.15653). A cell is one language model, one length and one seed: the
model's text is opened, the model trained or loaded (:mod:`lib.experiments._pretraining`), a decoder
trained to write chunks down from the state alone, and measured with its controls
(:mod:`lib.analysis.memory_measures`). Cells of one language model share it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib import provenance
from lib.experiments import Context, Outcome
from lib.experiments._language import LanguageCell, open_data
from lib.experiments._memory_cell import MemoryCell, readable
from lib.experiments._pretraining import Loaded, Published, language_model
from lib.experiments._training import beside
from lib.peak_memory import DeviceMemory
from lib.store import Record
from lib.tasks.corpus import PILE_10K, LocalText, TextUnavailable
from lib.tasks.language import LanguageTask
from lib.tasks.memory_text import Asked

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lib.models.autoencoder import StateAutoencoder
    from lib.tasks.language import LanguageData
    from lib.training.abreast import Turns

# decoders that train at once: half of the two thousand kernels of a small one's step are too short
# to fill a GPU
ABREAST = {"cpu": 0, "cuda": 4}
PILE_FILE = "data/pile-10k.jsonl"  # Pile-10k as lines of JSON, where no hub is in reach


# -- running --------------------------------------------------------------------------------


def train_decoders(cells: Sequence[MemoryCell], context: Context) -> Iterator[Outcome]:
    """Train and measure the cells, on a GPU a few beside each other (``context.abreast``); a
    language model is opened once for the cells that follow each other. An outcome comes when the
    next decoder has been trained, or cannot be.

    Raises:
        TextUnavailable, TagsUnavailable, MissingTagger, HubError: before any work, what is not on
            this machine, and how to get it here.
    """
    from lib.tasks.memory_text import check_tags

    for tags in {cell.tags for cell in cells}:
        check_tags(tags)
    # counting takes seconds on a processor, in which a device can train the next decoder
    with ThreadPoolExecutor(1) as counting:
        decoders = _decoders(cells, context, counting)
        before: Future[Outcome] | None = None
        while True:
            try:
                future = next(decoders, None)
            except BaseException:  # of another cell, or an interrupt: this one has ended well
                if before is not None:
                    yield before.result()
                raise
            if before is not None:
                yield before.result()
            if future is None:
                return
            before = future


def _decoders(
    cells: Sequence[MemoryCell], context: Context, counting: Executor
) -> Iterator[Future[Outcome]]:  # fmt: skip
    """Each cell's outcome, which may still be counted up."""
    opened = _Opened(context)

    def train(one: MemoryCell) -> Turns[tuple[Outcome, Callable[[], Outcome]] | None]:
        for cell in context.take([one]):  # now that it begins: others may have it until then
            return (yield from _run_cell(cell, opened, context))
        return None

    trainings = (
        (None if isinstance(cell.language, Published) else 1, train(cell)) for cell in cells
    )
    for both, others in beside(trainings, context, ABREAST, lambda both: both[:1] if both else ()):
        if both is None:
            continue
        outcome, finish = both
        if others > 1:
            # the peak is that of all, not this one's own
            outcome.facts |= {"abreast": others, "shared_time": True, "peak_memory_bytes": None}
        yield counting.submit(finish)


def open_text(task: LanguageTask) -> LanguageData:
    """The text of a language model; Pile-10k also from a file of this machine.

    Raises:
        TextUnavailable: text that is neither here nor in reach.
    """
    if task.corpus.source != PILE_10K:
        return open_data(task)
    if not (provenance.ROOT / PILE_FILE).is_file():
        try:
            return open_data(task)
        except TextUnavailable as error:
            raise TextUnavailable(
                f"{error}; or write its rows as lines of JSON, with text and meta, into {PILE_FILE}"
            ) from error
    corpus = dataclasses.replace(task.corpus, source=LocalText(PILE_FILE))
    return open_data(dataclasses.replace(task, corpus=corpus))


@dataclass
class _Opening:
    """A language model that is being opened; the decoders that need it wait for it."""

    model: Loaded | Outcome | None = None
    idle = True  # see lib.training.abreast.Awaited

    def query(self) -> bool:
        """Whether it is there."""
        return self.model is not None


class _Opened:
    """Language models in use: each is opened once, by the first decoder that asks for it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.known: dict[Any, _Opening] = {}

    def take(self, language: LanguageCell | Published) -> Turns[Loaded | Outcome]:
        """The language model, or the outcome that stands in its way; in turns."""
        import torch

        opening = self.known.get(language)
        if opening is None:
            # a large model leaves before the next one comes
            self.known = {key: one for key, one in self.known.items() if one.model is None}
            opening = self.known[language] = _Opening()
            model = yield from language_model(language, self.context)
            if self.context.device == "cuda":
                # others read it on streams of their own, which do not wait for this one's
                torch.cuda.current_stream().synchronize()
            opening.model = model
        while opening.model is None:
            yield opening
        return opening.model


def _run_cell(
    cell: MemoryCell, opened: _Opened, context: Context
) -> Turns[tuple[Outcome, Callable[[], Outcome]]]:
    """In turns, see :mod:`lib.training.abreast`: an outcome, all but what is counted of its
    decoder, and what counts that."""
    import numpy as np
    import torch

    from lib.analysis.memory_measures import tabulate
    from lib.analysis.memory_writing import observe
    from lib.models.autoencoder import AutoencoderConfig, StateAutoencoder, decoder_loss
    from lib.ops import backends
    from lib.tasks.memory_text import tags_facts
    from lib.training.abreast import clock
    from lib.training.compiling import compile_layers, eagerly
    from lib.training.gradients import autocast
    from lib.training.loop import Trainer
    from lib.training.runs import Run

    language = yield from opened.take(cell.language)
    start = yield from opened.take(cell.beginning)
    if isinstance(language, Outcome):
        return _without(cell, language)
    if isinstance(start, Outcome):
        return _without(cell, start)
    started, begun = provenance.now(), clock()
    device = torch.device(context.device)
    memory = DeviceMemory(device)
    read = open_text(cell.language.task)
    data = read if cell.text is None else open_text(
        dataclasses.replace(cell.language.task, corpus=cell.text)
    )  # fmt: skip
    if data.tokenizer.fingerprint != read.tokenizer.fingerprint:
        raise ValueError("text has another tokenizer than the language model; give BPE a corpus")
    asked, tagged = _asked(cell, data)
    eos = data.tokenizer.eos
    settings = AutoencoderConfig(cell.task.length, eos, eos, cell.slots, cell.seed)
    # the decoder is a copy, the encoder the loaded model itself: many cells share it
    model = StateAutoencoder(language.model, settings, start.model).to(device)
    batches = _batches(cell, data, device)
    watched = asked.chunks.tokens[: max(1, 8192 // cell.task.length)].to(device)
    with torch.no_grad(), backends.recording() as used, autocast(cell.training, device):
        model.loss(watched[:2])
    if context.compile:
        # what was compiled for earlier decoders counts towards a limit
        torch.compiler.reset()
        compile_layers(model.encoder)
        compile_layers(model.decoder)
    trainer = Trainer(
        model, decoder_loss, batches, cell.training, evaluate=lambda own: _watch(own, watched),
        runs=[Run(context.identify(cell), context.checkpoint(readable(cell), cell))],
        **context.stops, name=readable(cell),
        origin={**provenance.code(), "device_name": provenance.machine(device)["device_name"]},
    )  # fmt: skip
    yield from trainer.turns()
    (result,) = trainer.results()
    facts = {
        "backends": {op: list(served) for op, served in used.items()},
        "compile": bool(context.compile),
        "dtype": cell.training.precision,
        "training_seconds": trainer.seconds(),
        "sessions": trainer.sessions(),
        "text": data.corpus.describe(),
        "tokenizer": data.tokenizer.fingerprint,
        **language.facts,
    }
    if tagged is not None:
        facts["tagged_text"] = tags_facts(cell.tags)
    del trainer
    outcome = Outcome(
        cell, result.status, result.reason, {}, result.curves.assign(table="training"), None, facts,
        started,
    )  # fmt: skip
    observed = None
    if result.status == "done":
        with eagerly():  # chunks come in other numbers there
            observed = observe(model.eval(), asked, tagged)
        outcome.weights = _weights(cell, model, data)
    facts["peak_memory_bytes"] = memory.bytes()
    outcome.wall_seconds = clock() - begun

    def finish() -> Outcome:
        if observed is not None:
            tokens = np.asarray(read.train.stream.tokens)
            frequency = np.bincount(tokens, minlength=cell.model.vocab_size)
            found, tables = tabulate(observed, asked, data.tokenizer.decode, frequency, tagged)
            own = {f"language_{name}": value for name, value in language.metrics.items()}
            outcome.metrics = {**found, **own}
            outcome.curves = pd.concat([outcome.curves, tables], ignore_index=True)
        return outcome

    return outcome, finish


def _without(cell: MemoryCell, missing: Outcome) -> tuple[Outcome, Callable[[], Outcome]]:
    """A cell whose language model there is not."""
    failed = Outcome(
        cell, missing.status, f"its language model: {missing.reason or missing.status}"
    )
    return failed, lambda: failed


def _asked(cell: MemoryCell, data: LanguageData) -> tuple[Asked, Asked | None]:
    from lib.tasks.memory_text import ask, ask_tagged

    asked = ask(data, cell.task, cell.asked)
    if cell.tags in (None, "built-in"):
        return asked, None
    assert cell.tags is not None
    return asked, ask_tagged(data, cell.task, cell.tags, len(asked.chunks))


def _batches(cell: MemoryCell, data: LanguageData, device: torch.device) -> Any:
    import numpy as np

    from lib.tasks.chunk_batches import ChunkBatches, chunk_starts

    tokens = np.asarray(data.train.stream.tokens)
    starts = chunk_starts(tokens, data.tokenizer.eos, cell.task.length)
    training = cell.training
    return ChunkBatches(
        tokens, starts, cell.task.length, training.batch_size, cell.seed,
        drop_last=training.drop_last, device=device, epoch_rows=cell.epoch_chunks,
    )  # fmt: skip


def _watch(model: Any, tokens: Tensor) -> dict[str, Tensor]:
    from lib.models.autoencoder import decoder_loss
    from lib.training.compiling import eagerly

    with eagerly():
        loss, right = decoder_loss(model, tokens)
    return {"test_loss": loss, "test_accuracy": right / tokens.numel()}


# -- kept models ----------------------------------------------------------------------------


def _weights(cell: MemoryCell, model: StateAutoencoder, data: LanguageData) -> bytes | None:
    """Encoder and decoder in half precision, with the tokenizer: all that a page needs."""
    from lib.tasks.tokenizers import BPETokenizer
    from lib.training.checkpoints import serialise

    if not cell.keep_weights:
        return None
    assert isinstance(data.tokenizer, BPETokenizer)
    tensors = {
        name: value.half()
        for name, value in model.state_dict().items()
        if not (cell.model.tie_embeddings and name.endswith("head.weight"))
    }
    return serialise(tensors, tokenizer=data.tokenizer.backend.to_str())


def load_decoder(record: Record) -> tuple[StateAutoencoder, Any]:
    """The auto-encoder of a record that kept its weights, on the processor, and its tokenizer.

    Raises:
        ValueError: a record without weights.
    """
    from tokenizers import Tokenizer as Backend

    from lib.config import from_dict
    from lib.models.autoencoder import AutoencoderConfig, StateAutoencoder
    from lib.models.language_model import build_language_model
    from lib.tasks.tokenizers import BPETokenizer
    from lib.training.checkpoints import load_checkpoint

    path = record.weights_path()
    if path is None:
        raise ValueError(f"record {record.name} kept no weights; run its cell here")
    cell = from_dict(MemoryCell, record.config)
    tensors, facts = load_checkpoint(path)
    tokenizer = BPETokenizer(Backend.from_str(facts["tokenizer"]))
    eos = tokenizer.eos
    language = build_language_model(cell.model, seed=0)
    settings = AutoencoderConfig(cell.task.length, eos, eos, cell.slots, cell.seed)
    model = StateAutoencoder(copy.deepcopy(language), settings)
    if cell.model.tie_embeddings:
        for part in ("encoder", "decoder"):
            tensors[f"{part}.head.weight"] = tensors[f"{part}.embedding.weight"]
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval(), tokenizer
