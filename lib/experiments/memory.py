"""Chapter "Selective memory": what a Mamba's state forgets, read out by an auto-encoder.

Hossain et al. 2025 (arXiv 2512.15653). A cell is one language model and one length: its decoder is
trained to write chunks of that length down from the state alone, then texts that it has never seen
are asked for. ``paper`` are the published models and lengths; they need pretrained weights, which
nothing here loads yet. ``quick`` is the same way from end to end with a tiny model, which is first
trained on made-up text.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib import provenance
from lib.config import from_dict, require
from lib.experiments import Context, Experiment, Outcome
from lib.models.config import LanguageModelConfig, Mamba1Config
from lib.store import Record
from lib.tasks.reconstruction import LENGTHS, ReconstructionConfig
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    import torch

    from lib.models.autoencoder import Decoded, StateAutoencoder
    from lib.models.language_model import LanguageModel
    from lib.tasks.reconstruction import Chunks

NAME = "memory.reconstruction_by_length"
CORPORA = ("built-in", "pile-10k")
# layers and width of state-spaces/mamba-*-hf
SIZES = {"130m": (24, 768), "370m": (48, 1024), "790m": (48, 1536), "1.4b": (48, 2048)}
VOCAB_BYTES = 257
READ = 32  # tokens that a small model is pretrained on at a time
BATCH_TOKENS = 800  # the paper's only known batch: 200 chunks of 4 tokens
ASKED = 40  # test chunks of each category, quick
BATCH = 64  # chunks written down at once


@dataclass(frozen=True)
class MemoryCell:
    """One decoder.

    Attributes:
        task: how texts are cut into chunks.
        corpus: where texts come from: "built-in" (made up, :mod:`lib.tasks.built_in_text`) or
            "pile-10k".
        model: encoder and decoder.
        pretrained: name of the encoder's published weights, or None: it is trained first.
        pretraining: how, in that case; else None.
        training: of the decoder.
        seed: of weights, order of training and division of texts.
    """

    task: ReconstructionConfig
    corpus: str
    model: LanguageModelConfig
    pretrained: str | None
    pretraining: TrainingConfig | None
    training: TrainingConfig
    seed: int

    def __post_init__(self) -> None:
        require(self, "corpus", self.corpus in CORPORA, ", ".join(CORPORA))
        fits = (self.pretrained is None) != (self.pretraining is None)
        require(self, "pretraining", fits, "None with pretrained weights, else a TrainingConfig")
        if self.corpus == "built-in":
            fits = self.model.vocab_size >= VOCAB_BYTES and self.pretrained is None
            require(self, "corpus", fits, f"pile-10k, or vocab_size at least {VOCAB_BYTES} and "
                    "no pretrained weights: the text comes as bytes")  # fmt: skip


def paper_training(length: int) -> TrainingConfig:
    """One pass at a constant rate of 1e-5, without decay, warm-up or clipping. Batch sizes are not
    known but for length 4; as many tokens are taken for the others."""
    return TrainingConfig(
        epochs=1, warmup_epochs=0, batch_size=max(1, BATCH_TOKENS // length), lr_start=1e-5,
        lr_peak=1e-5, lr_end=1e-5, weight_decay=0.0, clip_norm=None, drop_last=False,
    )  # fmt: skip


def small_training(epochs: int) -> TrainingConfig:
    """For tiny models: a rate that gets somewhere in seconds."""
    return TrainingConfig(
        epochs=epochs, warmup_epochs=1, batch_size=64, lr_start=1e-4, lr_peak=5e-3, lr_end=1e-4
    )


def cells(profile: str) -> list[MemoryCell]:
    """Cells of a profile: four sizes and seven lengths, one seed, as published; quick: one tiny
    model, two lengths. matched: none yet."""
    if profile == "quick":
        model = LanguageModelConfig(VOCAB_BYTES, 2, (Mamba1Config(32, d_state=8),))
        return [
            MemoryCell(
                ReconstructionConfig(length, per_document=16, short="skip"), "built-in", model,
                None, small_training(3), small_training(8), seed=1,
            )
            for length in (4, 16)
        ]  # fmt: skip
    if profile != "paper":
        return []
    return [
        MemoryCell(
            ReconstructionConfig(length, short="skip"), "pile-10k",
            LanguageModelConfig(50_280, layers, (Mamba1Config(width),), tie_embeddings=True),
            f"state-spaces/mamba-{size}-hf", None, paper_training(length), seed=1,
        )
        for size, (layers, width) in SIZES.items()
        for length in LENGTHS
    ]  # fmt: skip


def readable(cell: MemoryCell) -> str:
    """For example ``mamba-130m-hf-L64-s1`` or ``mamba1-2x32-L4-s1``."""
    model = cell.model
    small = f"{model.pattern[0].kind}-{model.n_layers}x{model.d_model}"
    name = small if cell.pretrained is None else cell.pretrained.rsplit("/", 1)[-1]
    return f"{name}-L{cell.task.length}-s{cell.seed}"


# -- running --------------------------------------------------------------------------------


def run(cells: Sequence[MemoryCell], context: Context) -> Iterator[Outcome]:
    """Train and measure the cells, one after the other.

    Raises:
        ValueError: a cell wants weights or texts that have to come from the hub.
    """
    for cell in cells:
        if cell.pretrained is not None or cell.corpus != "built-in":
            raise ValueError(
                f"cell {readable(cell)} wants {cell.pretrained or 'no weights'} and the texts "
                f"{cell.corpus}, allowed so far: trained here, on built-in text"
            )
    for cell in cells:
        outcome = _run_cell(cell, context)
        yield outcome
        if outcome.status == "stopped":
            return


def _run_cell(cell: MemoryCell, context: Context) -> Outcome:
    import torch

    from lib.models.autoencoder import AutoencoderConfig, StateAutoencoder, batch_loss
    from lib.ops import backends
    from lib.tasks import built_in_text, reconstruction
    from lib.tasks.encoding import encode_bytes
    from lib.training.loop import Run

    started, clock = provenance.now(), time.perf_counter()
    documents = built_in_text.documents(30, seed=cell.seed)
    train, test = reconstruction.split(documents, 0.2, cell.seed)
    asked = dataclasses.replace(cell.task, per_document=None, per_category=ASKED, seed=cell.seed)
    learnt, _ = reconstruction.build(cell.task, train, encode_bytes)
    chunks, _ = reconstruction.build(asked, test, encode_bytes)
    read, _ = reconstruction.build(ReconstructionConfig(READ, short="skip"), train, encode_bytes)
    encoder = _pretrained(cell, read.tokens, context)
    slots = AutoencoderConfig(cell.task.length, seed=cell.seed)
    model = StateAutoencoder(encoder, slots).to(context.device)
    heldout = chunks.tokens.to(context.device)
    with torch.no_grad(), backends.recording() as used:
        model.loss(heldout[:2])
    before = time.perf_counter()
    result = _train(
        model, batch_loss, learnt.tokens, cell.training, cell.seed, context, readable(cell),
        Run(context.identify(cell), context.checkpoint(readable(cell), cell)),
        lambda trained: {"test_loss": batch_loss(trained, heldout)[0]},
    )  # fmt: skip
    facts = {
        "backends": {op: list(served) for op, served in used.items()},
        "compile": False,
        "dtype": "float32",
        "training_seconds": round(time.perf_counter() - before, 3),
        "peak_memory_bytes": (
            torch.cuda.max_memory_allocated() if context.device.startswith("cuda") else None
        ),
    }
    metrics: dict[str, float | None] = {}
    if result.status == "done":
        metrics = measure(model.eval(), chunks, heldout)
    return Outcome(
        cell, result.status, result.reason, metrics, result.curves, None, facts, started,
        time.perf_counter() - clock,
    )  # fmt: skip


def _pretrained(cell: MemoryCell, tokens: torch.Tensor, context: Context) -> LanguageModel:
    from lib.models.language_model import build_language_model
    from lib.training.loop import Run

    model = build_language_model(
        cell.model, seed=cell.seed, device=context.device, backend=context.backend
    )
    assert cell.pretraining is not None
    without = dataclasses.replace(context, deadline=None)  # it has no checkpoint to go on from
    _train(
        model, next_token_loss, tokens, cell.pretraining, cell.seed, without,
        f"{readable(cell)}, language model", Run(), None,
    )  # fmt: skip
    return model


def next_token_loss(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of a language model on chunks (b, L) that begin with token 0, and how many last
    tokens it guesses."""
    import torch

    start = torch.zeros_like(tokens[:, :1])
    logits = model(torch.cat([start, tokens[:, :-1]], 1))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())
    return loss, (logits[:, -1].detach().argmax(-1) == tokens[:, -1]).sum()


def _train(
    model: Any, loss: Any, tokens: torch.Tensor, config: TrainingConfig, seed: int,
    context: Context, name: str, run: Any, evaluate: Any,
) -> Any:  # fmt: skip
    from lib.training.batches import TensorBatches
    from lib.training.loop import Trainer

    data = tokens.to(context.device)
    batches = TensorBatches([data], config.batch_size, seed, config.drop_last)
    return Trainer(
        model, loss, batches, config, evaluate=evaluate, runs=[run], deadline=context.deadline,
        checkpoint_every=context.checkpoint_every, name=name,
        origin={**provenance.code(), "device_name": provenance.machine(data.device)["device_name"]},
    ).run()  # fmt: skip


# -- measuring ------------------------------------------------------------------------------


def measure(
    model: StateAutoencoder, chunks: Chunks, tokens: torch.Tensor
) -> dict[str, float | None]:
    """Scores of what is written down of `chunks` (`tokens`: theirs, on the model's device), for the
    decoder and each control, and by category for the decoder."""
    from lib.analysis import memory_controls as controls
    from lib.models.autoencoder import state_floats

    writers = {
        "": model.reconstruct,
        "untrained_": lambda part: controls.untrained_decoder(model, part),
        "zero_": lambda part: controls.zero_state(model, part),
        "shuffled_": lambda part: controls.shuffled_input(model, part)[0],
        "alone_": lambda part: controls.language_model_alone(model, part),
    }
    metrics: dict[str, float | None] = {}
    for prefix, write in writers.items():
        scores = _scores(chunks, controls.in_batches(write, tokens, BATCH))
        if prefix:
            scores = scores.drop(columns="scorable")  # of the text asked for: the same for all
        metrics |= {f"{prefix}{name}": float(value) for name, value in scores.mean().items()}
        if not prefix:
            for category, value in scores.groupby(chunks.categories)["rouge1"].mean().items():
                metrics[f"rouge1_{category}"] = float(value)
    metrics["perplexity"] = float(controls.perplexity(model.encoder, tokens).mean())
    metrics["state_floats"] = float(state_floats(model.encode(tokens[:1])))
    metrics["n_parameters"] = float(sum(p.numel() for p in model.decoder.parameters()))
    return metrics


def _scores(chunks: Chunks, written: Decoded) -> pd.DataFrame:
    """One row a chunk: ROUGE, whether ROUGE can score it, tokens in place, exact, omission."""
    from lib.analysis.forgetting import exact_matches, rouge, token_accuracy, token_table
    from lib.tasks.encoding import decode_bytes

    rows, references = written.rows(), chunks.tokens.tolist()
    texts = [decode_bytes(row) for row in rows]
    table = rouge([decode_bytes(row) for row in references], texts)
    table["token_accuracy"] = token_accuracy(references, rows)
    table["exact"] = exact_matches(references, rows)
    found = token_table(chunks, rows).groupby("chunk")["found"].mean()
    table["omission"] = 1 - found.to_numpy()
    return table.astype(float)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a finished record: model, length, seed and every metric."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell = from_dict(MemoryCell, record.config)
        name = readable(cell).rsplit("-L", 1)[0]
        rows.append(
            {"model": name, "length": cell.task.length, "seed": cell.seed, "status": record.status,
             **record.metrics}
        )  # fmt: skip
    return pd.DataFrame(rows)


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="How much text does a state hold? Reconstruction by length",
        protocol=1,
        notebook="notebooks/memory/reconstruction_by_length.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
    ),
)
