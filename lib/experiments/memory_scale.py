"""Does the paper's scale run here? One optimisation step on a checkpoint of a published size.

The published weights come from the hub. What they need of a machine does not hang on their values:
a checkpoint with random weights of the same sizes is written in the hub's format, loaded as a
published one would be, and a decoder of it trained for a few steps and asked for a few chunks. The
records hold memory and speed, and say nothing about forgetting.

``train_peak_gb`` is of the training steps alone. A run of the paper's cells also writes thousands
of chunks down, and holds their states meanwhile: as many at once as there is room for
(:func:`lib.analysis.memory_writing.chunks_at_once`), ``observe_chunks``. ``observe_peak_gb`` is
what it takes to read so many and to begin to write them, model included. Neither is in the first
records.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.config import from_dict, require
from lib.experiments import Context, Experiment, Outcome
from lib.experiments._training import check_seed
from lib.experiments.memory import PAPER_BATCH, PUBLISHED, paper_training
from lib.models.config import LanguageModelConfig, Mamba1Config
from lib.peak_memory import PeakMemory
from lib.store import Record
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lib.models.autoencoder import StateAutoencoder

NAME = "memory.paper_scale"
DECODED = 64  # chunks written down at once
NO_TOKEN = -1  # never written
STEPS, WARM = 5, 2
BEGUN = 3  # tokens: first state, last one and the one in the making are there from the second on


@dataclass(frozen=True)
class ScaleCell:
    """One checkpoint of random weights.

    Attributes:
        model: its sizes; in the paper profile those of a published model.
        length: tokens of a chunk.
        training: of the decoder: rate, batch and precision; only a few steps are taken.
        seed: of weights and tokens.
    """

    model: LanguageModelConfig
    length: int
    training: TrainingConfig
    seed: int

    def __post_init__(self) -> None:
        check_seed(self.seed)
        require(self, "length", self.length >= 1, "1 or more")


def cells(profile: str) -> list[ScaleCell]:
    """Cells of a profile. paper: mamba-130m's sizes, lengths 4, 64 and 256, in float32 as in the
    paper, and at 256 in bfloat16. quick: a tiny checkpoint. matched: none."""
    if profile == "quick":
        tiny = LanguageModelConfig(512, 2, (Mamba1Config(64),), tie_embeddings=True)
        return [ScaleCell(tiny, 16, paper_training(16), seed=1)]
    if profile != "paper":
        return []
    layers, width = PUBLISHED["130m"]
    model = LanguageModelConfig(50_280, layers, (Mamba1Config(width),), tie_embeddings=True)
    found = [ScaleCell(model, length, paper_training(length), 1) for length in (256, 64, 4)]
    narrow = replace(
        paper_training(256), precision="bfloat16", batch_size=8 * PAPER_BATCH // 256
    )  # fmt: skip
    return [*found, ScaleCell(model, 256, narrow, 1)]


def readable(cell: ScaleCell) -> str:
    """For example ``24x768-L256-float32-b3-s1``."""
    model, training = cell.model, cell.training
    return (
        f"{model.n_layers}x{model.d_model}-L{cell.length}-{training.precision}"
        f"-b{training.batch_size}-s{cell.seed}"
    )


def run(cells: Sequence[ScaleCell], context: Context) -> Iterator[Outcome]:
    """Measure the cells, one after the other."""
    for cell in context.each(cells):
        yield _run_cell(cell, context)


def _run_cell(cell: ScaleCell, context: Context) -> Outcome:
    import torch

    from lib.models.autoencoder import AutoencoderConfig, StateAutoencoder, state_floats
    from lib.models.hub import load_pretrained, save_pretrained
    from lib.models.language_model import build_language_model

    device = torch.device(context.device)
    metrics: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        drawn = build_language_model(cell.model, seed=cell.seed)
        path = save_pretrained(drawn, folder)
        metrics["checkpoint_mb"] = sum(p.stat().st_size for p in path.iterdir()) / 1e6
        language, metrics["load_seconds"] = _timed(
            lambda: load_pretrained(path, device=device, backend=context.backend), device
        )
    del drawn  # or it would be counted too
    memory = PeakMemory(device)
    model = StateAutoencoder(language, AutoencoderConfig(cell.length)).to(device)
    generator = torch.Generator().manual_seed(cell.seed)
    rows = max(DECODED, cell.training.batch_size)
    tokens = torch.randint(1, cell.model.vocab_size, (rows, cell.length), generator=generator)
    tokens = tokens.to(device)
    used = _train(model.train(), tokens[: cell.training.batch_size], cell.training, metrics)
    peak = memory.bytes()
    metrics["train_peak_gb"] = None if peak is None else peak / 1e9
    _write(model.eval(), tokens[:DECODED], cell.training, metrics)
    metrics["state_floats"] = float(state_floats(model.encode(tokens[:1])))
    metrics["n_parameters"] = float(sum(p.numel() for p in model.decoder.parameters()))
    peaks = [memory.bytes(), _observe(model, tokens[:1], metrics)]
    facts = {
        "backends": {op: list(names) for op, names in used.items()},
        "compile": False,
        "dtype": cell.training.precision,
        "peak_memory_bytes": max(filter(None, peaks), default=None),
    }
    return Outcome(cell, "done", None, metrics, None, None, facts)


def _train(
    model: StateAutoencoder, chunks: Tensor, training: TrainingConfig,
    metrics: dict[str, float | None],
) -> dict[str, Any]:  # fmt: skip
    """Time some steps on a batch of chunks; which backends served the first."""
    from lib.models.autoencoder import decoder_loss
    from lib.ops import backends
    from lib.training.gradients import backward
    from lib.training.optimizer import adamw

    optimizer = adamw([p for p in model.parameters() if p.requires_grad], training)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = backward(lambda part: decoder_loss(model, part), (chunks,), training, 0)
        optimizer.step()
        return float(loss)

    with backends.recording() as used:
        first = step()
    for _ in range(WARM):
        step()
    losses, seconds = _timed(lambda: [step() for _ in range(STEPS)], chunks.device)
    metrics["step_seconds"] = seconds / STEPS
    metrics["train_tokens_per_second"] = STEPS * chunks.numel() / seconds
    metrics["loss_first"], metrics["loss_last"] = first, losses[-1]
    return dict(used)


def _write(
    model: StateAutoencoder, chunks: Tensor, training: TrainingConfig,
    metrics: dict[str, float | None],
) -> None:  # fmt: skip
    """Time reading and writing of chunks (b, L)."""
    import torch

    from lib.models.autoencoder import decode_greedily
    from lib.training.gradients import autocast

    count, length = chunks.shape
    with torch.no_grad(), autocast(training, chunks.device):
        model.loss(chunks[: training.batch_size])

    def read() -> Any:
        return model.encode(chunks)

    def write(limit: int) -> Any:  # so many, whatever they are: after these few steps many a
        # decoder ends at once
        return decode_greedily(
            model.decoder, states, count, bos=model.config.bos, eos=NO_TOKEN, limit=limit
        )

    states = read()  # the first time, kernels are compiled
    _, seconds = _timed(read, chunks.device)
    metrics["encode_tokens_per_second"] = count * length / seconds
    write(2)
    _, seconds = _timed(lambda: write(length + 1), chunks.device)
    metrics["decode_tokens_per_second"] = count * (length + 1) / seconds


def _observe(
    model: StateAutoencoder, tokens: Tensor, metrics: dict[str, float | None]
) -> int | None:
    """Begin to write as many chunks as a measurement does at once, all like that of `tokens`
    (1, L): the peak of memory in bytes, which later steps do not raise."""
    from lib.analysis.memory_writing import chunks_at_once, read
    from lib.models.autoencoder import decode_greedily

    count = chunks_at_once(model)
    memory = PeakMemory(tokens.device)
    bos = model.config.bos
    decode_greedily(
        model.decoder, read(model, tokens.expand(count, -1)), count, bos=bos, eos=NO_TOKEN,
        limit=BEGUN,
    )  # fmt: skip
    peak = memory.bytes()
    metrics["observe_chunks"] = float(count)
    metrics["observe_peak_gb"] = None if peak is None else peak / 1e9
    return peak


def _timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """What `work` returns, and the seconds that it took, the device's included."""
    import torch

    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
    before = time.perf_counter()
    found = work()
    if cuda:
        torch.cuda.synchronize()
    return found, time.perf_counter() - before


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: layers, width, length, batch, precision, device and every metric."""
    rows = []
    for record in records:
        cell = from_dict(ScaleCell, record.config)
        rows.append(
            {
                "layers": cell.model.n_layers,
                "width": cell.model.d_model,
                "length": cell.length,
                "batch": cell.training.batch_size,
                "precision": cell.training.precision,
                "seed": cell.seed,
                "device": record.provenance.get("device_name"),
                **record.metrics,
            }
        )
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a record of :func:`frame`, for readers; rates to three digits. What no record has is
    left out."""
    names = {
        "length": "tokens a chunk", "batch": "chunks a batch", "precision": "precision",
        "step_seconds": "seconds a step", "train_tokens_per_second": "tokens a second, training",
        "encode_tokens_per_second": "tokens a second, reading",
        "decode_tokens_per_second": "tokens a second, writing",
        "train_peak_gb": "peak memory of training / GB",
        "observe_chunks": "chunks written at once",
        "observe_peak_gb": "peak memory of writing them / GB", "device": "device",
    }  # fmt: skip
    newer = ("observe_chunks", "observe_peak_gb")
    rows = frame.reindex(columns=[name for name in names if name in frame or name not in newer])
    rates = [name for name in names if name.endswith("per_second")]
    rows[rates] = rows[rates].map(lambda rate: float(f"{rate:.3g}"))
    return rows.rename(columns=names)


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="The paper's scale: memory and speed",
        # in 1, writing ended where all decoders did; in 2, kernels were compiled within the time of
        # reading
        protocol=3,
        notebook="notebooks/memory/paper_scale.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
        judged=False,  # a measurement of the machine, not of a claim
    ),
)
