"""What a language model costs at a context length: reading it, one more token, and memory.

Each cost is measured at a length and at half of it, in turns, so that whatever else the machine
does meets both; the binary logarithm of their ratio is the exponent of the cost at that length: 1
if it doubles with the context, 2 if it takes four times as much, 0 if it stays.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lib.bench.measure import Contestant, captured, clock_of, relative_error
from lib.models.config import LanguageModelConfig
from lib.models.generation import state_bytes
from lib.models.language_model import LanguageModel, build_language_model

# costs, as metrics begin: time of reading, of a token, of a token without the calls (CUDA graph)
TIMES = ("prefill_ms", "token_ms", "token_device_ms")
BYTES = ("state_bytes", "prefill_peak_bytes", "token_peak_bytes")
# how far a step may be off. Rounding alone makes 1e-6 in float32; in bfloat16, which rounds each
# operation by up to 0.4 %, at most 1.5 % over the layers of 130M; a wrong state makes 0.5 and more
STEP_ERROR_MOST = {torch.float32: 1e-3, torch.bfloat16: 0.05}


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Attributes:
        metrics: for each cost ``c`` of TIMES and BYTES that can be had: ``c`` at the length,
            ``half_c`` at half of it (medians over repeats), ``exponent_c`` (of the medians of the
            repeats' ratios); ``weight_bytes``, and ``step_error``, see :func:`measure_costs`.
        repeats: one row a repeat, a column a time, in milliseconds.
        notes: about how something was measured.
    """

    metrics: dict[str, float | None]
    repeats: pd.DataFrame
    notes: dict[str, str]


def inference_model(
    config: LanguageModelConfig, seed: int, device: str, dtype: torch.dtype, backend: str = "auto"
) -> LanguageModel:
    """A model with random weights as it is used to generate: weights in `dtype`, but for A_log, D
    and the bias of dt, which decide how fast a state forgets and stay in float32."""
    model = build_language_model(config, seed=seed, device=device, backend=backend)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if not getattr(parameter, "_no_weight_decay", False):
            parameter.data = parameter.data.to(dtype)
    if config.tie_embeddings:
        model.head.weight = model.embedding.weight
    return model.eval()


@torch.no_grad()
def measure_costs(
    model: LanguageModel, length: int, *, repeats: int, steps: int, seed: int
) -> Costs:
    """Measure at `length` tokens and at half as many, one sequence at a time.

    Reading gives the logits of the last token alone and the states after it. A token's time is the
    mean of `steps` in a row, its choice left out. Memory is what stands beside the weights: for a
    token, the states that it starts from and whatever the step needs. Before any clock starts,
    reading all but one of the half's tokens and a step are compared with reading them all:
    ``step_error``, the relative difference of the logits, which STEP_ERROR_MOST bounds.

    Args:
        model: of :func:`inference_model`, on its device.
        length: even, 4 or more.

    Raises:
        ValueError: a length that is odd or below 4; logits that are not finite; a step whose logits
            are not those of reading.
    """
    if length < 4 or length % 2:
        raise ValueError(f"length is {length}, allowed: even numbers from 4 on")
    device = model.embedding.weight.device
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.config.vocab_size, (1, length + 1), generator=generator)
    tokens = tokens.to(device)
    half = length // 2
    with _flash(device, model.embedding.weight.dtype):
        error = _step_error(model, tokens[:, :half])
        sides = {
            "": _Side(model, tokens, length, steps),
            "half_": _Side(model, tokens, half, steps),
        }
        peaks = {prefix: side.peaks() for prefix, side in sides.items()}
        notes: dict[str, str] = {}
        for prefix, side in sides.items():
            notes |= {f"{prefix}token_device_ms": note for note in side.prepare()}
        clock = clock_of(device)
        rows = []
        for _ in range(repeats):
            row = {}
            for name in TIMES:
                for prefix, side in sides.items():
                    work, count = side.work(name)
                    if work is not None:
                        row[f"{prefix}{name}"] = 1e3 * clock.time(work) / count
            rows.append(row)
    table = pd.DataFrame(rows)
    metrics: dict[str, float | None] = {name: float(table[name].median()) for name in table.columns}
    for name in TIMES:
        if name in table and f"half_{name}" in table:
            ratio = statistics.median(table[name] / table[f"half_{name}"])
            metrics[f"exponent_{name}"] = math.log2(ratio)
    for name in BYTES:
        whole, part = peaks[""].get(name), peaks["half_"].get(name)
        if whole and part:
            metrics |= {
                name: whole,
                f"half_{name}": part,
                f"exponent_{name}": math.log2(whole / part),
            }
    metrics["weight_bytes"] = float(sum(p.numel() * p.element_size() for p in model.parameters()))
    metrics["step_error"] = error
    return Costs(metrics, table.rename_axis("repeat").reset_index(), notes)


def _flash(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """On a GPU in half precision: flash attention or an error, never another kernel unseen. (Up to
    OPEN_LENGTH tokens our attention calls none of them; see :mod:`lib.models.attention`.)"""
    if device.type != "cuda" or dtype == torch.float32:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    chosen: AbstractContextManager[Any] = sdpa_kernel(SDPBackend.FLASH_ATTENTION)
    return chosen


def _step_error(model: LanguageModel, tokens: Tensor) -> float:
    exact = model(tokens, last_token_only=True)
    _, states = model(tokens[:, :-1], last_token_only=True, return_states=True)
    found, _ = model.step(tokens[:, -1], states, tokens.shape[1] - 1)
    if not bool(torch.isfinite(exact).all()):
        raise ValueError("logits are not finite, so there is nothing to time")
    error = relative_error(found, exact)
    dtype = model.embedding.weight.dtype
    most = STEP_ERROR_MOST.get(dtype, STEP_ERROR_MOST[torch.float32])
    if not error <= most:  # what is wrong, or not a number, need not be fast
        raise ValueError(
            f"step_error is {error:.2g}, allowed: up to {most:g} in {dtype}; a step after reading "
            "does not give the logits of reading"
        )
    return error


class _Side:
    """A model at one context length."""

    def __init__(self, model: LanguageModel, tokens: Tensor, length: int, steps: int) -> None:
        self.model, self.length, self.steps = model, length, steps
        self.context, self.next = tokens[:, :length], tokens[:, length]
        self.device = tokens.device
        self.states: Any = None
        self.graph: Contestant | None = None

    def read(self) -> Any:
        return self.model(self.context, last_token_only=True, return_states=True)[1]

    def step(self) -> None:
        self.model.step(self.next, self.states, self.length)

    def decode(self) -> None:
        states = self.states
        for position in range(self.length, self.length + self.steps):
            _, states = self.model.step(self.next, states, position)

    def peaks(self) -> Mapping[str, float | None]:
        """Bytes; those of the processor's memory are not known."""
        read = self._peak(self.read)
        self.states = self.read()
        kept = float(state_bytes(self.states))
        token = self._peak(self.step)
        return {
            "state_bytes": kept, "prefill_peak_bytes": read,
            "token_peak_bytes": None if token is None else kept + token,
        }  # fmt: skip

    def _peak(self, work: Callable[[], Any]) -> float | None:
        work()  # what a first call alone needs, such as compiled kernels, is no part of it
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated(self.device) - before)

    def prepare(self) -> list[str]:
        """Warm up; on a GPU capture a step. Notes."""
        self.decode()
        if self.device.type != "cuda":
            return []
        step = Contestant("step", (self.step,), lambda: ())
        self.graph = captured(step)
        return [self.graph.note]

    def work(self, name: str) -> tuple[Callable[[], Any] | None, int]:
        """What is timed for a cost of TIMES, and how many of it that is."""
        if name == "prefill_ms":
            return self.read, 1
        if name == "token_ms":
            return self.decode, self.steps
        graph = None if self.graph is None else self.graph.graph
        if graph is None:
            return None, 1

        def replay() -> None:
            for _ in range(self.steps):
                graph.replay()

        return replay, self.steps
