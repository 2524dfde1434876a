"""Attention and feed-forward blocks in the stack: a Transformer, and hybrids with Mamba."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from lib.analysis.cuts import cut_edges, edge_cut
from lib.config import from_dict, to_dict
from lib.experiments.achilles import CompositeCell
from lib.models import attention
from lib.models.config import (
    AttentionConfig,
    BlockConfig,
    FeedForwardConfig,
    InitialisationConfig,
    LanguageModelConfig,
    Mamba2Config,
)
from lib.models.feedforward import FeedForwardMixer
from lib.models.language_model import LanguageModel, build_language_model
from lib.models.layers import LayerNorm, RMSNorm
from lib.models.mamba2 import Mamba2Mixer
from lib.ops import backends
from lib.ops.block import OP
from lib.store import identity
from lib.training.ensemble import Ensemble

transformers.logging.set_verbosity_error()

FEED = FeedForwardConfig(16, 24)
PATTERNS: dict[str, tuple[BlockConfig, ...]] = {
    "transformer": (AttentionConfig(16, n_heads=2), FEED),
    "rotary": (
        AttentionConfig(16, d_qk=8, d_v=24, rope_theta=100.0, bias=True),
        FeedForwardConfig(16, 24, "swiglu", bias=True),
    ),
    "conv": (AttentionConfig(16, d_v=32, conv_kind="standard"), FeedForwardConfig(16, 24, "gelu")),
    "all_one": (AttentionConfig(16, n_heads=2, conv_kind="all_one"), FEED),
    "hybrid": (
        Mamba2Config(16, d_state=8, headdim=16, chunk_size=8),
        AttentionConfig(16, n_heads=2, conv_kind="palindromic"),
        FEED,
    ),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "before": {},
    "after": {"norm_place": "after", "final_norm": False},
    "learned": {"norm_place": "after", "positional_encoding": "learned", "max_length": 20},
    "layer norm": {"norm_place": "after", "norm_kind": "layer"},
}
LENGTH = 11


def make(pattern: str, variant: str = "before", seed: int = 0, **change: Any) -> LanguageModel:
    blocks = PATTERNS[pattern]
    config = LanguageModelConfig(30, len(blocks) + 1, blocks, **VARIANTS[variant], **change)
    return build_language_model(config, seed=seed).double()


def tokens(length: int = LENGTH, seed: int = 0) -> Tensor:
    return torch.randint(30, (2, length), generator=torch.Generator().manual_seed(seed))


def close(found: Any, expected: Any, name: str = "") -> None:
    torch.testing.assert_close(
        found, expected, rtol=1e-10, atol=1e-11, msg=lambda text: f"{name}: {text}"
    )


@pytest.mark.parametrize("open_length", [0, attention.OPEN_LENGTH])
@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_steps_and_parts_equal_the_whole(
    pattern: str, variant: str, open_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "OPEN_LENGTH", open_length)
    model, sequence = make(pattern, variant), tokens()
    with torch.no_grad():
        expected, whole = model(sequence, return_states=True)
        states, found = model.initial_states(2), []
        for position, token in enumerate(sequence.unbind(1)):
            logits, states = model.step(token, states, position)
            found.append(logits)
        close(torch.stack(found, 1), expected)
        close(states, whole)
        for cut in range(1, LENGTH):
            first, states = model(sequence[:, :cut], return_states=True)
            second, states = model(sequence[:, cut:], states, start=cut, return_states=True)
            close(torch.cat([first, second], 1), expected, f"cut at {cut}")
            close(states, whole, f"cut at {cut}")
        close(model(sequence, last_token_only=True), expected[:, -1])


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_causality(pattern: str) -> None:
    model, sequence = make(pattern), tokens()
    with torch.no_grad():
        before = model(sequence)
        for at in (0, 4, LENGTH - 1):
            changed = sequence.clone()
            changed[:, at] = (changed[:, at] + 7) % 30
            after = model(changed)
            close(after[:, :at], before[:, :at])
            # every later token hears of it, not only its own place
            moved = (after[:, at:] - before[:, at:]).abs().amax((0, 2))
            assert (moved > 1e-9).all()


@pytest.mark.parametrize("variant", ["before", "after"])
def test_norm_is_where_the_config_says(variant: str) -> None:
    model, sequence = make("transformer", variant), tokens()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, RMSNorm):
                module.weight.copy_(torch.linspace(0.5, 2, 16))
        x = model.embedding(sequence)
        for layer in model.layers:
            if variant == "before":
                x = x + layer.mixer(layer.norm(x))
            else:
                x = layer.norm(x + layer.mixer(x))
        if variant == "before":
            x = model.final_norm(x)
        close(model(sequence), x @ model.head.weight.T)
        assert all(isinstance(layer.norm, RMSNorm) for layer in model.layers)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("pattern", ["transformer", "hybrid"])
def test_layer_norms_take_the_mean_away_and_add_a_bias(pattern: str, place: str) -> None:
    """Those of blocks and the final one; a Mamba-2 block that could be fused is not, since a fused
    one makes an RMS norm itself."""
    model, sequence = make(pattern, norm_place=place, norm_kind="layer"), tokens()
    assert not [m for m in model.modules() if type(m) is RMSNorm]
    draw = torch.Generator().manual_seed(3)

    def normed(x: Tensor, norm: Any) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * norm.weight + norm.bias

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LayerNorm):
                assert (module.weight == 1).all() and (module.bias == 0).all()
                module.weight.normal_(generator=draw)
                module.bias.normal_(generator=draw)
        x = model.embedding(sequence)
        for layer in model.layers:
            if place == "before":
                x = x + layer.mixer(normed(x, layer.norm))
            else:
                x = normed(x + layer.mixer(x), layer.norm)
        expected = normed(x, model.final_norm) @ model.head.weight.T
        close(model(sequence), expected)
        close(model(sequence, last_token_only=True), expected[:, -1])


def test_a_fused_block_never_stands_in_for_a_layer_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []

    def fused(self: Any, x: Tensor, norm: Any, last_only: bool) -> Tensor:
        called.append(True)
        return x

    for name, wanted in (("suits", True), ("resolve", "fused")):
        real = getattr(backends, name)
        monkeypatch.setattr(
            backends, name,
            lambda op, *args, real=real, wanted=wanted, **facts: (
                wanted if op == OP else real(op, *args, **facts)
            ),
        )  # fmt: skip
    monkeypatch.setattr(Mamba2Mixer, "fused", fused)
    block = Mamba2Config(16, d_state=8, headdim=32)  # one head, as the fused block has
    for place, kind, fuses in [
        ("before", "rms", True), ("before", "layer", False), ("after", "layer", True)
    ]:  # fmt: skip
        called.clear()
        config = LanguageModelConfig(30, 1, (block,), norm_place=place, norm_kind=kind)  # type: ignore[arg-type]
        build_language_model(config, seed=0)(tokens(8))
        assert bool(called) == fuses, (place, kind)


def test_a_mamba_stack_takes_norms_after_too() -> None:
    config = LanguageModelConfig(30, 2, (PATTERNS["hybrid"][0],), norm_place="after")
    model, sequence = build_language_model(config, seed=0).double(), tokens(8)
    with torch.no_grad():
        x = model.embedding(sequence)
        for layer in model.layers:
            x = layer.norm(x + layer.mixer(x))
        close(model(sequence), model.head(model.final_norm(x)))


@pytest.mark.parametrize("activation", ["silu", "gelu", "swiglu"])
@pytest.mark.parametrize("bias", [False, True])
def test_feed_forward_formula(activation: Any, bias: bool) -> None:
    mixer = FeedForwardMixer(FeedForwardConfig(16, 24, activation, bias)).double()
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hidden = x @ mixer.in_proj.weight.T + (mixer.in_proj.bias if bias else 0)
    if activation == "swiglu":
        gate, up = hidden[..., :24], hidden[..., 24:]
        hidden = gate * torch.sigmoid(gate) * up
    elif activation == "silu":
        hidden = hidden * torch.sigmoid(hidden)
    else:
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = hidden @ mixer.out_proj.weight.T + (mixer.out_proj.bias if bias else 0)
    close(mixer(x), expected)
    mixer.act_hidden.register_forward_hook(lambda m, given, out: out * 0)
    close(mixer(x), torch.zeros_like(x) + (mixer.out_proj.bias if bias else 0))


def llama() -> tuple[LanguageModel, nn.Module]:
    """Our stack and transformers' Llama with the same weights, all away from their start."""
    pattern = (
        AttentionConfig(32, n_heads=4, rope_theta=500.0),
        FeedForwardConfig(32, 40, "swiglu"),
    )
    ours = build_language_model(LanguageModelConfig(50, 4, pattern, norm_eps=1e-5), seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
            num_attention_heads=4, rms_norm_eps=1e-5, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        )
    ).eval()  # fmt: skip
    source = ours.state_dict()
    target = {
        "model.embed_tokens.weight": source["embedding.weight"],
        "model.norm.weight": source["final_norm.weight"],
        "lm_head.weight": source["head.weight"],
    }
    for layer in (0, 1):
        there = f"model.layers.{layer}."
        attention, feed = f"layers.{2 * layer}.", f"layers.{2 * layer + 1}."
        qkv = source[attention + "mixer.in_proj.weight"].chunk(3)
        gate, up = source[feed + "mixer.in_proj.weight"].chunk(2)
        target |= {there + f"self_attn.{n}_proj.weight": w for n, w in zip("qkv", qkv, strict=True)}
        target[there + "self_attn.o_proj.weight"] = source[attention + "mixer.out_proj.weight"]
        target[there + "mlp.gate_proj.weight"] = gate
        target[there + "mlp.up_proj.weight"] = up
        target[there + "mlp.down_proj.weight"] = source[feed + "mixer.out_proj.weight"]
        target[there + "input_layernorm.weight"] = source[attention + "norm.weight"]
        target[there + "post_attention_layernorm.weight"] = source[feed + "norm.weight"]
    assert set(target) == set(theirs.state_dict())
    theirs.load_state_dict(target)
    return ours, theirs


def test_a_stack_equals_transformers_llama() -> None:
    ours, theirs = llama()
    sequence = torch.randint(50, (2, 17), generator=torch.Generator().manual_seed(0))
    mine, other = ours(sequence), theirs(sequence).logits
    assert (mine - other).abs().max() <= 1e-5 * other.abs().max()
    mine.square().mean().backward()
    other.square().mean().backward()
    for layer, their_layer in ((0, 0), (2, 1)):
        grad = ours.layers[layer].mixer.in_proj.weight.grad
        attention = theirs.model.layers[their_layer].self_attn
        expected = torch.cat([getattr(attention, f"{n}_proj").weight.grad for n in "qkv"])
        assert (grad - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_greedy_decoding_equals_transformers_llama() -> None:
    ours, theirs = llama()
    prompt = torch.randint(50, (1, 5), generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(prompt, **options)[0, 5:].tolist()
    with torch.no_grad():
        logits, states = ours(prompt, last_token_only=True, return_states=True)
        found = []
        for position in range(5, 15):
            found.append(int(logits.argmax(-1)))
            logits, states = ours.step(logits.argmax(-1), states, position)
    assert found == expected


@pytest.mark.parametrize("variant", ["before", "learned"])
@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.filterwarnings("error")  # vmap warns where it would loop over the runs
def test_an_ensemble_equals_each_alone(pattern: str, variant: str) -> None:
    models = [make(pattern, variant, seed) for seed in range(3)]
    batches = torch.stack([tokens(8, seed) for seed in range(3)])
    ensemble = Ensemble(models)
    found = ensemble(batches)
    found.square().mean((1, 2, 3)).sum().backward()
    grads = dict(ensemble.stacked.named_parameters())
    for run, model in enumerate(models):
        alone = model(batches[run])
        close(found[run], alone)
        alone.square().mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.any(), name
            torch.testing.assert_close(grads[name].grad[run], parameter.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("open_length", [0, attention.OPEN_LENGTH])
@pytest.mark.parametrize("pattern", ["transformer", "rotary", "conv"])
def test_compiles_whole_with_gradients(
    pattern: str, open_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "OPEN_LENGTH", open_length)
    torch.compiler.reset()
    model, x = make(pattern, "after"), tokens()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = {}
    for run in (model, compiled):
        model.zero_grad()
        logits = run(x)
        logits.square().mean().backward()
        found[run] = [logits, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    close(found[compiled], found[model])


@pytest.mark.parametrize(
    ("dtype", "allowed"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)],
    ids=str,
)
@pytest.mark.parametrize("open_length", [0, attention.OPEN_LENGTH])
@pytest.mark.parametrize("pattern", list(PATTERNS))
@torch.no_grad()
def test_every_precision_and_autocast(
    pattern: str, dtype: torch.dtype, allowed: float, open_length: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(attention, "OPEN_LENGTH", open_length)
    sequence = tokens()
    model = make(pattern, "after").float().to(dtype)
    exact = make(pattern, "after").float().to(dtype).double()(sequence)

    def off(found: Tensor) -> float:
        return float((found.double() - exact[:, -found.shape[1] :]).abs().max() / exact.abs().max())

    full, states = model(sequence, return_states=True)
    assert full.dtype == dtype and off(full) < allowed
    kept = [s for state in states if hasattr(state, "k") for s in state]
    assert all(tensor.dtype == dtype for tensor in kept)
    last, _ = model.step(sequence[:, -1], model(sequence[:, :-1], return_states=True)[1])
    assert last.dtype == dtype and off(last[:, None]) < allowed
    if dtype == torch.float32:
        # a state from autocast serves without it, and the other way round
        for first, second in ((True, True), (True, False), (False, True)):
            with torch.autocast("cpu", torch.bfloat16, enabled=first):
                logits, states = model(sequence[:, :6], return_states=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=second):
                rest, states = model(sequence[:, 6:-1], states, return_states=True)
                last, _ = model.step(sequence[:, -1], states)
            assert off(last[:, None]) < 4e-2
            assert off(torch.cat([logits, rest, last[:, None]], 1)) < 4e-2


@torch.no_grad()
def test_weights_start_as_everywhere() -> None:
    block = AttentionConfig(64, d_qk=64, d_v=256, bias=True, conv_kind="standard")
    feed = FeedForwardConfig(64, 256, bias=True)
    plain = build_language_model(LanguageModelConfig(30, 4, (block, feed)), seed=0)
    for layer, inner in ((0, 256), (1, 256)):
        mixer = plain.layers[layer].mixer
        # U(-1/sqrt(fan_in), 1/sqrt(fan_in)); the map back into the stream over sqrt(n_layers)
        assert float(mixer.in_proj.weight.std()) == pytest.approx((3 * 64) ** -0.5, rel=0.05)
        expected = (3 * inner) ** -0.5 / 2
        assert float(mixer.out_proj.weight.std()) == pytest.approx(expected, rel=0.05)
        assert not mixer.in_proj.bias.any() and not mixer.out_proj.bias.any()
    assert float(plain.layers[0].mixer.conv.weight.std()) == pytest.approx(12**-0.5, rel=0.1)
    for scope in (("linear",), ("conv",), ("linear", "conv")):
        start = InitialisationConfig(gamma=0.8, scope=scope)
        config = dataclasses.replace(plain.config, initialisation=start)
        model = build_language_model(config, seed=0)
        for layer in (0, 1):
            mixer = model.layers[layer].mixer
            drawn = float(mixer.in_proj.weight.std()), float(mixer.out_proj.weight.std())
            if "linear" in scope:
                assert drawn == pytest.approx((64**-0.8, 256**-0.8), rel=0.05)
            else:
                assert drawn == pytest.approx(((3 * 64) ** -0.5, (3 * 256) ** -0.5 / 2), rel=0.05)
        wanted = 4**-0.8 if "conv" in scope else 12**-0.5
        assert float(model.layers[0].mixer.conv.weight.std()) == pytest.approx(wanted, rel=0.1)


def test_edges_of_attention_can_be_cut() -> None:
    """A cut takes weights away after the softmax, which had counted them: what is cut off is not
    heard, but how much the others are heard still tells of it."""
    model, sequence = make("transformer"), tokens()
    changed = sequence.clone()
    changed[:, 3] = (changed[:, 3] + 7) % 30
    cut = edge_cut(LENGTH, [(i, 3) for i in range(4, LENGTH)])
    attention = [n for n, block in enumerate(model.config.blocks) if block.kind == "attention"]
    with torch.no_grad():
        free = model(sequence)
        with cut_edges(model, cut, layers=attention):
            one, other = model(sequence), model(changed)
    assert not torch.allclose(one[:, 4:], free[:, 4:])
    assert not torch.allclose(one[:, 4:], other[:, 4:])
    close(one[:, :3], free[:, :3])
    with torch.no_grad(), cut_edges(model, cut):  # feed-forward maps let nothing pass anyway
        close(model(sequence), one)
    with pytest.raises(TypeError, match="a FeedForwardMixer block has nothing to cut"):
        cut_edges(model, cut, layers=[0, 1]).__enter__()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FeedForwardConfig(16, 0), "FeedForwardConfig.d_hidden is 0, allowed: at least 1"),
        (lambda: FeedForwardConfig(True, 4), "FeedForwardConfig.d_model is True"),
        (
            lambda: FeedForwardConfig(16, 4, "relu"),  # type: ignore[arg-type]
            "activation is 'relu', allowed: silu, gelu, swiglu",
        ),
        (
            lambda: LanguageModelConfig(9, 1, (FEED,), norm_place="both"),  # type: ignore[arg-type]
            "LanguageModelConfig.norm_place is 'both', allowed: before, after",
        ),
        (
            lambda: LanguageModelConfig(9, 1, (FEED,), pre_norm=False, norm_place="after"),
            "norm_place is 'after', allowed: before, with pre_norm False",
        ),
        (
            lambda: LanguageModelConfig(9, 1, (FEED,), norm_kind="batch"),  # type: ignore[arg-type]
            "LanguageModelConfig.norm_kind is 'batch', allowed: rms, layer, with pre_norm True",
        ),
        (
            lambda: LanguageModelConfig(
                9, 1, (FEED,), pre_norm=False, final_norm=False, norm_kind="layer"
            ),
            "norm_kind is 'layer', allowed: rms, with pre_norm False, final_norm False",
        ),
        (lambda: LanguageModelConfig(9, 2, (FEED, AttentionConfig(8))), "the same d_model"),
    ],
)
def test_bad_configs_are_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_configs_survive_their_records(pattern: str) -> None:
    for variant in VARIANTS:
        config = make(pattern, variant).config
        plain = json.loads(json.dumps(to_dict(config)))
        assert from_dict(LanguageModelConfig, plain) == config
        assert ("norm_place" in plain) == (variant != "before")
        assert ("norm_kind" in plain) == (variant == "layer norm")


def test_published_records_keep_their_identity(root: Path) -> None:
    """A record's config, read and written again by today's classes, is the same cell."""
    for experiment in ("achilles.composite", "achilles.phase_diagram"):
        paths = sorted((root / "book" / "results" / experiment).glob("*.json"))[::20]
        assert paths, experiment
        for path in paths:
            body = json.loads(path.read_text())
            again = to_dict(from_dict(CompositeCell, body["config"]))
            found = identity(body["experiment"], body["protocol"], again)
            assert found == body["identity"] and path.stem.endswith(found)
            assert not {"norm_place", "norm_kind"} & set(again["model"])


def test_swiglu_is_silu_of_the_first_half() -> None:
    mixer = FeedForwardMixer(FeedForwardConfig(16, 24, "swiglu"))
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    gate, up = (x @ mixer.in_proj.weight.T).chunk(2, -1)
    torch.testing.assert_close(mixer(x), (F.silu(gate) * up) @ mixer.out_proj.weight.T)
