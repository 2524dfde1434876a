"""On the processor: a Mamba-1 model of ours against transformers' slow path and mambapy.

All three are given the same weights and tokens; their logits are compared first, and of backward
passes the loss and two gradients, those of the weights at the model's beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.bench.compare import compare
from lib.bench.config import CpuBench
from lib.bench.measure import Contestant
from lib.bench.peers import MAMBAPY, need, renamed
from lib.bench.works import model_work
from lib.experiments import Outcome
from lib.models.config import LanguageModelConfig, Mamba1Config
from lib.models.language_model import LanguageModel, build_language_model
from lib.ops.scan import OP

TOLERANCE = 1e-3


def run(bench: CpuBench) -> Outcome:
    """Time forward, or forward and backward, of the three models."""
    with threads(bench.threads):
        ours = our_model(bench)
        builders: dict[str, Callable[[], Contestant]] = {
            "chunked": lambda: _contestant(bench, "chunked", ours, ours, lambda t: ours(t)),
            "transformers": lambda: _theirs(bench, "transformers", ours, mambapy=False),
            "mambapy": lambda: _theirs(bench, "mambapy", ours, mambapy=True),
        }
        work = model_work(
            config_of(bench), bench.batch, bench.length, bench.direction == "both"
        )  # fmt: skip
        outcome = compare(bench, builders, ours="chunked", work=work, tolerance=TOLERANCE, op=OP)
    outcome.facts["threads_used"] = bench.threads
    return outcome


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch on `count` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def config_of(bench: CpuBench) -> LanguageModelConfig:
    """The model that is measured."""
    block = Mamba1Config(d_model=bench.d_model, d_state=bench.d_state)
    return LanguageModelConfig(bench.vocab_size, bench.n_layers, (block,))


def our_model(bench: CpuBench) -> LanguageModel:
    """Ours, with the chunked scan."""
    return build_language_model(config_of(bench), seed=bench.seed, backend="chunked")


def their_model(bench: CpuBench, ours: LanguageModel, *, mambapy: bool) -> nn.Module:
    """transformers' model with our weights, on its slow path or on mambapy's parallel scan.

    Raises:
        Missing: transformers or mambapy is not installed.
    """
    need("transformers", "pip install -r requirements.txt")
    if mambapy:
        need("mambapy", MAMBAPY)
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.MambaConfig(
        vocab_size=bench.vocab_size, hidden_size=bench.d_model, state_size=bench.d_state,
        num_hidden_layers=bench.n_layers, layer_norm_epsilon=1e-5, tie_word_embeddings=False,
        use_cache=False, use_mambapy=mambapy,
    )  # fmt: skip
    model = transformers.MambaForCausalLM(config)
    model.load_state_dict(renamed(ours, "backbone.embeddings.weight"))
    return model


def _theirs(bench: CpuBench, name: str, ours: LanguageModel, *, mambapy: bool) -> Contestant:
    model = their_model(bench, ours, mambapy=mambapy)
    note = "use_mambapy" if mambapy else "slow path"
    return _contestant(bench, name, ours, model, lambda t: model(t).logits, note)


def _contestant(
    bench: CpuBench, name: str, ours: LanguageModel, model: nn.Module,
    logits: Callable[[Tensor], Any], note: str = "",
) -> Contestant:  # fmt: skip
    generator = torch.Generator().manual_seed(bench.seed)
    shape = (bench.batch, bench.length)
    sets = [
        torch.randint(bench.vocab_size, shape, generator=generator)
        for _ in range(bench.input_sets)
    ]  # fmt: skip
    # training compares the next token; the model runs in train mode as it would there
    model.train(bench.direction == "both")
    first, last = _ends(model, ours is model)

    def call(tokens: Tensor) -> Callable[[], Sequence[Tensor]]:
        def forward() -> Sequence[Tensor]:
            with torch.no_grad():
                return (logits(tokens),)

        def both() -> Sequence[Tensor]:
            found = logits(tokens)
            loss = F.cross_entropy(found[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
            model.zero_grad(set_to_none=True)
            loss.backward()
            return (found, loss, *(p.grad for p in (first, last) if p.grad is not None))

        return both if bench.direction == "both" else forward

    calls = tuple(call(tokens) for tokens in sets)
    return Contestant(name, calls, calls[0], note=note)


def _ends(model: nn.Module, ours: bool) -> tuple[nn.Parameter, nn.Parameter]:
    """The embedding's and the first layer's projection's weight: what gradients reach last."""
    if ours:
        return model.embedding.weight, model.layers[0].mixer.in_proj.weight  # type: ignore
    layers = model.backbone.layers  # type: ignore[union-attr]
    return model.backbone.embeddings.weight, layers[0].mixer.in_proj.weight  # type: ignore
