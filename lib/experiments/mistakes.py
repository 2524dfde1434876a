"""Chapter "Stories": four mistakes of public baselines, each made on purpose beside its right twin.

* padding: short stories fill their rows with ends of text, and the loss counts those;
* mask: attention without a causal mask sees the very token that it is to predict;
* experts: each expert's matrix starts with a fan-in of rows times columns, as a library's default
  for a tensor of three axes has it, and so far too small (the number of experts does not enter);
* dt: biases are set to zero after initialisation, and with them the step sizes of a Mamba. The
  biases of its convolutions go too, so this twin differs in more than dt. The source zeroes the
  biases of its linear maps, and draws the weights of dt_proj again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from lib.config import from_dict, require
from lib.experiments import Context, Experiment, Outcome
from lib.experiments._language import LanguageCell, language_study, open_data
from lib.experiments._training import Study, train_cells
from lib.experiments.stories import TRAINING, architecture
from lib.models.config import AttentionConfig, InitialisationConfig, LanguageModelConfig
from lib.models.presets import preset
from lib.store import Record
from lib.tasks.corpus import CorpusConfig, StoryText
from lib.tasks.language import LanguageTask
from lib.tasks.stories import rich
from lib.tasks.tokenizers import BPEConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lib.models.language_model import LanguageModel
    from lib.tasks.language import LanguageData
    from lib.training.batches import TensorBatches

NAME = "stories.what_went_wrong"
# mistake to what a page calls the right twin and the wrong one
MISTAKES = {
    "padding": ("padding left out", "padding counted"),
    "mask": ("experts, causal mask", "experts, no mask"),
    "experts": ("experts, right start", "experts, start too small"),
    "dt": ("Mamba-1, right dt", "Mamba-1, dt lost"),
}
SEEDS = (1, 2, 3)
PROBE_ROWS = 16  # rows on which a loss without the future is measured
PADDED = ("packed", "left out", "counted")


@dataclass(frozen=True)
class MistakeCell(LanguageCell):
    """A training run, right or wrong; the mistakes in the model are those of its config.

    Attributes:
        padding: "packed": rows without any; else each document has a row of its own, whose padding
            is "left out" of the loss or, wrongly, "counted".
    """

    padding: Literal["packed", "left out", "counted"] = "packed"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "padding", self.padding in PADDED, ", ".join(PADDED))


def twins(mistake: str, model: LanguageModelConfig) -> LanguageModelConfig:
    """`model` with a mistake made in it.

    Raises:
        ValueError: a mistake that is none of the model's.
    """
    if mistake == "mask":
        pattern = tuple(
            dataclasses.replace(block, causal=False)
            if isinstance(block, AttentionConfig)
            else block
            for block in model.pattern
        )
        return dataclasses.replace(model, pattern=pattern)
    starts = {
        "experts": InitialisationConfig(expert_fan="stack"),
        "dt": InitialisationConfig(zero_biases=True),
    }
    if mistake not in starts:
        raise ValueError(f"mistake is {mistake!r}, allowed: mask, {', '.join(starts)}")
    return dataclasses.replace(model, initialisation=starts[mistake])


def cells(profile: str) -> list[MistakeCell]:
    """matched: models of 1M, 8 million tokens, three seeds. quick: four layers of them, some steps.
    paper: none."""
    if profile == "quick":
        return _grid(
            _task(300, 512, 32, 8 * 10, 16), _task(60, 512, 192, None, 4, beats=(1, 3)), (1,),
            dataclasses.replace(TRAINING, epochs=4, batch_size=8, precision="float32"), layers=4,
        )  # fmt: skip
    if profile != "matched":
        return []
    training = dataclasses.replace(TRAINING, epochs=5)
    packed = _task(40_000, 2048, 256, 64 * 100, 128)
    return _grid(packed, _task(8_000, 2048, 256, None, 128, beats=(2, 14)), SEEDS, training)


def _task(
    documents: int, vocab: int, length: int, epoch_rows: int | None, valid_rows: int,
    beats: tuple[int, int] | None = None,
) -> LanguageTask:  # fmt: skip
    stories = rich()
    if beats is not None:  # short ones too, so that there is something to fill up
        stories = dataclasses.replace(stories, beats_min=beats[0], beats_max=beats[1])
    return LanguageTask(
        CorpusConfig(StoryText(stories, documents), validation=0.1 if documents < 1000 else 0.03),
        BPEConfig(vocab, 10_000_000), length,
        None if epoch_rows is None else epoch_rows * length, valid_rows,
    )  # fmt: skip


def _grid(
    packed: LanguageTask, padded: LanguageTask, seeds: Sequence[int], training: Any,
    layers: int | None = None,
) -> list[MistakeCell]:  # fmt: skip
    """One seed of all before the next."""

    def model(kind: str) -> LanguageModelConfig:
        config = preset(kind, "1M", packed.tokenizer.vocab_size)  # type: ignore[union-attr]
        return config if layers is None else dataclasses.replace(config, n_layers=layers)

    moe, mamba, plain = model("moe"), model("mamba1"), model("transformer")
    runs = [
        (moe, "packed"), (twins("mask", moe), "packed"), (twins("experts", moe), "packed"),
        (mamba, "packed"), (twins("dt", mamba), "packed"), (plain, "left out"), (plain, "counted"),
    ]  # fmt: skip
    return [
        MistakeCell(packed if padding == "packed" else padded, config, training, seed, padding)  # type: ignore[arg-type]
        for seed in seeds
        for config, padding in runs
    ]


def shown(cell: MistakeCell) -> list[tuple[str, bool]]:
    """Mistakes that a cell is a twin of, and whether it is the wrong one: the right mixture of
    experts is the right twin of two."""
    if cell.padding != "packed":
        return [("padding", cell.padding == "counted")]
    if any(isinstance(block, AttentionConfig) and not block.causal for block in cell.model.pattern):
        return [("mask", True)]
    start = cell.model.initialisation
    if start.expert_fan == "stack":
        return [("experts", True)]
    if start.zero_biases:
        return [("dt", True)]
    return (
        [("dt", False)] if architecture(cell) == "mamba1" else [("mask", False), ("experts", False)]
    )


def readable(cell: MistakeCell) -> str:
    """For example ``moe-wrong-mask-s1``."""
    found = shown(cell)
    side = "wrong" if found[0][1] else "right"
    return f"{architecture(cell)}-{side}-{'-'.join(name for name, _ in found)}-s{cell.seed}"


def described(cell: MistakeCell) -> str:
    """The twins that a cell is, in words."""
    return "; ".join(MISTAKES[name][made] for name, made in shown(cell))


def run(chosen: Sequence[MistakeCell], context: Context) -> Iterator[Outcome]:
    """Train the cells one after the other."""
    for cell in chosen:
        for outcome in train_cells([cell], context, study(cell)):
            yield outcome
            if outcome.status == "stopped":
                return


def study(cell: MistakeCell) -> Study:
    """How `cell` is trained and measured."""
    from lib.analysis.language import HeldOut, prediction
    from lib.analysis.mistakes import HeldOutRows, losses_by_both, padded_losses

    base = dataclasses.replace(
        language_study(), readable=readable, inspect=at_start, summarise=_summarise,
        keep_weights=lambda cell: False,
    )  # fmt: skip
    if cell.padding == "packed":

        def final(model: nn.Module, text: HeldOut) -> dict[str, Tensor]:
            return losses_by_both(model, text.tokens[:PROBE_ROWS], attends(cell.model))

        def evaluate(model: nn.Module, text: HeldOut) -> dict[str, Tensor]:
            return {"reported_loss": prediction(model, text)["valid_loss"]}

        return dataclasses.replace(base, evaluate=evaluate, final=final)
    counted = cell.padding == "counted"

    def data(task: LanguageTask, seed: int) -> tuple[LanguageData, HeldOutRows]:
        opened = open_data(task)
        inputs, targets = _padded(task, "validation")
        rows = slice(task.valid_rows)
        return opened, HeldOutRows(inputs[rows], targets[rows], opened.tokenizer.eos)

    def batches(opened: LanguageData, cell: MistakeCell, device: torch.device) -> TensorBatches:
        from lib.tasks.padding import with_padding
        from lib.training.batches import TensorBatches

        inputs, targets = _padded(cell.task, "train")
        if counted:
            targets = with_padding(targets, opened.tokenizer.eos)
        tensors = [inputs.to(device), targets.to(device)]
        training = cell.training
        return TensorBatches(tensors, training.batch_size, cell.seed, drop_last=training.drop_last)

    def measure(model: nn.Module, rows: HeldOutRows) -> dict[str, Tensor]:
        return padded_losses(model, rows, counted)

    return dataclasses.replace(base, data=data, batches=batches, evaluate=measure, final=measure)


@lru_cache(maxsize=2)
def _padded(task: LanguageTask, side: str) -> tuple[Tensor, Tensor]:
    from lib.tasks.padding import padded_rows

    opened = open_data(task)
    return padded_rows(list(getattr(opened.corpus, side)), opened.tokenizer, task.length)


def attends(model: LanguageModelConfig) -> bool:
    """Whether a block could see the future: all others pass a state from token to token."""
    return any(isinstance(block, AttentionConfig) for block in model.pattern)


def _summarise(curves: pd.DataFrame) -> dict[str, float | None]:
    out: dict[str, float | None] = {"epochs": float(len(curves))}
    if len(curves):
        out["final_train_loss"] = float(curves["train_loss"].iloc[-1])
    return out


def at_start(model: LanguageModel, cell: MistakeCell) -> dict[str, float]:
    """How the weights of `cell` started: ``start_dt``, the median step size of a Mamba-1 for an
    input of zero; ``start_expert``, the largest weight in an expert's first map."""
    import torch.nn.functional as F

    from lib.models.language_model import build_language_model
    from lib.models.mamba1 import Mamba1Mixer
    from lib.models.moe import MoEMixer

    mixers = list(build_language_model(cell.model, seed=cell.seed).modules())
    out = {}
    for mixer in mixers:
        if isinstance(mixer, Mamba1Mixer):
            out["start_dt"] = float(F.softplus(mixer.dt_proj.bias.detach()).median())
        elif isinstance(mixer, MoEMixer):
            out["start_expert"] = float(mixer.in_weight.detach().abs().max())
    return out


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record and mistake that it is a twin of: mistake, made, variant (in words), seed
    and every metric."""
    rows: list[dict[str, Any]] = []
    for record in records:
        cell = from_dict(MistakeCell, record.config)
        for mistake, made in shown(cell):
            rows.append(
                {
                    "mistake": mistake, "made": made, "variant": MISTAKES[mistake][made],
                    "seed": cell.seed, "status": record.status, **record.metrics,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def starts(table: pd.DataFrame) -> pd.DataFrame:
    """How the weights of each variant of :func:`frame` started, and the text in its rows, for
    readers."""
    names = {
        "variant": "variant", "seed": "seed", "start_dt": "step size, median",
        "start_expert": "largest weight of experts", "text_share": "share of text in the rows",
    }  # fmt: skip
    return table.reindex(columns=list(names)).rename(columns=names).drop_duplicates()


def curves(records: Sequence[Record]) -> pd.DataFrame:
    """Learning curves with mistake, made, variant and seed, once for each mistake that a record is
    a twin of."""
    parts = []
    for record in records:
        cell = from_dict(MistakeCell, record.config)
        for mistake, made in shown(cell):
            names = {"mistake": mistake, "made": made, "variant": MISTAKES[mistake][made]}
            parts.append(record.read_curves().assign(**names, seed=cell.seed))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def false_beside_true(table: pd.DataFrame) -> pd.DataFrame:
    """One row a mistake, means over seeds: the false number (what the wrong twin would report), the
    true number of the same model, and what the right twin reaches; numbers of seeds."""
    rows = []
    for mistake, (_, wrong) in MISTAKES.items():
        some = table[table["mistake"] == mistake] if len(table) else table
        if not len(some) or some["made"].nunique() < 2:
            continue
        bad, good = some[some["made"]], some[~some["made"]]
        rows.append(
            {
                "mistake": wrong, "false number": bad["reported_loss"].mean(),
                "the same model, true": bad["true_loss"].mean(),
                "without the mistake": good["true_loss"].mean(),
                "seeds": bad["seed"].nunique(),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="What went wrong",
        protocol=1,
        notebook="notebooks/stories/what_went_wrong.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
        judged=False,  # it shows mistakes; their size hangs on text and model
    ),
)
