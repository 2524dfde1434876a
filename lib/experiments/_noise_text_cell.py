"""Checkpoints that the phases may begin with, and the cells that take one through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lib.config import digest, require, to_dict
from lib.experiments import Context
from lib.experiments._noise_material import SETS, check_noise
from lib.models.config import LanguageModelConfig
from lib.tasks.language import LanguageTask
from lib.tasks.noise import NOISES, NONE
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    from lib.training.phases import PhaseFile


@dataclass(frozen=True)
class Published:
    """A checkpoint of the hub, or in a folder; its tokenizer lies beside it."""

    kind: ClassVar[str] = "published"
    name: str

    def __post_init__(self) -> None:
        require(self, "name", bool(self.name), "an id of the hub or a folder")


@dataclass(frozen=True)
class RandomCheckpoint:
    """A checkpoint of an architecture with weights drawn here, written to a folder and read back as
    a published one is. It reads bytes.

    Attributes:
        family: "mamba", "mamba2", or "gpt_neox", transformers' Transformer of Pythia.
        layers, width: of the stack. vocabulary: rows of the embedding.
    """

    kind: ClassVar[str] = "random"
    family: Literal["mamba", "mamba2", "gpt_neox"]
    layers: int
    width: int
    vocabulary: int = 50_280

    def __post_init__(self) -> None:
        require(self, "layers", self.layers >= 1, "at least 1")
        require(self, "width", self.width >= 64 and self.width % 64 == 0, "a multiple of 64")
        require(self, "vocabulary", self.vocabulary > 256, "257 or more")


@dataclass(frozen=True)
class OwnBase:
    """One of our models, pretrained on the book's stories; shared with ``noise.matched``."""

    kind: ClassVar[str] = "own"
    base: LanguageTask
    model: LanguageModelConfig
    pretraining: TrainingConfig


@dataclass(frozen=True)
class TextCell:
    """One noise on one checkpoint.

    Attributes:
        source: the checkpoint that phase 1 begins with.
        data: one of SETS.
        noise: a key of NOISES, or "none".
        recipe: whose settings these are: the "paper"'s, the "third_party"'s, or "ours". It says
            which rows are trained too, see `as_published`.
        clean, noisy, again: training in the phases.
        length: targets of a row; longer ones are cut.
        answer_tokens: tokens of an answer in the test, at most.
        scored: which targets count in the loss.
        weights: "bfloat16": all of them, with no float32 master copy.
        samples: phase 2 has so many rows alone; None for all.
        rows: phases and test have so many rows at most; None for all.
        judge: a causal model that judges the answers too, an id of the hub or a folder; or None.
        seed: of order, split and noise.
    """

    source: Published | RandomCheckpoint | OwnBase
    data: str
    noise: str
    recipe: Literal["paper", "third_party", "ours"]
    clean: TrainingConfig
    noisy: TrainingConfig
    again: TrainingConfig
    seed: int
    length: int = 512
    answer_tokens: int = 100
    scored: Literal["answer", "whole"] = "whole"
    weights: Literal["float32", "bfloat16"] = "float32"
    samples: int | None = None
    rows: int | None = None
    judge: str | None = None

    def __post_init__(self) -> None:
        require(self, "judge", self.judge != "", "None, an id of the hub or a folder")
        require(self, "data", self.data in SETS, ", ".join(SETS))
        require(self, "noise", check_noise(self.noise), ", ".join((NONE, *NOISES)))
        for name in ("length", "answer_tokens"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("samples", "rows"):
            value = getattr(self, name)
            require(self, name, value is None or value >= 1, "at least 1, or None")
        require(self, "seed", self.seed >= 0, "0 or more")

    @property
    def as_published(self) -> bool:
        """Whether rows are chosen as the paper and the third party chose them; see
        ``open_material``."""
        return self.recipe != "ours"

    @property
    def clean_identity(self) -> str:
        """Of what phase 1 ends with: cells of other noises with the same clean data share it."""
        own = self.noise == "counterfactual" and self.data != "built_in"
        facts = [to_dict(self.source), self.data, own, to_dict(self.clean), self.length,
                 self.scored, self.weights, self.rows, self.seed]  # fmt: skip
        rows = ["rows as published"] if self.as_published else []
        return digest(["noise texts clean", *facts, *rows])[:16]


def source_name(source: Published | RandomCheckpoint | OwnBase) -> str:
    """For example ``mamba-130m-hf``, ``random-mamba-24x768`` or ``mamba2-L14-...``."""
    if isinstance(source, Published):
        return source.name.rstrip("/").rsplit("/", 1)[-1].replace("_", "-")
    if isinstance(source, RandomCheckpoint):
        return f"random-{source.family}-{source.layers}x{source.width}".replace("_", "-")
    kind = source.model.pattern[0].kind
    kind = "transformer" if kind == "attention" else kind
    return f"{kind}-L{source.model.n_layers}m{source.model.d_model}"


def phase_file(
    cell: TextCell, phase: str, context: Context, readable: Callable[[TextCell], str]
) -> PhaseFile:
    """Where a phase of a cell is kept; phase 1 under an identity that several noises share. Random
    weights are not kept: they only serve to measure."""
    from lib.experiments._noise_shared import shared_folder
    from lib.training.phases import PhaseFile

    folder = None if isinstance(cell.source, RandomCheckpoint) else context.checkpoints
    identity = context.identify(cell)
    if phase == "clean":
        folder = None if folder is None else shared_folder(context)
        name = f"shared-{source_name(cell.source)}-{cell.clean_identity}"
        return PhaseFile(cell.clean_identity, phase, folder, name)
    return PhaseFile(identity, phase, folder, f"{readable(cell)}-{identity}")
