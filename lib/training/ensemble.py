"""Many runs of one architecture along a leading axis: the same model definition, mapped by vmap.

Each run's loss depends on its own slice of the parameters alone, so the gradient of the sum of all
losses is each run's own gradient, and one elementwise optimiser serves all.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lib.ops import backends

Item = TypeVar("Item")
BatchLoss = Callable[..., tuple[Tensor, Tensor]]

# a processor gains by more runs only while a batch is small (measured: per run 7.6 ms alone, 5.1 in
# eight at 60 rows of length 8; equal at 150; no better or worse from 400 on)
CPU_RUNS, CPU_ROWS = 8, 1024
MEMORY_SHARE = 0.7
SINGLE = ("mamba_ssm",)  # backends that torch.vmap cannot map
# entries of a trainer's state that all runs share: they are at the same step
_SHARED = ("counter.position", "counter.global_step")


class Ensemble(nn.Module):
    """Models of one architecture as one module whose parameters have a leading axis of runs.

    ``ensemble(tokens)`` takes (runs, ...) tensors and gives (runs, ...) results. Weights that a
    model ties are tied here too: one stacked parameter, named as in the model. From the first one
    on, this process does without cuDNN's attention.

    Args:
        models: equal in structure, on one device; their weights are copied.

    Raises:
        ValueError: no models, or models that differ in a parameter's name, shape, type or device.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models:
            raise ValueError("models is empty, allowed: at least one")
        # gradients of cuDNN's attention, which would be chosen on a GPU, are wrong under torch.vmap
        # (torch 2.11, bfloat16: off by thousands of times their norm, or not finite), and nothing
        # says so. A switch of the process, since a context around a call would override a caller
        # who allows still fewer kernels
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.runs = len(models)
        # a copy gives the structure with its ties; its own forward would not fit its parameters
        self.stacked = copy.deepcopy(models[0])
        tables = [_tensors(model) for model in models]
        for table in tables:
            _check_alike(tables[0], table)
        for name, held in _tensors(self.stacked).items():
            held.data = torch.stack([table[name].detach() for table in tables])
            vars(held).update(vars(tables[0][name]))  # marks such as _no_weight_decay
        self.train(models[0].training)

    def map(self, function: Callable[..., Any], *tensors: Tensor) -> Any:
        """``function(model, *slices)`` for every run, under vmap.

        Args:
            function: called with one run's model (something to call, no module) and with that
                run's slice of each of `tensors`; returns tensors.
            tensors: (runs, ...) each.

        Returns:
            What `function` returns, with a leading axis of runs.
        """

        def one(state: dict[str, Tensor], *own: Tensor) -> Any:
            def model(*args: Any, **options: Any) -> Any:
                return functional_call(self.stacked, state, args, options)

            return function(model, *own)

        return torch.vmap(one)(_tensors(self.stacked), *tensors)

    def forward(self, *tensors: Tensor, **options: Any) -> Any:
        """The models' outputs (runs, ...) for `tensors` (runs, ...); `options` go to each model."""
        return self.map(lambda model, *own: model(*own, **options), *tensors)

    def weights(self, run: int) -> dict[str, Tensor]:
        """The state dict of one run's model (views)."""
        return {name: value[run] for name, value in self.stacked.state_dict().items()}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, a tied one once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _check_alike(first: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    if first.keys() != other.keys():
        names = ", ".join(sorted(first.keys() ^ other.keys()))
        raise ValueError(f"models differ in {names}, which not all have")
    for name, a in first.items():
        b = other[name]
        if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
            raise ValueError(
                f"models differ in {name}: {list(a.shape)} {a.dtype} on {a.device}, "
                f"{list(b.shape)} {b.dtype} on {b.device}"
            )


def losses_of(model: nn.Module, batch_loss: BatchLoss) -> BatchLoss:
    """``batch_loss(model, *batch)`` as a function of the batch: numbers (), or (runs,) of an
    ensemble."""

    def losses(*batch: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(model, Ensemble):
            return model.map(batch_loss, *batch)
        return batch_loss(model, *batch)

    return losses


@torch.no_grad()
def clip_by_run(parameters: Sequence[Tensor], max_norm: float) -> None:
    """``nn.utils.clip_grad_norm_`` for each run: scale its slices of all gradients, together, to a
    norm of at most `max_norm`. A run whose gradient is not finite changes no other."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch.cat([grad.reshape(len(grad), -1) for grad in grads], 1).norm(dim=1)
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(scale.view(-1, *[1] * (grad.ndim - 1)))


def _shared(name: str) -> bool:
    return name in _SHARED or (name.startswith("optimizer.") and name.endswith(".step"))


def on_host(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` on the CPU, read in the order of the current stream: that of the calling thread, so
    this is no work for another one."""
    return {name: value.detach().cpu() for name, value in state.items()}


def split_runs(state: dict[str, Tensor], runs: int) -> list[dict[str, Tensor]]:
    """The state of a trainer of `runs` runs as that of each run alone, on the CPU.

    The device is read once, then sliced.
    """
    host = on_host(state)
    return [
        {name: value if _shared(name) else value[run] for name, value in host.items()}
        for run in range(runs)
    ]


def join_runs(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """States of single runs, all at the same step, as the state of an ensemble of them.

    What not every state has is left out: before the first step the optimiser may have no entries
    yet, and they are zero.
    """
    names = [name for name in states[0] if all(name in state for state in states)]
    return {
        name: states[0][name] if _shared(name) else torch.stack([state[name] for state in states])
        for name in names
    }


def together(
    items: Sequence[Item],
    key: Callable[[Item], Hashable],
    room: Callable[[Item], int],
) -> Iterator[list[Item]]:
    """`items` in groups of equal `key`, in the order of their first members.

    Args:
        key: what runs must share to train at once: architecture, training, step.
        room: how many like this one train at once, at least 1; asked only where there are several,
            and only when the group's turn comes. Larger groups are cut into about equal parts.
    """
    alike: dict[Hashable, list[Item]] = {}
    for item in items:
        alike.setdefault(key(item), []).append(item)
    for group in alike.values():
        parts = -(-len(group) // room(group[0])) if len(group) > 1 else 1
        ends = [len(group) * part // parts for part in range(parts + 1)]
        yield from (group[first:end] for first, end in itertools.pairwise(ends))


def room(
    model: nn.Module, batch_loss: BatchLoss, batch: Sequence[Tensor], asked: int | None = None
) -> int:
    """How many runs like `model` may train at once: `asked`, or as many as its device has memory
    for, or on a processor as many as help.

    On a GPU one step's forward and backward pass of the model alone is tried; of the free memory
    only MEMORY_SHARE is given away, since stacked runs need a little more each.

    Raises:
        ValueError: more than one was asked for of a backend that knows no axis of runs.
    """
    device = next(model.parameters()).device
    with torch.no_grad(), backends.recording() as used:
        batch_loss(model, *(tensor[:2] for tensor in batch))
    single = sorted({name for names in used.values() for name in names} & set(SINGLE))
    if single and asked is not None and asked > 1:
        raise ValueError(f"ensemble is {asked}, allowed: 1 ({single[0]} serves one run at a time)")
    if single or asked is not None:
        return asked or 1
    if device.type != "cuda":
        return max(1, min(CPU_RUNS, CPU_ROWS // len(batch[0])))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    batch_loss(model, *batch)[0].backward()
    used_bytes = torch.cuda.max_memory_allocated(device) - before
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(MEMORY_SHARE * free / max(1, used_bytes)))
