"""What one benchmark measures, as frozen configs (no torch needed to read them).

Each names a shape, a direction and the kind of device; with the experiment's protocol number that
is the identity of its record. `repeats` belongs to it, so a run with fewer repeats is another cell
and never takes the place of a full one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lib.config import require
from lib.models.config import LanguageModelConfig

DEVICES = ("cpu", "cuda")
DIRECTIONS = ("forward", "both")
DTYPES = ("float32", "bfloat16")


def _check(config: Any, *sizes: str) -> None:
    for name in (*sizes, "repeats"):
        value = getattr(config, name)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        require(config, name, whole, "at least 1, whole")
    require(config, "seed", config.seed >= 0, "0 or more")
    require(config, "device", config.device in DEVICES, ", ".join(DEVICES))


@dataclass(frozen=True)
class ScanBench:
    """The selective scan alone.

    Attributes:
        batch, d_inner, length, d_state: b, d, l and n.
        dtype: of u, delta, B and C; A, D and the bias of delta are float32.
        direction: "forward", or "both" (forward and all gradients).
        device: "cpu" or "cuda".
        input_sets: sets of inputs that take turns, so that caches do not flatter.
        repeats: timings of each contestant.
        seed: of the inputs.
    """

    kind: ClassVar[str] = "scan"
    batch: int
    d_inner: int
    length: int
    d_state: int
    dtype: Literal["float32", "bfloat16"] = "float32"
    direction: Literal["forward", "both"] = "both"
    device: Literal["cpu", "cuda"] = "cuda"
    input_sets: int = 4
    repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, "batch", "d_inner", "length", "d_state", "input_sets")
        require(self, "dtype", self.dtype in DTYPES, ", ".join(DTYPES))
        require(self, "direction", self.direction in DIRECTIONS, ", ".join(DIRECTIONS))


@dataclass(frozen=True)
class BlockBench:
    """One Mamba-2 layer (norm, mixer, residual), `runs` of them side by side with their own
    weights and inputs.

    Attributes:
        batch, length, d_model, d_state, headdim: b, l, m, n and p.
        runs: models in the ensemble; 1 is a plain layer.
        direction, device, input_sets, repeats, seed: as in :class:`ScanBench`.
    """

    kind: ClassVar[str] = "block"
    batch: int
    length: int
    d_model: int
    d_state: int
    headdim: int
    runs: int = 1
    direction: Literal["forward", "both"] = "both"
    device: Literal["cpu", "cuda"] = "cuda"
    input_sets: int = 4
    repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = ("batch", "length", "d_model", "d_state", "headdim", "runs", "input_sets")
        _check(self, *sizes)
        require(self, "direction", self.direction in DIRECTIONS, ", ".join(DIRECTIONS))


@dataclass(frozen=True)
class StepBench:
    """A whole training step: batch, forward, backward, clipping, AdamW.

    Attributes:
        model: what is trained, on the loss of the last token.
        batch, length: b and l.
        runs: models that train at once.
        device, repeats, seed: as in :class:`ScanBench`.
    """

    kind: ClassVar[str] = "step"
    model: LanguageModelConfig
    batch: int
    length: int
    runs: int = 1
    device: Literal["cpu", "cuda"] = "cuda"
    repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, "batch", "length", "runs")


@dataclass(frozen=True)
class LanguageBench:
    """A training step of a Mamba-1 language model on the loss of every next token, under autocast:
    forward, backward, clipping, AdamW.

    Attributes:
        model: what is trained.
        batch, length: b and l.
        dtype: of autocast; weights stay float32.
        device, repeats, seed: as in :class:`ScanBench`.
    """

    kind: ClassVar[str] = "language"
    model: LanguageModelConfig
    batch: int
    length: int
    dtype: Literal["bfloat16"] = "bfloat16"
    device: Literal["cpu", "cuda"] = "cuda"
    repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, "batch", "length")
        require(self, "dtype", self.dtype == "bfloat16", "bfloat16")


@dataclass(frozen=True)
class SweepBench:
    """How long a grid of training runs takes: layers x runs x steps.

    Attributes:
        models: one for each depth; their runs train at once, `runs` of them.
        steps: training steps of a run.
        batch, length, runs, device, repeats, seed: as in :class:`StepBench`.
    """

    kind: ClassVar[str] = "sweep"
    models: tuple[LanguageModelConfig, ...]
    batch: int
    length: int
    runs: int
    steps: int
    device: Literal["cpu", "cuda"] = "cuda"
    repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, "batch", "length", "runs", "steps")
        require(self, "models", len(self.models) > 0, "at least one")


@dataclass(frozen=True)
class BesideBench:
    """Groups of runs whose models differ, beside each other and one after the other.

    Attributes:
        models: one for each group, whose `runs` train at once.
        steps: of an epoch, after which a group is measured.
        batch, length, runs, device, repeats, seed: as in :class:`StepBench`.
    """

    kind: ClassVar[str] = "beside"
    models: tuple[LanguageModelConfig, ...]
    batch: int
    length: int
    runs: int
    steps: int = 64
    device: Literal["cpu", "cuda"] = "cuda"
    repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, "batch", "length", "runs", "steps")
        require(self, "models", len(self.models) > 1, "at least two")


@dataclass(frozen=True)
class CpuBench:
    """A Mamba-1 language model on the processor, against transformers' slow path and mambapy.

    Attributes:
        batch, length, d_model, n_layers, d_state, vocab_size: b, l, m, layers, n, v.
        threads: of torch while it is measured.
        direction, device, input_sets, repeats, seed: as in :class:`ScanBench`; device is "cpu".
    """

    kind: ClassVar[str] = "cpu"
    batch: int
    length: int
    d_model: int
    n_layers: int
    d_state: int = 16
    vocab_size: int = 256
    threads: int = 1
    direction: Literal["forward", "both"] = "both"
    device: Literal["cpu"] = "cpu"
    input_sets: int = 2
    repeats: int = 9
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (
            "batch", "length", "d_model", "n_layers", "d_state", "vocab_size", "threads",
            "input_sets",
        )  # fmt: skip
        _check(self, *sizes)
        require(self, "device", self.device == "cpu", "cpu")
        require(self, "direction", self.direction in DIRECTIONS, ", ".join(DIRECTIONS))


Bench = ScanBench | BlockBench | StepBench | LanguageBench | SweepBench | BesideBench | CpuBench


def readable(bench: Bench) -> str:
    """Short file-name-safe name, ``cuda-b2048-d64-l8-n128-float32-both-x20-s0``."""
    parts: list[str] = [bench.device]
    if isinstance(bench, ScanBench):
        parts += [f"b{bench.batch}", f"d{bench.d_inner}", f"l{bench.length}", f"n{bench.d_state}"]
        parts += [bench.dtype, bench.direction]
    elif isinstance(bench, BlockBench):
        parts += [f"b{bench.batch}", f"l{bench.length}", f"m{bench.d_model}", f"n{bench.d_state}"]
        parts += [f"r{bench.runs}", bench.direction]
    elif isinstance(bench, StepBench):
        parts += [bench.model.pattern[0].kind, f"L{bench.model.n_layers}", f"b{bench.batch}"]
        parts += [f"l{bench.length}", f"r{bench.runs}"]
    elif isinstance(bench, LanguageBench):
        parts += ["lm", bench.model.pattern[0].kind, f"L{bench.model.n_layers}"]
        parts += [f"m{bench.model.d_model}", f"b{bench.batch}", f"l{bench.length}", bench.dtype]
    elif isinstance(bench, (SweepBench, BesideBench)):
        layers = [model.n_layers for model in bench.models]
        parts += [bench.models[0].pattern[0].kind, f"L{min(layers)}to{max(layers)}"]
        parts += [f"b{bench.batch}", f"r{bench.runs}", f"steps{bench.steps}"]
    else:
        parts += [f"b{bench.batch}", f"l{bench.length}", f"m{bench.d_model}", f"L{bench.n_layers}"]
        parts += [f"t{bench.threads}", bench.direction]
    return "-".join([*parts, f"x{bench.repeats}", f"s{bench.seed}"])


_WAYS = {"forward": "forward", "both": "forward and backward"}
_BLOCKS = {"mamba1": "Mamba-1", "mamba2": "Mamba-2"}


def in_words(bench: Bench) -> str:
    """What is measured, for readers: "batch 2,048, 64 channels, length 8, state 128, float32,
    forward and backward"."""
    if isinstance(bench, ScanBench):
        parts = [
            f"batch {bench.batch:,}", f"{bench.d_inner:,} channels", f"length {bench.length}",
            f"state {bench.d_state}", bench.dtype, _WAYS[bench.direction],
        ]  # fmt: skip
    elif isinstance(bench, BlockBench):
        parts = [
            _at_once(bench.runs, "layer"), f"batch {bench.batch:,}", f"length {bench.length}",
            f"{bench.d_model} wide", f"state {bench.d_state}", _WAYS[bench.direction],
        ]  # fmt: skip
    elif isinstance(bench, CpuBench):
        parts = [
            _layers(bench.n_layers), f"{bench.d_model} wide", f"batch {bench.batch:,}",
            f"length {bench.length}", f"{bench.threads} thread{'s'[: bench.threads - 1]}",
            _WAYS[bench.direction],
        ]  # fmt: skip
    elif isinstance(bench, BesideBench):
        parts = [
            f"{len(bench.models)} groups of {_block(bench.models[0])}", _depths(bench.models),
            f"{bench.runs} runs each",
            f"batch {bench.batch:,}", f"an epoch of {bench.steps} steps",
        ]  # fmt: skip
    elif isinstance(bench, SweepBench):
        parts = [
            _block(bench.models[0]), _depths(bench.models),
            _at_once(bench.runs, "run"), f"batch {bench.batch:,}", f"{bench.steps:,} steps",
        ]  # fmt: skip
    else:
        parts = [_block(bench.model), _layers(bench.model.n_layers)]
        if isinstance(bench, StepBench):
            parts.append(_at_once(bench.runs, "run"))
        else:
            parts.append(f"{bench.model.d_model} wide, {bench.dtype}")
        parts += [f"batch {bench.batch:,}", f"length {bench.length}"]
    return ", ".join(parts)


def _block(model: LanguageModelConfig) -> str:
    return _BLOCKS[model.pattern[0].kind]


def _layers(count: int) -> str:
    return f"{count} layer{'s' * (count != 1)}"


def _depths(models: Sequence[LanguageModelConfig]) -> str:
    layers = [model.n_layers for model in models]
    return f"{min(layers)} to {max(layers)} layers"


def _at_once(count: int, what: str) -> str:
    return f"one {what}" if count == 1 else f"{count} {what}s at once"
