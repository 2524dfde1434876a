"""Our Mamba models in the terms of Hugging Face's Mamba and Mamba-2: configs and weights' names.

Only names and one shape differ: both keep the projections' rows in the same order (z or gate, x, B,
C, dt), and a depthwise kernel is (d, k) here, (d, 1, k) there.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lib.models.config import BlockConfig, LanguageModelConfig, Mamba1Config, Mamba2Config

FAMILIES: dict[str, type[BlockConfig]] = {"mamba": Mamba1Config, "mamba2": Mamba2Config}

# our field to theirs, of both families, then of each
_SHARED = {
    "d_model": "hidden_size", "d_state": "state_size", "d_conv": "conv_kernel", "expand": "expand",
    "dt_min": "time_step_min", "dt_max": "time_step_max", "dt_init_floor": "time_step_floor",
    "conv_bias": "use_conv_bias", "bias": "use_bias",
}  # fmt: skip
_OWN = {
    Mamba1Config: {"dt_rank": "time_step_rank", "dt_scale": "time_step_scale"},
    Mamba2Config: {"headdim": "head_dim", "n_groups": "n_groups", "chunk_size": "chunk_size"},
}
_STACK = {
    "embedding.weight": "backbone.embeddings.weight",
    "final_norm.weight": "backbone.norm_f.weight",
    "head.weight": "lm_head.weight",
}
_KERNEL = "mixer.conv1d.weight"


class HubError(ValueError):
    """A checkpoint that cannot be had, read or written; the message says what to do."""


def our_config(theirs: Any) -> LanguageModelConfig:
    """The config of a transformers ``MambaConfig`` or ``Mamba2Config`` as ours.

    Raises:
        HubError: another architecture, or a setting that our blocks do not have.
    """
    kind = FAMILIES.get(theirs.model_type)
    if kind is None:
        known = ", ".join(FAMILIES)
        raise HubError(f"model_type is {theirs.model_type!r}, allowed: {known}")
    if theirs.hidden_act not in ("silu", "swish"):
        raise HubError(f"hidden_act is {theirs.hidden_act!r}, allowed: silu")
    limit = tuple(getattr(theirs, "time_step_limit", (0.0, math.inf)))
    # dt is a softplus and so never below 0; any other limit would change it
    if limit[0] > 0 or limit[1] < math.inf:
        raise HubError(f"time_step_limit is {limit}, allowed: (0.0, inf)")
    names = {**_SHARED, **_OWN[kind]}
    fields = {ours: getattr(theirs, name) for ours, name in names.items()}
    if kind is Mamba1Config and fields["dt_rank"] == -(-theirs.hidden_size // 16):
        fields["dt_rank"] = None  # the default by its own name, so that configs compare equal
    try:
        return LanguageModelConfig(
            vocab_size=theirs.vocab_size,
            n_layers=theirs.num_hidden_layers,
            pattern=(kind(**fields),),
            tie_embeddings=theirs.tie_word_embeddings,
            norm_eps=theirs.layer_norm_epsilon,
        )
    except ValueError as error:
        raise HubError(f"its config.json describes no model: {error}") from error


def their_config(config: LanguageModelConfig) -> Any:
    """Our config as transformers', for a plain stack of Mamba-1 or Mamba-2 blocks.

    How weights start (A_min, A_max, the gamma scale) has no place there and is left out; it does
    not change what a trained model computes.

    Raises:
        HubError: a model that the format cannot describe, naming the field.
    """
    import transformers

    kinds = {type(block) for block in config.blocks}
    if len(set(config.blocks)) > 1 or not kinds <= set(FAMILIES.values()):
        found = ", ".join(sorted(str(block.kind) for block in set(config.blocks)))
        raise HubError(f"pattern is of {found}; allowed: one block, {', '.join(FAMILIES)}")
    block = config.blocks[0]
    assert isinstance(block, Mamba1Config | Mamba2Config)
    wanted: list[tuple[Any, str, Any]] = [
        (config, "pre_norm", True), (config, "final_norm", True), (config, "norm_place", "before"),
        (config, "norm_kind", "rms"),
        (config, "positional_encoding", "none"), (block, "conv_kind", "standard"),
        (block, "conv_bypass", "none"),
    ]  # fmt: skip
    for owner, name, value in wanted:
        if getattr(owner, name) != value:
            found = f"{type(owner).__name__}.{name} is {getattr(owner, name)!r}"
            raise HubError(f"{found}; Hugging Face's format has only {value!r}")
    fields = {name: getattr(block, ours) for ours, name in {**_SHARED, **_OWN[type(block)]}.items()}
    make: Any = transformers.Mamba2Config
    if isinstance(block, Mamba1Config):
        make, fields["time_step_rank"] = transformers.MambaConfig, block.rank
    else:
        fields["num_heads"] = block.n_heads
    # no special tokens unless a tokenizer brings them: theirs default to ids that mean nothing here
    return make(
        vocab_size=config.vocab_size, num_hidden_layers=config.n_layers,
        layer_norm_epsilon=config.norm_eps, tie_word_embeddings=config.tie_embeddings,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, **fields,
    )  # fmt: skip


def weight_names(config: LanguageModelConfig) -> dict[str, str]:
    """Our name of every weight to theirs; a tied head has no name of its own there."""
    names = dict(_STACK)
    if config.tie_embeddings:
        del names["head.weight"]
    for index, block in enumerate(config.blocks):
        assert isinstance(block, Mamba1Config | Mamba2Config)
        here, there = f"layers.{index}.", f"backbone.layers.{index}."
        parts = ["norm.weight", "mixer.A_log", "mixer.D"]
        maps = ["in_proj", "out_proj"]
        parts += [f"mixer.{name}.weight" for name in maps]
        parts += [f"mixer.{name}.bias" for name in maps if block.bias]
        if isinstance(block, Mamba1Config):
            parts += ["mixer.x_proj.weight", "mixer.dt_proj.weight", "mixer.dt_proj.bias"]
        else:
            parts += ["mixer.dt_bias", "mixer.norm.weight"]
        names.update({here + part: there + part for part in parts})
        names[f"{here}mixer.conv.weight"] = there + _KERNEL
        if block.conv_bias:
            names[f"{here}mixer.conv.bias"] = f"{there}mixer.conv1d.bias"
    return names


def their_weights(state: dict[str, Tensor], config: LanguageModelConfig) -> dict[str, Tensor]:
    """Our state dict under their names."""
    return {
        theirs: state[ours][:, None] if theirs.endswith(_KERNEL) else state[ours]
        for ours, theirs in weight_names(config).items()
    }


def our_weights(weights: dict[str, Tensor], config: LanguageModelConfig) -> dict[str, Tensor]:
    """Their tensors under our names, every one of ours and no other left.

    Raises:
        HubError: tensors that are missing, or that the config's model has no place for.
    """
    # published files of 2024 say "embedding", as mamba_ssm does; transformers reads both
    weights = {
        name.replace("backbone.embedding.", "backbone.embeddings."): value
        for name, value in weights.items()
    }
    if config.tie_embeddings:  # some files carry the head all the same; it must be the embedding
        head, embedding = weights.pop("lm_head.weight", None), _STACK["embedding.weight"]
        if head is not None and embedding in weights and not head.equal(weights[embedding]):
            raise HubError(
                "lm_head.weight differs from the embedding, which config.json ties it to"
            )
    names = weight_names(config)
    missing = sorted(set(names.values()) - set(weights))
    unknown = sorted(set(weights) - set(names.values()))
    if missing:
        raise HubError(f"its weights lack {missing[0]} and {len(missing) - 1} more")
    if unknown:
        raise HubError(f"its weights have {unknown[0]}, and {len(unknown) - 1} more, unknown here")
    return {
        ours: weights[theirs].squeeze(1) if theirs.endswith(_KERNEL) else weights[theirs]
        for ours, theirs in names.items()
    }
