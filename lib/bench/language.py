"""Training a Mamba-1 language model: our model and kernels against the whole of mamba_ssm's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.bench.compare import compare
from lib.bench.config import LanguageBench
from lib.bench.measure import Contestant
from lib.bench.peers import need, renamed
from lib.bench.works import model_work, optimiser_work
from lib.experiments import Outcome
from lib.models.config import Mamba1Config
from lib.models.language_model import LanguageModel, build_language_model
from lib.ops import backends
from lib.ops.scan import OP
from lib.training.compiling import compile_layers

TOLERANCE = 2e-2  # bfloat16 products, summed in another order
SETS = 4
CLIP = 1.0


def run(bench: LanguageBench) -> Outcome:
    """Time a training step of both; adds ``<contestant>.tokens_per_s``."""
    torch._dynamo.reset()  # shapes of earlier benchmarks count towards its limit of versions
    on_gpu = bench.device == "cuda"
    ours = "fused" if on_gpu else "chunked"
    builders: dict[str, Callable[[], Contestant]] = {
        ours: lambda: _ours(bench, ours, compile=on_gpu),
        "mamba_ssm": lambda: _theirs(bench),
    }
    config = bench.model
    work = model_work(
        config, bench.batch, bench.length, size=2, last_token_only=False
    ) + optimiser_work(config)
    # a step moves the weights, so it is timed call by call: it is long enough for that
    outcome = compare(bench, builders, ours=ours, work=work, tolerance=TOLERANCE, op=OP,
                      capture=False)  # fmt: skip
    for name in outcome.facts["notes"]:
        ms = outcome.metrics[f"{name}.ms"]
        if ms:
            outcome.metrics[f"{name}.tokens_per_s"] = 1e3 * bench.batch * bench.length / ms
    return outcome


def _ours(bench: LanguageBench, backend: str, compile: bool) -> Contestant:
    backends.require(OP, backend, torch.device(bench.device))
    model = build_language_model(bench.model, seed=bench.seed, device=bench.device, backend=backend)
    if compile:
        compile_layers(model)
    note = "torch.compile, layer by layer" if compile else ""
    return _contestant(bench, backend, model, model, note)


def their_model(bench: LanguageBench, ours: LanguageModel) -> nn.Module:
    """mamba_ssm's language model with our weights.

    Raises:
        Missing: mamba_ssm is not installed.
    """
    need("mamba_ssm", backends.INSTALL_MAMBA_SSM)
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    block = bench.model.pattern[0]
    assert isinstance(block, Mamba1Config)
    config = MambaConfig(
        d_model=block.d_model, n_layer=bench.model.n_layers, vocab_size=bench.model.vocab_size,
        ssm_cfg={"layer": "Mamba1", "d_state": block.d_state},
        tie_embeddings=bench.model.tie_embeddings,
    )  # fmt: skip
    model = MambaLMHeadModel(config, device=bench.device)
    model.load_state_dict(renamed(ours, "backbone.embedding.weight"))
    return model


def _theirs(bench: LanguageBench) -> Contestant:
    backends.require(OP, "mamba_ssm", torch.device(bench.device))
    ours = build_language_model(bench.model, seed=bench.seed, device=bench.device)
    model = their_model(bench, ours)
    return _contestant(
        bench, "mamba_ssm", model, lambda tokens: model(tokens).logits, "its own model"
    )


def _contestant(
    bench: LanguageBench, name: str, model: nn.Module, logits: Callable[[Tensor], Tensor],
    note: str,
) -> Contestant:  # fmt: skip
    device = torch.device(bench.device)
    generator = torch.Generator().manual_seed(bench.seed)
    shape = (bench.batch, bench.length + 1)
    sets = [
        torch.randint(bench.model.vocab_size, shape, generator=generator).to(device)
        for _ in range(SETS)
    ]
    weights = list(model.parameters())
    optimiser = torch.optim.AdamW(weights, lr=1e-4, fused=True)

    def loss_of(tokens: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=getattr(torch, bench.dtype)):
            found = logits(tokens[:, :-1])
        return F.cross_entropy(found.flatten(0, 1).float(), tokens[:, 1:].flatten())

    def step(tokens: Tensor) -> Callable[[], None]:
        def run() -> None:
            optimiser.zero_grad(set_to_none=True)
            loss_of(tokens).backward()
            nn.utils.clip_grad_norm_(weights, CLIP)
            optimiser.step()

        return run

    def outputs() -> Sequence[Tensor]:
        loss = loss_of(sets[0])
        loss.backward()
        return (loss, nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None]))

    return Contestant(name, tuple(map(step, sets)), outputs, note=note)
