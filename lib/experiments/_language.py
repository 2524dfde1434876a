"""Training language models as cells: what the chapters stories, noise and memory share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib import provenance
from lib.experiments import Context, Outcome
from lib.experiments._model_names import model_parts
from lib.experiments._training import Study, check_seed, train_cells, train_group
from lib.models.config import LanguageModelConfig
from lib.store import Record, Store
from lib.tasks.language import LanguageTask
from lib.tasks.tokenizers import BYTES, BPEConfig, BytesConfig
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    import torch

    from lib.analysis.language import HeldOut
    from lib.models.language_model import LanguageModel
    from lib.tasks.language import LanguageData
    from lib.tasks.packing import PackedBatches
    from lib.training.abreast import Turns

# names of corpora on pages
TEXT_NAMES = {"stories": "made-up stories", "kinds": "made-up text", "local": "real text"}
WATCHED = ("valid_loss", "valid_bits_per_byte")


@dataclass(frozen=True)
class LanguageCell:
    """One training run of a language model.

    An "epoch" of `training` is `task.epoch_tokens` tokens, after which held-out text is measured;
    the whole run sees ``epochs * epoch_tokens``.
    """

    task: LanguageTask
    model: LanguageModelConfig
    training: TrainingConfig
    seed: int

    def __post_init__(self) -> None:
        least = self._tokens()
        if least is not None and self.model.vocab_size < least:
            raise ValueError(
                f"model.vocab_size is {self.model.vocab_size}, allowed: {least} or more, the "
                "tokens of the tokenizer"
            )
        most = self.model.max_length
        if most is not None and self.task.length > most:
            raise ValueError(f"task.length is {self.task.length}, allowed: up to max_length {most}")
        check_seed(self.seed)

    def _tokens(self) -> int | None:
        """Tokens of the tokenizer, where the config says how many."""
        tokenizer = self.task.tokenizer
        if isinstance(tokenizer, BPEConfig):
            return tokenizer.vocab_size
        return BYTES + 1 if isinstance(tokenizer, BytesConfig) else None  # with the end of text


def language_readable(cell: LanguageCell) -> str:
    """For example ``mamba1-L4-tied-m128-stories-s1``."""
    return "-".join([*model_parts(cell.model), cell.task.corpus.source.kind, f"s{cell.seed}"])


def open_data(task: LanguageTask) -> LanguageData:
    """The task's text; tokenizer and token streams are kept beside the local runs."""
    # how often and on how much a model is measured changes nothing of the text
    return _open_text(dataclasses.replace(task, epoch_tokens=None, valid_rows=1))


@lru_cache(maxsize=2)  # the cells of a study mostly share one text or two
def _open_text(task: LanguageTask) -> LanguageData:
    from lib.tasks.language import build

    return build(task, Store.at(provenance.ROOT).local / "text")


def language_study(remarks: Callable[[LanguageModel, Any], dict[str, Any]] | None = None) -> Study:
    """How language models are trained and measured; `remarks`: see :class:`Study`."""
    from lib.analysis.language import held_out, next_token_loss, prediction

    def data(task: LanguageTask, seed: int) -> tuple[LanguageData, HeldOut]:
        opened = open_data(task)
        return opened, held_out(opened.valid, task.valid_rows, 32)

    return Study(
        data=data,
        batches=_batches,
        stacked=None,
        loss=next_token_loss,
        evaluate=prediction,
        summarise=summarise,
        readable=language_readable,
        describe=lambda opened: {
            "text": opened.corpus.describe(),
            "tokenizer": opened.tokenizer.fingerprint,
            "train_tokens": opened.train.stream.facts.tokens,
        },
        remarks=remarks or (lambda model, cell: {}),
        by_layer=True,
    )


def _batches(opened: LanguageData, cell: LanguageCell, device: torch.device) -> PackedBatches:
    from lib.tasks.packing import PackedBatches

    wanted = cell.task.epoch_tokens
    return PackedBatches(
        opened.train, cell.training.batch_size, cell.seed, cell.training.drop_last, device,
        epoch_rows=None if wanted is None else wanted // cell.task.length,
    )  # fmt: skip


def summarise(curves: pd.DataFrame) -> dict[str, float | None]:
    """Least and final loss and bits per byte on held-out text, and the final loss in training."""
    out: dict[str, float | None] = {"epochs": float(len(curves))}
    if not len(curves):
        return out
    for name in WATCHED:
        best = curves[name].idxmin()
        out[f"best_{name}"] = float(curves.loc[best, name])
        out[f"best_{name}_epoch"] = float(curves.loc[best, "epoch"])
        out[f"final_{name}"] = float(curves[name].iloc[-1])
    out["final_train_loss"] = float(curves["train_loss"].iloc[-1])
    return out


def train_language(
    cells: Sequence[LanguageCell], context: Context,
    remarks: Callable[[LanguageModel, Any], dict[str, Any]] | None = None,
) -> Iterator[Outcome]:  # fmt: skip
    """Train the cells, each alone, in their order.

    Args:
        remarks: a trained model and its cell to further facts for the record.

    Raises:
        TextUnavailable: text or tokenizer that is not on this machine.
        ValueError: a model with fewer tokens than the tokenizer.
    """
    for cell in cells:  # before any work
        _check_tokens(cell)
    yield from train_cells(cells, context, language_study(remarks))


def language_in_turns(cell: LanguageCell, context: Context) -> Turns[Outcome]:
    """:func:`train_language` for one cell, in turns; see :mod:`lib.training.abreast`."""
    _check_tokens(cell)
    (outcome,) = yield from train_group([cell], context, language_study(None))
    return outcome


def _check_tokens(cell: LanguageCell) -> None:
    tokens = open_data(cell.task).tokenizer.vocab_size
    if tokens > cell.model.vocab_size:
        raise ValueError(
            f"model.vocab_size is {cell.model.vocab_size}, allowed: {tokens} or more, the tokens "
            "of the tokenizer"
        )


def write_samples(
    model: LanguageModel, cell: LanguageCell, count: int = 2, prompt_tokens: int = 24,
    new_tokens: int = 120,
) -> dict[str, Any]:  # fmt: skip
    """What a trained model writes after the beginnings of held-out documents, for the record:
    ``samples``, a list of ``prompt`` and ``text``. Drawn at temperature 0.8 among the likeliest
    tokens that together have 95 %, by the cell's seed."""
    from lib.models.generation import generate
    from lib.models.sampling import SamplingConfig

    opened = open_data(cell.task)
    texts = opened.corpus.validation[:count]
    eos = opened.tokenizer.eos
    prompts = [[eos, *opened.tokenizer.encode(text)][:prompt_tokens] for text in texts]
    sampling = SamplingConfig(temperature=0.8, top_p=0.95, seed=cell.seed)
    written = generate(model, prompts, max_new_tokens=new_tokens, sampling=sampling, stop=[eos])
    decode = opened.tokenizer.decode
    return {
        "samples": [
            {"prompt": decode(prompt), "text": decode(tokens)}
            for prompt, tokens in zip(prompts, written, strict=True)
        ]
    }


def tokens_per_second(record: Record) -> float | None:
    """Training tokens a second in the fastest epoch of a record's last session, measuring included:
    other work on a device, and what comes before the first step, only ever slow an epoch down."""
    seconds = record.provenance.get("fastest_epoch_seconds")
    if not seconds:
        return None
    steps = record.metrics["steps"] / record.config["training"]["epochs"]
    tokens = record.config["training"]["batch_size"] * record.config["task"]["length"]
    return float(steps * tokens / seconds)
