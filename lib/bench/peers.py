"""Who takes part: contestants are built one by one, and one that cannot take part says why."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

from torch import Tensor

from lib.bench.measure import Contestant, first_line
from lib.models.language_model import LanguageModel
from lib.ops.backends import BackendError

# our name inside a Mamba-1 layer to that of mamba_ssm and transformers, which agree
NAMES = {
    "norm.weight": "norm.weight",
    "mixer.in_proj.weight": "mixer.in_proj.weight",
    "mixer.conv.weight": "mixer.conv1d.weight",
    "mixer.conv.bias": "mixer.conv1d.bias",
    "mixer.x_proj.weight": "mixer.x_proj.weight",
    "mixer.dt_proj.weight": "mixer.dt_proj.weight",
    "mixer.dt_proj.bias": "mixer.dt_proj.bias",
    "mixer.A_log": "mixer.A_log",
    "mixer.D": "mixer.D",
    "mixer.out_proj.weight": "mixer.out_proj.weight",
}
MAMBAPY = "pip install -r requirements-bench.txt"


class Missing(RuntimeError):
    """A contestant that cannot take part here; its text is the reason."""


def gather(
    builders: Mapping[str, Callable[[], Contestant]],
) -> tuple[list[Contestant], dict[str, str]]:
    """Build every contestant, in order; those that cannot take part are named with the reason.

    A contestant that breaks while it is built (its compiler fails, memory runs out) is absent too,
    with its error as the reason, so that the others are still measured.
    """
    present: list[Contestant] = []
    absent: dict[str, str] = {}
    for name, build in builders.items():
        try:
            present.append(build())
        except (Missing, BackendError) as error:
            absent[name] = str(error)
        except Exception as error:
            absent[name] = f"failed: {first_line(error)}"
    return present, absent


def need(package: str, hint: str) -> None:
    """Raise :class:`Missing` unless `package` can be imported; `hint` says how to install it."""
    if importlib.util.find_spec(package) is None:
        raise Missing(f"the package {package} is not installed; {hint}")


def other_names(n_layers: int, embedding: str) -> dict[str, str]:
    """Our names of a Mamba-1 model's weights to those that others give them; `embedding` is the
    name of the one that differs between them."""
    names = {
        "embedding.weight": embedding,
        "final_norm.weight": "backbone.norm_f.weight",
        "head.weight": "lm_head.weight",
    }
    for index in range(n_layers):
        for mine, other in NAMES.items():
            names[f"layers.{index}.{mine}"] = f"backbone.layers.{index}.{other}"
    return names


def renamed(model: LanguageModel, embedding: str) -> dict[str, Tensor]:
    """Weights of a Mamba-1 model of ours under the names of :func:`other_names`."""
    source = model.state_dict()
    return {
        other: source[mine][:, None] if mine.endswith("mixer.conv.weight") else source[mine]
        for mine, other in other_names(model.config.n_layers, embedding).items()
    }
