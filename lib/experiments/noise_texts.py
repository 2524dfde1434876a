"""Clean, noisy, clean again for models that read text: published checkpoints, and our own.

Experiments ``noise.mamba_130m``, ``noise.mamba_1_4b`` and ``noise.against_transformers``: the
paper's protocol (arXiv 2407.00996) and the third party's on published weights, from the hub or a
folder. Each runs on a checkpoint of the real architecture with random weights as well, made here:
that proves the whole path, and says what a step costs. Experiment ``noise.form``: our small models
on one of the authors' sets, which they are too small to answer from; only the form can be learnt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from lib.config import from_dict
from lib.experiments import Context, Experiment, Outcome
from lib.experiments import noise_phases as matched
from lib.experiments._noise_text_cell import (
    OwnBase,
    Published,
    RandomCheckpoint,
    TextCell,
    source_name,
)
from lib.experiments.noise import CHAPTER
from lib.store import Record
from lib.tasks.noise import NOISES, NONE, TITLES
from lib.training.config import TrainingConfig

NAMES = {
    "130m": f"{CHAPTER}.mamba_130m", "1.4b": f"{CHAPTER}.mamba_1_4b",
    "transformers": f"{CHAPTER}.against_transformers", "form": f"{CHAPTER}.form",
}  # fmt: skip
MAMBA = {"130m": "state-spaces/mamba-130m-hf", "1.4b": "state-spaces/mamba-1.4b-hf"}
SHAPES = {"130m": (24, 768), "1.4b": (48, 2048)}  # layers and width of the published models
# the paper's four, as far as its names tell which checkpoints they are, and one of Mamba's size
TRANSFORMERS = (
    "allenai/OLMo-1B-hf", "Qwen/Qwen1.5-1.8B", "google/gemma-1.1-2b-it", "microsoft/phi-2",
    "EleutherAI/pythia-160m",
)  # fmt: skip
JUDGE = "google/gemma-1.1-7b-it"  # the paper's
REPORTED = ("char_flip", "word_flip", "transliteration", "counterfactual")


# the paper's Appendix C as its repository has it (protocol, section 1.4)
PAPER = TrainingConfig(
    epochs=5, warmup_epochs=0, warmup_steps=100, batch_size=4, lr_start=1e-9, lr_peak=3e-6,
    lr_end=1e-9, beta2=0.95, eps=1e-5, weight_decay=0.1, clip_norm=1.0, drop_last=False,
    precision="bfloat16",
)  # fmt: skip
THIRD_130M = TrainingConfig(
    epochs=5, warmup_epochs=0, batch_size=2, lr_peak=1e-5, lr_end=1e-9, weight_decay=0.1,
    drop_last=False,
)  # fmt: skip
THIRD_1_4B = dataclasses.replace(
    THIRD_130M, lr_start=1e-9, lr_peak=3e-6, beta2=0.95, warmup_steps=100
)
LONGEST = 1024  # tokens of a row: the third party's; the paper's code sets no limit of its own
# new tokens of an answer (protocol, sections 1.5 and 1.6), in the paper fewer for Phi
ANSWER, ANSWER_PHI, ANSWER_THIRD = 500, 100, 100


def by_paper(source: Any, noise: str, **others: Any) -> TextCell:
    """A cell with the paper's settings; its pages say what differs."""
    own = {"length": LONGEST, "answer_tokens": ANSWER, **others}
    return TextCell(source, "D_ad", noise, "paper", PAPER, PAPER, PAPER, 42, **own)


def by_third_party(
    source: Any, noise: str, clean: TrainingConfig, later: TrainingConfig, **others: Any
) -> TextCell:
    """A cell with the third party's settings, `later` in phases 2 and 3; its pages say what
    differs."""
    own = {"length": LONGEST, "answer_tokens": ANSWER_THIRD, **others}
    return TextCell(source, "D_ad", noise, "third_party", clean, later, later, 42, **own)


def cells_130m(profile: str) -> list[TextCell]:
    """paper: the third party's run (float32, 1e-5, 5, 10 and 10 epochs), then the paper's settings
    with every noise, 50 samples, and a judge. matched: a few steps on random weights of the real
    architecture. quick: tiny random weights."""
    if profile != "paper":
        return [proof("130m")] if profile == "matched" else [tiny("mamba")]
    source, longer = Published(MAMBA["130m"]), dataclasses.replace(THIRD_130M, epochs=10)
    theirs = by_third_party(source, "char_flip", THIRD_130M, longer)
    others = by_paper(source, "char_flip", samples=50), by_paper(source, "char_flip", judge=JUDGE)
    return [theirs, *(by_paper(source, noise) for noise in NOISES), *others]


def cells_1_4b(profile: str) -> list[TextCell]:
    """paper: the third party's run (bfloat16 weights, 3e-6, 5 epochs each) with four noises, then
    the paper's settings. matched, quick: as for 130M."""
    if profile != "paper":
        return [proof("1.4b")] if profile == "matched" else [tiny("mamba", seed=2)]
    source, t = Published(MAMBA["1.4b"]), THIRD_1_4B
    theirs = [by_third_party(source, noise, t, t, weights="bfloat16") for noise in REPORTED]
    return [*theirs, *(by_paper(source, noise) for noise in NOISES)]


def cells_transformers(profile: str) -> list[TextCell]:
    """paper: five Transformers with the paper's settings. quick: a tiny one of transformers."""
    if profile != "paper":
        return [] if profile == "matched" else [tiny("gpt_neox")]
    return [
        by_paper(Published(name), noise, answer_tokens=ANSWER_PHI if "phi" in name else ANSWER)
        for name in TRANSFORMERS
        for noise in REPORTED
    ]


def tiny(family: Any, seed: int = 1) -> TextCell:
    """Seconds on a processor: the whole path on a random checkpoint."""
    short = dataclasses.replace(
        PAPER, epochs=1, warmup_steps=2, batch_size=8, lr_peak=1e-3, precision="float32"
    )
    return TextCell(
        RandomCheckpoint(family, 2, 64, 300), "built_in", "char_flip", "ours", short, short, short,
        seed, length=96, answer_tokens=8, rows=32,
    )  # fmt: skip


def proof(size: str) -> TextCell:
    """A few optimisation steps of the paper's at real size: what they need and take."""
    layers, width = SHAPES[size]
    few = dataclasses.replace(PAPER, epochs=2, warmup_steps=2)
    # longer than phase 2 by steps alone: the difference in time is that of the steps
    more = dataclasses.replace(few, epochs=6)
    return TextCell(
        RandomCheckpoint("mamba", layers, width), "built_in", "char_flip", "ours", few, few, more,
        1, answer_tokens=8, rows=32,
    )  # fmt: skip


def cells_form(profile: str) -> list[TextCell]:
    """matched: three architectures of 1M on the authors' D_ch (false answers: on their D_GK), asked
    their test questions, with five noises and the control, three seeds. quick: a tiny one in a
    closed world. paper: none."""
    if profile == "paper":
        return []
    if profile == "quick":
        cell = next(c for c in matched.cells("quick") if matched.architecture(c) == "mamba2")
        source = OwnBase(cell.base, cell.model, cell.pretraining)
        short = dataclasses.replace(tiny("mamba").clean, lr_peak=1e-2, lr_end=1e-3)
        made = TextCell(source, "built_in", "char_flip", "ours", short, short, short, 1,
                        length=64, answer_tokens=8, rows=32, scored="answer")  # fmt: skip
        return [made]
    training = dataclasses.replace(matched.TRAINING, epochs=3)
    plain = [
        cell for cell in matched.cells("matched")
        if cell.noise == NONE and matched.size_of(cell) == "1M"
    ]  # fmt: skip
    return [
        TextCell(OwnBase(cell.base, cell.model, cell.pretraining), "D_ch", noise, "ours",
                 training, training, training, seed, length=128, answer_tokens=64,
                 scored="answer")
        for seed in dict.fromkeys(cell.seed for cell in plain)  # one of all before the next
        for noise in ("char_flip", NONE, *(name for name in NOISES if name != "char_flip"))
        for cell in plain
        if cell.seed == seed
    ]  # fmt: skip


def readable(cell: TextCell) -> str:
    """For example ``mamba-130m-hf-third-party-char-flip-s42``."""
    few = [] if cell.samples is None else [f"n{cell.samples}"]
    few += [] if cell.judge is None else ["judged"]
    parts = [source_name(cell.source), cell.recipe, cell.noise, *few]
    return "-".join([*parts, f"s{cell.seed}"]).replace("_", "-")


def run(cells: Sequence[TextCell], context: Context) -> Iterator[Outcome]:
    """Take each cell's checkpoint through the phases; stops after the one in which the budget ran
    out.

    Raises:
        HubError, DataError: weights or data that are not here, saying how to get them.
        CheckpointError: a checkpoint is damaged, or of another cell or phase.
    """
    from lib.experiments._noise_checkpoint import run_cell
    from lib.experiments._noise_text_cell import phase_file

    for cell in context.each(cells):
        outcome = run_cell(cell, context, readable)
        yield outcome
        if outcome.status == "stopped":
            return
        # what is kept of its phases is of no use once its record is there
        for phase in ("noisy", "again"):
            phase_file(cell, phase, context, readable).remove()


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a record: ``model``, ``recipe``, ``noise``, ``samples``, ``weights``, ``seed``,
    ``device``, ``peak_gb`` where it was measured, and every metric."""
    rows = []
    for record in records:
        if record.status != "done":
            continue
        cell = from_dict(TextCell, record.config)
        peak = record.provenance.get("peak_memory_bytes")
        rows.append(
            {
                "model": source_name(cell.source), "recipe": cell.recipe, "noise": cell.noise,
                "samples": cell.samples, "weights": cell.weights, "seed": cell.seed,
                "device": record.provenance.get("device_name"),
                "peak_gb": None if peak is None else peak / 1e9, **record.metrics,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def example(cell: TextCell) -> pd.DataFrame:
    """One training row of a cell in each phase, with the labels of the authors' template."""
    from lib.experiments._noise_material import open_material

    made = open_material(cell.data, cell.noise, cell.samples, cell.seed)
    rows = [(phase, made.prompts[phase][0], made.answers[phase][0]) for phase in made.prompts]
    return pd.DataFrame(rows, columns=["phase", "prompt", "answer"])


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """What a step of :func:`proof` needs, a row a record of :func:`frame`."""
    names = {
        "model": "model", "device": "device", "n_parameters": "parameters",
        "seconds_per_step": "seconds a step", "tokens_per_second": "tokens a second",
        "peak_gb": "peak memory / GB",
    }  # fmt: skip
    shown = frame.round({"tokens_per_second": 0})
    return shown.reindex(columns=list(names)).rename(columns=names)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a record of :func:`frame`, in percent after phases 1, 2 and 3: content accuracy and the
    third party's, and answers in the noise's form: after phase 1 those are false positives."""
    if not len(frame):
        return frame
    phases = ("clean", "noisy", "again")
    shown = frame[["model", "recipe", "noise", "samples", "seed"]].copy()
    shown["noise"] = shown["noise"].map(TITLES)
    for name, title in {"content": "content", "their_accuracy": "theirs", "own": "form"}.items():
        numbers = 100 * frame.reindex(columns=[f"{name}_{phase}" for phase in phases])
        shown[f"{title}, {' / '.join(phases)}"] = [
            " / ".join("–" if pd.isna(value) else f"{value:.1f}" for value in row)
            for row in numbers.astype(float).to_numpy()
        ]
    return shown if shown["samples"].notna().any() else shown.drop(columns="samples")


def forms(frame: pd.DataFrame) -> pd.DataFrame:
    """:func:`table` of our own models, which differ in architecture, noise and seed alone: means
    over seeds, and how many these are."""
    if not len(frame):
        return frame
    numbers = list(frame.select_dtypes("number").columns.difference(["seed"]))
    groups = frame.groupby(["noise", "model"], sort=False)
    means = groups[numbers].mean().reset_index()
    whole = means.assign(recipe="ours", samples=None, seed=groups["seed"].nunique().to_numpy())
    made = table(whole)
    shown = made[[name for name in made if name.startswith(("content", "form"))]]
    shown.insert(0, "noise", made["noise"])
    shown.insert(0, "model", whole["model"].str.split("-").str[0].map(matched.NAMES))
    return shown.assign(seeds=made["seed"])


def _experiment(key: str, title: str, cells: Any, notebook: str, judged: bool) -> Experiment:
    return Experiment(
        name=NAMES[key], title=title, protocol=1, notebook=f"notebooks/noise/{notebook}.ipynb",
        cells=cells, readable=readable, run=run, frame=frame, judged=judged,
    )  # fmt: skip


EXPERIMENTS = (
    _experiment("130m", "Mamba-130M through the three phases", cells_130m, "mamba_130m", True),
    _experiment("1.4b", "Mamba-1.4B through the three phases", cells_1_4b, "mamba_1_4b", True),
    _experiment("transformers", "The Transformers that Mamba was compared with",
                cells_transformers, "against_transformers", False),
    _experiment("form", "The form of answers, learnt from the authors' data by small models",
                cells_form, "matched", False),
)  # fmt: skip
