"""Training a Mamba-1 language model: our model and kernels against the whole of mamba_ssm's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.bench.compare import compare
from lib.bench.config import LanguageBench
from lib.bench.measure import Contestant
from lib.bench.peers import need, other_names, renamed
from lib.bench.works import model_work, optimiser_work
from lib.experiments import Outcome
from lib.models.config import Mamba1Config
from lib.models.language_model import LanguageModel, build_language_model
from lib.ops import backends
from lib.ops.scan import OP
from lib.training.compiling import compile_layers

# of the loss, of the norm of all gradients and of each tensor's: bfloat16 products, summed in
# another order. Over 24 layers a tensor's gradient is up to 4e-2 from that in float32
TOLERANCE = (2e-2, 2e-2, 1e-1)
EMBEDDING = "backbone.embedding.weight"  # mamba_ssm's name of it
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
    return contestant(bench, backend, list(model.parameters()), model, note)


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
    model.load_state_dict(renamed(ours, EMBEDDING))
    return model


def _theirs(bench: LanguageBench) -> Contestant:
    backends.require(OP, "mamba_ssm", torch.device(bench.device))
    ours = build_language_model(bench.model, seed=bench.seed, device=bench.device)
    model = their_model(bench, ours)
    names = other_names(bench.model.n_layers, EMBEDDING)
    weights = [model.get_parameter(names[name]) for name, _ in ours.named_parameters()]
    return contestant(bench, "mamba_ssm", weights, lambda tokens: model(tokens).logits, _path())


def _path() -> str:
    """What their model runs by: it takes its fast path only where causal_conv1d can be imported."""
    found = importlib.util.find_spec("causal_conv1d") is not None
    return f"its own model, not compiled, {'with' if found else 'without'} causal-conv1d"


def contestant(
    bench: LanguageBench, name: str, weights: list[nn.Parameter],
    logits: Callable[[Tensor], Tensor], note: str,
) -> Contestant:  # fmt: skip
    """Training `weights`, ready to be timed; checked by loss and gradients at the first weights.

    Args:
        weights: all of the model's, in the order of ours.
        logits: the model's, (b, l, vocab_size), of tokens (b, l).
    """
    device = torch.device(bench.device)
    generator = torch.Generator().manual_seed(bench.seed)
    shape = (bench.batch, bench.length + 1)
    sets = [
        torch.randint(bench.model.vocab_size, shape, generator=generator).to(device)
        for _ in range(SETS)
    ]
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
        gradients = [w.grad for w in weights if w.grad is not None]
        # flat, since a convolution's weights have an axis more in their model than in ours
        return (loss, nn.utils.get_total_norm(gradients), *(g.flatten() for g in gradients))

    return Contestant(name, tuple(map(step, sets)), outputs, note=note)
