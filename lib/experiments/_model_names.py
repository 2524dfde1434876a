"""What a model is called in the names of its runs."""

from __future__ import annotations

from typing import Any

from lib.models.config import FeedForwardConfig, InitialisationConfig, LanguageModelConfig


def depth(model: LanguageModelConfig) -> int:
    """Layers as papers count them: attention and its feed-forward map are one."""
    return sum(block.kind != "feedforward" for block in model.blocks)


def model_parts(model: LanguageModelConfig) -> list[str]:
    """Parts of a readable name that say which model it is."""
    start, plain = model.initialisation, InitialisationConfig()
    block: Any = model.pattern[0]  # of whatever kind: fields that it lacks name nothing
    parts = [block.kind, f"L{depth(model)}"]
    parts.append("official" if start.gamma is None else f"g{start.gamma}")
    if model.tie_embeddings:
        parts.append("tied")
    if model.d_model != 32:
        parts.append(f"m{model.d_model}")
    usual = "none" if block.kind == "attention" else "standard"
    kernel = getattr(block, "conv_kind", usual)
    if kernel != usual:
        parts.append("conv" if kernel == "standard" else kernel.replace("_", ""))
    if getattr(block, "d_conv", 4) != 4:
        parts.append(f"taps{block.d_conv}")
    if getattr(block, "conv_frozen", None) is not None:
        parts.append("frozen" if block.conv_frozen else "free")
    if not getattr(block, "conv_bias", True):
        parts.append("nobias")
    if getattr(block, "conv_bypass", "none") != "none":
        parts.append(block.conv_bypass)
    if model.positional_encoding != "none":
        parts.append(model.positional_encoding)
    if not model.pre_norm:
        parts.append("noprenorm")
    if not model.final_norm and block.kind != "attention":
        parts.append("nofinalnorm")
    if (model.norm_kind == "layer") != (block.kind == "attention"):  # a Transformer's own
        parts.append(f"{model.norm_kind}norm")
    if block.kind == "attention":
        parts += _transformer_parts(model)
    if block.kind != "mamba1":  # the third party's has its own ways to start
        wider = [part for part in start.scope if part not in plain.scope]
        less = [f"no{part}" for part in plain.scope if part not in start.scope]
        parts += [*wider, *less]
        parts += ["output"] if start.fan == "output" else []
        parts += ["zerobias"] if start.zero_biases else []
    return parts


def _transformer_parts(model: LanguageModelConfig) -> list[str]:
    """What differs from the group's Transformer, see :func:`lib.experiments.transformer`."""
    mixer: Any = model.pattern[0]
    widths = [block.d_hidden for block in model.pattern if isinstance(block, FeedForwardConfig)]
    return [
        *(["before"] if model.norm_place == "before" else []),
        *([] if mixer.causal else ["nomask"]),
        *([f"v{mixer.d_v}"] if mixer.d_v != 2 * model.d_model else []),
        *(f"ff{width}" for width in widths if width != model.d_model),
    ]
