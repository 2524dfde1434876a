"""Clean, noisy, clean again: three architectures of equal size that learn a closed world by heart.

Experiment ``noise.matched``. Mamba-1, Mamba-2 and a Transformer of equal size begin with the same
built-in stories, then learn the facts of a small invented world (phase 1), then noisy answers to
the same questions (phase 2), then the clean ones again (phase 3). What a model knows is asked in
phrasings that were trained with other attributes, not with this one. The size of the loss, of the
gain and of what stays can so be compared between architectures with all else equal, which published
numbers do not allow.

Controls: clean answers in all phases (``noise`` "none"), a part of the facts noisy (``share``), 50
questions alone (``samples``), five noisy examples before a question (in-context). In one run all
noises of an architecture and a seed begin with the same model after phase 1, which is trained once
and kept by its identity beside the local runs; they then train together along a leading axis. Runs
on several machines train it anew and need not get the same one: ``began`` of :func:`frame` says
which a record is of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.config import from_dict
from lib.experiments import Context, Experiment, Outcome
from lib.experiments._noise_parts import began
from lib.experiments._noise_parts import origins as origins  # for pages
from lib.experiments._noise_parts import with_sides as with_sides
from lib.experiments._noise_world import PhaseCell, family
from lib.experiments.noise import CHAPTER
from lib.models.presets import SIZES, preset
from lib.store import Record
from lib.tasks.closed_world import ClosedWorld
from lib.tasks.corpus import CorpusConfig, StoryText
from lib.tasks.language import LanguageTask
from lib.tasks.noise import NOISES, NONE, TITLES
from lib.tasks.tokenizers import BPEConfig
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    from lib.experiments._noise_family import Family

NAME = f"{CHAPTER}.matched"
KINDS = ("mamba1", "mamba2", "transformer")
NAMES = {"mamba1": "Mamba-1", "mamba2": "Mamba-2", "transformer": "Transformer"}
SHARES, FEW = (0.1, 0.5), 50
SEEDS = {"1M": (1, 2, 3), "5M": (1,)}

# AdamW as in the paper but for the rate, which small models from scratch need larger
TRAINING = TrainingConfig(
    epochs=6, warmup_epochs=0, warmup_steps=100, batch_size=64, lr_peak=1e-3, lr_end=1e-4,
    beta2=0.95, weight_decay=0.1, spare_dynamics=True, precision="bfloat16",
)  # fmt: skip
CLEAN = dataclasses.replace(TRAINING, epochs=30)
WORLD = ClosedWorld(60, 60, 60)
BASE = LanguageTask(
    CorpusConfig(StoryText(documents=8_000), validation=0.01),
    BPEConfig(2048, training_bytes=4_000_000), length=64, valid_rows=64,
)  # fmt: skip
PRETRAINING = dataclasses.replace(TRAINING, epochs=4, batch_size=128)


def cells(profile: str) -> list[PhaseCell]:
    """Cells of a profile.

    matched: seed by seed, each architecture at 1M with every noise and control, then one seed at
    5M. quick: tiny models that show the way, seconds each. paper: none; published checkpoints have
    experiments of their own.
    """
    if profile == "quick":
        return _quick()
    if profile != "matched":
        return []
    found = []
    for size, seeds in SEEDS.items():
        for seed in seeds:
            for kind in KINDS:
                plain = PhaseCell(WORLD, BASE, preset(kind, size, 2048), PRETRAINING, CLEAN,
                                  TRAINING, TRAINING, NONE, seed)  # fmt: skip
                found += variants(plain)
    return found


def variants(plain: PhaseCell) -> list[PhaseCell]:
    """The control `plain` and all noises: on every fact, on shares of them, on few questions."""
    whole = [dataclasses.replace(plain, noise=noise) for noise in NOISES]
    mixed = [dataclasses.replace(cell, share=share) for share in SHARES for cell in whole]
    few = [dataclasses.replace(cell, samples=FEW) for cell in whole]
    return [plain, *whole, *mixed, *few]


def _quick() -> list[PhaseCell]:
    from lib.models.config import (
        AttentionConfig,
        FeedForwardConfig,
        LanguageModelConfig,
        Mamba1Config,
        Mamba2Config,
    )

    m = 32
    patterns: dict[str, tuple[Any, ...]] = {
        "mamba1": (Mamba1Config(m, d_state=8),),
        "mamba2": (Mamba2Config(m, d_state=16, headdim=16),),
        "transformer": (
            AttentionConfig(d_model=m, n_heads=2, d_qk=m, d_v=m, rope_theta=10_000.0),
            FeedForwardConfig(d_model=m, d_hidden=64, activation="swiglu"),
        ),
    }
    base = LanguageTask(
        CorpusConfig(StoryText(documents=40), validation=0.05),
        BPEConfig(400, training_bytes=30_000), length=32, valid_rows=4,
    )  # fmt: skip
    short = dataclasses.replace(
        TRAINING,
        epochs=4,
        batch_size=24,
        warmup_steps=6,
        lr_peak=1e-2,
        lr_end=1e-3,
        precision="float32",
    )
    found = []
    for kind in KINDS:
        layers = 2 * len(patterns[kind])
        model = LanguageModelConfig(400, layers, patterns[kind], tie_embeddings=True)
        plain = PhaseCell(
            ClosedWorld(4, 4, 4, attributes=1), base, model,
            dataclasses.replace(short, epochs=1, batch_size=32),
            dataclasses.replace(short, epochs=12), short, short, NONE, 1,
        )  # fmt: skip
        found += [plain, dataclasses.replace(plain, noise="char_flip")]
    return found


def architecture(cell: PhaseCell) -> str:
    """Which of KINDS the model is."""
    kind = cell.model.pattern[0].kind
    return "transformer" if kind == "attention" else kind


def size_of(cell: PhaseCell) -> str:
    """Name of the preset that the model is, or its width and depth."""
    for size in SIZES:
        if preset(architecture(cell), size, cell.model.vocab_size) == cell.model:
            return size
    return f"m{cell.model.d_model}L{cell.model.n_layers}"


def readable(cell: PhaseCell) -> str:
    """For example ``mamba1-1M-char-flip-50pc-s1``."""
    parts = [architecture(cell), size_of(cell), cell.noise.replace("_", "-")]
    if cell.share < 1:
        parts.append(f"{100 * cell.share:g}pc")
    if cell.samples is not None:
        parts.append(f"n{cell.samples}")
    if cell.weights != "float32":
        parts.append(cell.weights)
    return "-".join([*parts, f"s{cell.seed}"])


def run(cells: Sequence[PhaseCell], context: Context) -> Iterator[Outcome]:
    """Train the cells, family by family: those that share a model after phase 1 together; stops
    after the family in which the budget ran out.

    Raises:
        CheckpointError: a checkpoint is damaged, or of another cell or phase.
    """
    from lib.experiments._noise_family import Family

    yield from run_families(cells, context, readable, Family)


def run_families(
    cells: Sequence[PhaseCell], context: Context, name: Callable[[PhaseCell], str],
    kind: Callable[..., Family],
) -> Iterator[Outcome]:  # fmt: skip
    """:func:`run`, for experiments that name cells or measure them in ways of their own."""
    families: dict[PhaseCell, list[PhaseCell]] = {}
    for cell in cells:
        families.setdefault(family(cell), []).append(cell)
    for members in families.values():
        stopped = False
        for outcome in kind(members, context, name).run():
            yield outcome
            stopped |= outcome.status == "stopped"
        if stopped:
            return


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: ``architecture``, ``model`` (for readers), ``size``, ``noise``, ``share``,
    ``samples`` (NaN for all), ``weights``, ``seed``, ``name`` (of the record), ``began`` (of which
    run its model after phase 1 is), and every metric."""
    rows = []
    for record in records:
        if record.status != "done":
            continue
        cell = from_dict(PhaseCell, record.config)
        kind = architecture(cell)
        rows.append(
            {
                "architecture": kind, "model": NAMES.get(kind, kind), "size": size_of(cell),
                "noise": cell.noise, "share": cell.share, "samples": cell.samples,
                "weights": cell.weights, "seed": cell.seed, "name": record.readable,
                "began": began(record), **record.metrics,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def example(cell: PhaseCell) -> pd.DataFrame:
    """One training question of a cell with its answer in each phase, and one test question."""
    from lib.experiments._noise_world import open_questions, phase_answers

    questions = open_questions(cell.world, cell.seed, cell.base)
    rows = []
    for phase in ("clean", "noisy", "again"):
        prompts, answers = phase_answers(cell, phase, questions)
        rows.append((phase, prompts[0].strip(), answers[0]))
    rows.append(("asked", questions.asked[0].strip(), questions.world.test[0].answer))
    return pd.DataFrame(rows, columns=["phase", "question", "answer"])


def on_all_facts(frame: pd.DataFrame, size: str) -> pd.DataFrame:
    """Of :func:`frame` the cells of a size with noise on all facts, and the control."""
    if not len(frame):
        return frame
    chosen = frame["size"].eq(size) & frame["share"].eq(1.0) & frame["samples"].isna()
    return frame[chosen & frame["weights"].eq("float32")]


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds in percent, a row for each model and noise: content after each phase,
    retention (noisy answers after phase 3 less those after phase 1), and the flows of facts that
    were known after phase 1."""
    from lib.experiments._noise_world import FLOWS

    if not len(frame):
        return frame
    kept = {"content_clean": "known after 1", "content_noisy": "in 2", "content_again": "after 3"}
    flows = [name for name in FLOWS if name in frame and name != "gained"]
    made = frame.assign(retained=frame["noise_again"] - frame["noise_clean"])
    keys = ["noise", "model"]
    means = made.groupby(keys, sort=False)[[*kept, "retained", *flows]].mean() * 100
    means.insert(0, "seeds", made.groupby(keys, sort=False)["seed"].nunique())
    return _named(means.rename(columns=kept).round(1).reset_index())


DISTANCES = ("before", "phase 2", "phase 3", "control, phase 3", "trace")


def distances(frame: pd.DataFrame, measure: str = "nats") -> pd.DataFrame:
    """How far the noise's answers are from what a model would say, in nats a token, a row for each
    model, noise and seed of :func:`on_all_facts`: before it met them (after phase 1), in phase 2
    and after phase 3; for the control of the same seed after phase 3; ``trace``, by how much less
    than for the control. Models that were not measured so, or lack their control, have no row.

    Args:
        measure: "nats" for means over the tokens of an answer, each after those before it; "begin"
            for the first token alone.
    """
    rows = []
    for (model, seed), some in frame.groupby(["model", "seed"], sort=False) if len(frame) else ():
        control = some[some["noise"].eq(NONE)]
        for _, row in some[some["noise"].ne(NONE)].iterrows():
            name = row["noise"]
            after = control.get(f"{measure}_{name}_again", pd.Series(dtype=float)).dropna()
            own = [row.get(f"{measure}_{name}_{phase}") for phase in ("clean", "noisy", "again")]
            if len(after) and not any(pd.isna(value) for value in own):
                never = float(after.iloc[0])
                rows.append([name, model, seed, *own, never, never - own[2]])
    return pd.DataFrame(rows, columns=["noise", "model", "seed", *DISTANCES])


def traces(apart: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of :func:`distances`, a row for each model and noise, with the least and
    the largest ``trace``."""
    groups = apart.groupby(["noise", "model"], sort=False)
    shown = groups[list(DISTANCES)].mean()
    shown["least"], shown["largest"] = groups["trace"].min(), groups["trace"].max()
    shown["seeds"] = groups["seed"].nunique()
    return _named(shown.reset_index())


def traces_of_others(frame: pd.DataFrame) -> pd.DataFrame:
    """Of which noise the trace is: the ``trace`` of :func:`distances` for the answers of every
    noise (columns) after each one that was taught (rows), means over models and seeds in nats a
    token. A model that merely became less sure of itself would have them all alike."""
    if not len(frame):
        return frame
    noises = [name for name in frame["noise"].unique() if name != NONE]
    columns = {f"nats_{name}_again": TITLES.get(name, name) for name in noises}
    measured = frame.reindex(columns=["model", "seed", "noise", *columns]).dropna()
    keys = ["model", "seed"]
    control = measured[measured["noise"].eq(NONE)].set_index(keys)[list(columns)]
    taught = measured[measured["noise"].ne(NONE)].set_index(["noise", *keys])
    apart = control.reindex(taught.index.droplevel("noise")).to_numpy() - taught
    means = apart.dropna().groupby(level="noise", sort=False).mean().rename(columns=columns)
    return _named(means.reset_index()).rename(columns={"noise": "taught"})


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The noises as readers know them."""
    return table.assign(noise=table["noise"].map(lambda name: TITLES.get(name, name)))


def compared(records: Sequence[Record], size: str) -> pd.DataFrame:
    """Architectures of a size in pairs, fact by fact, under noise on all facts; see ``pairs``."""
    from lib.experiments._noise_pairs import for_readers, pairs

    chosen = []
    for record in records:
        cell = from_dict(PhaseCell, record.config)
        whole = cell.share == 1 and cell.samples is None and cell.weights == "float32"
        if record.status == "done" and whole and size_of(cell) == size:
            chosen.append(record)

    def describe(record: Record) -> tuple[str, str, int]:
        cell = from_dict(PhaseCell, record.config)
        return NAMES[architecture(cell)], cell.noise, cell.seed

    return for_readers(pairs(chosen, describe), TITLES)


def few_and_in_context(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds in percent, a row for each model and noise, of models of one size: answers
    in the noise's form before any noise, after five noisy examples (before and after tuning), after
    phase 2 on few questions, and on all of them."""
    if not len(frame):
        return frame
    keys = ["noise", "model"]
    noisy = frame[frame["noise"].ne(NONE) & frame["share"].eq(1.0)]
    whole, few = noisy[noisy["samples"].isna()], noisy[noisy["samples"].notna()]
    names = {
        "own_clean": "before any noise", "in_context_own_clean": "5 examples, after 1",
        "in_context_own_again": "5 examples, after 3", "own_noisy": "phase 2",
    }  # fmt: skip
    whole = whole.reindex(columns=[*keys, *names])  # without some, where no cell has finished
    means = whole.groupby(keys, sort=False).mean().rename(columns=names)
    for name, title in (("own_noisy", "form"), ("content_noisy", "known")):
        means[f"phase 2, {FEW} questions: {title}"] = few.groupby(keys)[name].mean()
    return _named((100 * means).round(1).reset_index())


EXPERIMENTS = (
    Experiment(
        name=NAME,
        title="Noise learnt and unlearnt by three architectures of equal size",
        protocol=1,
        notebook="notebooks/noise/matched.ipynb",
        cells=cells,
        readable=readable,
        run=run,
        frame=frame,
    ),
)
