"""Chapter "Stories": published checkpoints, their memory and their speed.

Where the hub cannot be reached, what does not hang on the weights' values can be measured all the
same: a model of exactly a published architecture, with random weights, is saved in Hugging Face's
format and loaded back as the published one would be.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib import progress
from lib.config import from_dict, require
from lib.experiments import Context, Experiment, Outcome
from lib.models.config import LanguageModelConfig, Mamba1Config, Mamba2Config
from lib.store import Record

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lib.models.language_model import LanguageModel

NAME = "stories.pretrained"
# name to hub id, layers and width; all with tied embeddings
PUBLISHED = {
    "mamba-130m": ("state-spaces/mamba-130m-hf", 24, 768),
    "mamba2-130m": ("AntonV/mamba2-130m-hf", 24, 768),
    "mamba-370m": ("state-spaces/mamba-370m-hf", 48, 1024),
    "mamba2-370m": ("AntonV/mamba2-370m-hf", 48, 1024),
    "mamba-790m": ("state-spaces/mamba-790m-hf", 48, 1536),
    "mamba-1.4b": ("state-spaces/mamba-1.4b-hf", 48, 2048),
    "mamba2-1.3b": ("AntonV/mamba2-1.3b-hf", 48, 2048),
    "mamba-2.8b": ("state-spaces/mamba-2.8b-hf", 64, 2560),
}
VOCAB = {"mamba": 50_280, "mamba2": 50_288}
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class CheckpointCell:
    """A checkpoint with random weights, saved, loaded and used.

    Attributes:
        name: of the published model whose architecture it has, or of none.
        prompt_tokens, new_tokens: of the text that is generated, greedily, one at a time.
        repeats: timings of it.
        seed: of weights and prompt.
    """

    name: str
    model: LanguageModelConfig
    prompt_tokens: int = 512
    new_tokens: int = 64
    repeats: int = 3
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "new_tokens", "repeats"):
            require(self, name, getattr(self, name) >= 2, "at least 2")
        require(self, "seed", self.seed >= 0, "0 or more")


def published(name: str) -> LanguageModelConfig:
    """The architecture of a published model.

    Raises:
        ValueError: no model of that name.
    """
    if name not in PUBLISHED:
        raise ValueError(f"name is {name!r}, allowed: {', '.join(PUBLISHED)}")
    family = name.split("-")[0]
    _, layers, width = PUBLISHED[name]
    block = Mamba1Config(width) if family == "mamba" else Mamba2Config(width)
    return LanguageModelConfig(VOCAB[family], layers, (block,), tie_embeddings=True)


def tiny(family: str, vocab_size: int = 512) -> LanguageModelConfig:
    """A model of a published family so small that a processor makes it on the spot."""
    block = Mamba1Config(64) if family == "mamba" else Mamba2Config(64, d_state=32, headdim=32)
    return LanguageModelConfig(vocab_size, 4, (block,), tie_embeddings=True)


def cells(profile: str) -> list[CheckpointCell]:
    """paper: the published architectures, the smallest first. quick: a tiny one of each family.
    matched: none."""
    if profile == "quick":
        return [CheckpointCell(f"tiny-{family}", tiny(family), 32, 8, 2) for family in VOCAB]
    if profile != "paper":
        return []
    return [CheckpointCell(name, published(name)) for name in PUBLISHED]


def readable(cell: CheckpointCell) -> str:
    """For example ``mamba-130m-random-s1``."""
    return f"{cell.name}-random-s{cell.seed}"


def run(chosen: Sequence[CheckpointCell], context: Context) -> Iterator[Outcome]:
    """Save, load and use one checkpoint after the other, while the budget lasts."""
    for cell in context.each(chosen):
        if context.late:
            yield Outcome(cell, "stopped")
            return
        yield measure(cell, context)


def measure(cell: CheckpointCell, context: Context) -> Outcome:
    """Everything of one cell; nothing is left on the disk.

    Metrics: ``n_parameters``, ``file_bytes``, ``state_bytes`` (kept between tokens, whatever was
    read), ``transformers_error`` (largest difference of its logits to ours, over the largest), and
    with the name of each of DTYPES in front: ``load_s``, ``weight_bytes``, ``prompt_tokens_per_s``
    and ``new_tokens_per_s`` (medians), ``error`` (relative difference of logits to those before the
    model was saved) and, on a GPU, ``peak_mb``: megabytes of memory at most while it writes.
    """
    import torch

    from lib.bench.measure import first_line, relative_error
    from lib.models.generation import state_bytes
    from lib.models.hub import load_pretrained, save_pretrained
    from lib.models.language_model import build_language_model
    from lib.ops import backends

    device = torch.device(context.device)
    prompt = torch.randint(
        cell.model.vocab_size, (1, cell.prompt_tokens),
        generator=torch.Generator().manual_seed(cell.seed),
    )  # fmt: skip
    metrics: dict[str, float | None] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as name, backends.recording() as used:
        folder = Path(name)
        model = build_language_model(cell.model, seed=cell.seed).eval()
        with torch.no_grad():
            exact, states = model(prompt[:, :16], last_token_only=True, return_states=True)
        metrics["n_parameters"] = float(sum(p.numel() for p in model.parameters()))
        metrics["state_bytes"] = float(state_bytes(states))
        save_pretrained(model, folder)
        del model, states
        metrics["file_bytes"] = float((folder / "model.safetensors").stat().st_size)
        for dtype in DTYPES:
            before = _allocated(device)
            started = time.perf_counter()
            model = load_pretrained(
                folder, device=device, dtype=getattr(torch, dtype), backend=context.backend
            )
            _wait(device)
            found = {"load_s": time.perf_counter() - started}
            with torch.no_grad():
                logits = model(prompt[:, :16].to(device), last_token_only=True)
            found["error"] = relative_error(logits.float().cpu(), exact)
            found["weight_bytes"] = float(
                sum(p.numel() * p.element_size() for p in model.parameters())
            )
            timed = _write(model, prompt, cell, device)
            rows += [{"dtype": dtype, "repeat": n, **row} for n, row in enumerate(timed)]
            for speed in ("prompt_tokens_per_s", "new_tokens_per_s"):
                found[speed] = statistics.median(row[speed] for row in timed)
            if before is not None:
                found["peak_mb"] = (torch.cuda.max_memory_allocated(device) - before) / 1e6
            metrics |= {f"{dtype}_{key}": value for key, value in found.items()}
            del model, logits
            gc.collect()
        notes = {}
        try:
            error = _against_transformers(folder, prompt[:, :16], exact, device)
            metrics["transformers_error"] = error
        except Exception as failure:  # other code than ours: its kernels may not be for this device
            notes["transformers"] = first_line(failure)
    facts = {
        "backends": {op: list(names) for op, names in used.items()},
        "compile": False, "weights": "random", "notes": notes,
    }  # fmt: skip
    return Outcome(cell, "done", None, metrics, pd.DataFrame(rows), facts=facts)


def _allocated(device: torch.device) -> int | None:
    """Bytes in use on a GPU; from here on its peak is counted."""
    import torch

    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_allocated(device))


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def _write(
    model: LanguageModel, prompt: Tensor, cell: CheckpointCell, device: torch.device
) -> list[dict[str, float]]:
    """Tokens a second of reading and of writing, a row a repeat; the first, a warm-up, is dropped.

    Writing is timed as the command line's user meets it: each token chosen and brought to the host.
    """
    from lib.models.generation import stream

    rows = []
    for _ in range(cell.repeats + 1):
        _wait(device)
        started = time.perf_counter()
        tokens = stream(model, prompt[0].tolist(), max_new_tokens=cell.new_tokens)
        next(tokens)  # the prompt was read, and a token chosen
        first = time.perf_counter()
        more = len(list(tokens))
        ended = time.perf_counter()
        rows.append(
            {
                "prompt_tokens_per_s": cell.prompt_tokens / (first - started),
                "new_tokens_per_s": more / (ended - first),
            }
        )
    return rows[1:]


def _against_transformers(
    folder: Path, prompt: Tensor, exact: Tensor, device: torch.device
) -> float:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()  # it warns that its slow code runs, which is meant
    progress.quiet_transformers()
    loader: Any = transformers.AutoModelForCausalLM
    theirs = loader.from_pretrained(str(folder), dtype=torch.float32).to(device).eval()
    with torch.no_grad():
        logits = theirs(prompt.to(device)).logits[:, -1].cpu()
    return float((logits - exact).abs().max() / exact.abs().max())


def tiny_checkpoint(folder: Path | str, family: str = "mamba", seed: int = 1) -> Path:
    """A tiny model with random weights and a tokenizer made of built-in stories, in Hugging Face's
    format: what it writes means nothing, how it is loaded and asked is the same.

    Raises:
        ValueError: a family that is not published.
    """
    from lib.models.hub import save_pretrained
    from lib.models.language_model import build_language_model
    from lib.tasks.stories import rich, story
    from lib.tasks.tokenizers import BPEConfig, for_transformers, train_bpe

    if family not in VOCAB:
        raise ValueError(f"family is {family!r}, allowed: {', '.join(VOCAB)}")
    tokenizer = train_bpe(BPEConfig(512), [story(rich(), index) for index in range(200)])
    model = build_language_model(tiny(family, tokenizer.vocab_size), seed=seed)
    return save_pretrained(model, folder, tokenizer=for_transformers(tokenizer))


def describe(folder: Path | str) -> pd.DataFrame:
    """What a checkpoint's config says, and what follows for memory: columns fact and value.

    Raises:
        HubError: no checkpoint, or one of another architecture.
    """
    import torch

    from lib.models.hub import load_config
    from lib.models.hub_format import our_config
    from lib.models.language_model import LanguageModel
    from lib.models.presets import non_embedding

    config = our_config(load_config(folder))
    with torch.device("meta"):
        total = sum(p.numel() for p in LanguageModel(config).parameters())
    block = config.pattern[0]
    facts = {
        "blocks": f"{config.n_layers} of {block.kind}", "width": f"{config.d_model:,}",
        "state entries a channel": f"{getattr(block, 'd_state', 0)}",
        "tokens that it knows": f"{config.vocab_size:,}", "parameters": f"{total:,}",
        "of these outside the embedding": f"{non_embedding(config):,}",
        "weights in float32": f"{4 * total / 1e6:,.1f} MB",
        "weights in bfloat16": f"{2 * total / 1e6:,.1f} MB",
    }  # fmt: skip
    return pd.DataFrame(list(facts.items()), columns=["fact", "value"])


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: name, hub id, seed and every metric."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell = from_dict(CheckpointCell, record.config)
        hub = PUBLISHED.get(cell.name, ("–",))[0]
        rows.append(
            {
                "name": cell.name, "hub id": hub, "seed": cell.seed, "status": record.status,
                **record.metrics,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def in_millions(table: pd.DataFrame) -> pd.DataFrame:
    """The same with millions of parameters and megabytes of state."""
    names = ("n_parameters", "state_bytes")
    return table.assign(**{name: table[name] / 1e6 for name in names})


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="Pretrained checkpoints",
        protocol=1,
        notebook="notebooks/stories/pretrained.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
    ),
)
