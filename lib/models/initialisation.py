"""How weights start: the official way, or with the gamma scale of arXiv 2509.17514.

Every draw comes from one CPU generator in the order of the model's modules, so a seed gives the
same weights on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lib.models.config import InitialisationConfig, LanguageModelConfig, Mamba2Config
from lib.models.layers import CausalConv, PositionalEncoding
from lib.models.mamba1 import Mamba1Mixer
from lib.models.mamba2 import Mamba2Mixer
from lib.models.mamba3 import Mamba3Mixer
from lib.models.moe import MoEMixer

EMBEDDING_STD = 0.02


@torch.no_grad()
def initialise(model: nn.Module, config: LanguageModelConfig, generator: torch.Generator) -> None:
    """Fill every parameter of a language model in place.

    Officially (mamba_ssm): linear maps as nn.Linear draws them, biases of projections zero, the
    projections out divided by sqrt(n_layers), embeddings N(0, 0.02^2), dt log-uniform in
    [dt_min, dt_max] through the dt bias. With gamma, the tensors in scope are drawn anew. The dt
    bias is set last and by nobody else: re-initialising biases after it loses dt's range.
    """
    start = config.initialisation
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            _normal(module.weight, EMBEDDING_STD, generator)
            _gamma(module.weight, "embedding", module.embedding_dim, start, generator)
        elif isinstance(module, PositionalEncoding) and isinstance(module.weight, nn.Parameter):
            _normal(module.weight, EMBEDDING_STD, generator)
            _gamma(module.weight, "positional", module.weight.shape[1], start, generator)
        elif isinstance(module, nn.Linear):
            _linear(name, module, config, generator)
        elif isinstance(module, nn.GRU):
            _gru(module, start, generator)
        elif isinstance(module, CausalConv):
            _conv(module, start, generator)
        elif isinstance(module, MoEMixer):
            _experts(module, config, generator)
    for module in model.modules():
        if isinstance(module, Mamba1Mixer):
            _mamba1(module, start, generator)
        elif isinstance(module, Mamba2Mixer):
            _mamba2(module, start, generator)
        elif isinstance(module, Mamba3Mixer):
            _mamba3(module, start, generator)


def _uniform(tensor: Tensor, low: float, high: float, generator: torch.Generator) -> None:
    draw = torch.rand(tensor.shape, generator=generator, dtype=torch.float32)
    tensor.copy_(low + (high - low) * draw)


def _normal(tensor: Tensor, std: float, generator: torch.Generator) -> None:
    tensor.copy_(std * torch.randn(tensor.shape, generator=generator, dtype=torch.float32))


def _gamma(
    tensor: Tensor, part: str, fan_in: int, start: InitialisationConfig, generator: torch.Generator
) -> None:
    if start.gamma is None or part not in start.scope:
        return
    width = fan_in if start.fan == "fan_in" else tensor.shape[0]
    _normal(tensor, width**-start.gamma, generator)


def _linear(
    name: str, module: nn.Linear, config: LanguageModelConfig, generator: torch.Generator
) -> None:
    last = name.rsplit(".", 1)[-1]
    if last == "head":
        if config.tie_embeddings:
            return  # the embedding's own tensor, already drawn
        part = "head"
        # mamba_ssm draws an untied head as nn.Linear does
    else:
        part = "dt_proj" if last == "dt_proj" else "linear"
    bound = module.in_features**-0.5
    _uniform(module.weight, -bound, bound, generator)
    if last == "out_proj":
        module.weight /= math.sqrt(config.n_layers)
    if module.bias is not None and last != "dt_proj":
        module.bias.zero_()
    if part != "dt_proj":  # its official draw depends on the block's config: see _mamba1
        _gamma(module.weight, part, module.in_features, config.initialisation, generator)


def _experts(module: MoEMixer, config: LanguageModelConfig, generator: torch.Generator) -> None:
    """Each expert as the maps of a feed-forward block are drawn. The fan-in is of one expert: that
    of the stacked tensor ("stack") starts them too small by the root of their other width."""
    for weight in (module.in_weight, module.out_weight):
        fan_in = weight.shape[2]
        if config.initialisation.expert_fan == "stack":
            fan_in *= weight.shape[1]
        _uniform(weight, -(fan_in**-0.5), fan_in**-0.5, generator)
        if weight is module.out_weight:
            weight.div_(math.sqrt(config.n_layers))
        for expert in weight:
            _gamma(expert, "linear", fan_in, config.initialisation, generator)


def _conv(module: CausalConv, start: InitialisationConfig, generator: torch.Generator) -> None:
    if module.kind == "none":
        return
    bound = module.taps**-0.5  # nn.Conv1d's, for a depthwise kernel
    if module.kind != "all_one":
        drawn = module.first_half if module.kind == "palindromic" else module.weight
        _uniform(drawn, -bound, bound, generator)
        _gamma(drawn, "conv", module.taps, start, generator)
    if module.bias is not None:
        _uniform(module.bias, -bound, bound, generator)
        if start.zero_biases:
            module.bias.zero_()


def _gru(module: nn.GRU, start: InitialisationConfig, generator: torch.Generator) -> None:
    """As nn.GRU draws itself, biases too; gamma's scope does not name it."""
    bound = module.hidden_size**-0.5
    for weight in module.parameters():
        _uniform(weight, -bound, bound, generator)
        if weight.dim() == 1 and start.zero_biases:
            weight.zero_()


def _dt_bias(
    bias: Tensor, low: float, high: float, floor: float, generator: torch.Generator
) -> None:
    """A bias whose softplus is log-uniform in [low, high]."""
    _uniform(bias, math.log(low), math.log(high), generator)
    dt = torch.exp(bias).clamp(min=floor)
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus


def _mamba1(mixer: Mamba1Mixer, start: InitialisationConfig, generator: torch.Generator) -> None:
    c = mixer.config
    bound = c.rank**-0.5 * c.dt_scale
    _uniform(mixer.dt_proj.weight, -bound, bound, generator)
    _gamma(mixer.dt_proj.weight, "dt_proj", c.rank, start, generator)
    _dt_bias(mixer.dt_proj.bias, c.dt_min, c.dt_max, c.dt_init_floor, generator)
    mixer.A_log.copy_(torch.log(torch.arange(1, c.d_state + 1)).expand(c.d_inner, -1))
    mixer.D.fill_(1.0)
    if start.zero_biases:
        mixer.dt_proj.bias.zero_()


def _mamba2(mixer: Mamba2Mixer, start: InitialisationConfig, generator: torch.Generator) -> None:
    c: Mamba2Config = mixer.config
    _dt_bias(mixer.dt_bias, c.dt_min, c.dt_max, c.dt_init_floor, generator)
    _uniform(mixer.A_log, c.A_min, c.A_max, generator)
    mixer.A_log.log_()
    mixer.D.fill_(1.0)
    if start.zero_biases:
        mixer.dt_bias.zero_()


def _mamba3(mixer: Mamba3Mixer, start: InitialisationConfig, generator: torch.Generator) -> None:
    c = mixer.config
    _dt_bias(mixer.dt_bias, c.dt_min, c.dt_max, c.dt_init_floor, generator)
    for parameter in (mixer.B_bias, mixer.C_bias, mixer.D):
        parameter.fill_(1.0)
    if start.zero_biases:
        for parameter in (mixer.dt_bias, mixer.B_bias, mixer.C_bias):
            parameter.zero_()
