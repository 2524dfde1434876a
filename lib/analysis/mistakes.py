"""True losses beside false ones: with padding left out, and with the future out of sight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.analysis.language import next_token_loss
from lib.tasks.padding import IGNORED, with_padding


@dataclass(frozen=True)
class HeldOutRows:
    """Padded rows to measure on.

    Attributes:
        inputs, targets: (rows, length); targets IGNORED where they are padding.
        eos: what padding is made of.
    """

    inputs: Tensor
    targets: Tensor
    eos: int

    def to(self, device: torch.device | str) -> HeldOutRows:
        """The same rows on another device."""
        return HeldOutRows(self.inputs.to(device), self.targets.to(device), self.eos)


@torch.no_grad()
def padded_losses(model: nn.Module, rows: HeldOutRows, counted: bool) -> dict[str, Tensor]:
    """``true_loss``, the mean over targets that are text; ``padded_loss``, that over all, padding
    among them; ``reported_loss``, the second if `counted`, else the first; ``text_share`` of the
    targets. Nats; tensors () on the device."""
    sums = torch.zeros(2, dtype=torch.float64, device=rows.inputs.device)
    parts = zip(rows.inputs.split(32), rows.targets.split(32), strict=True)
    for inputs, targets in parts:
        logits = model(inputs).flatten(0, 1).float()
        every = F.cross_entropy(logits, with_padding(targets, rows.eos).flatten(), reduction="none")
        text = every * (targets.flatten() != IGNORED)
        sums += torch.stack([text.double().sum(), every.double().sum()])
    share = (rows.targets != IGNORED).double().mean()
    true, padded = sums[0] / (share * rows.targets.numel()), sums[1] / rows.targets.numel()
    return {
        "true_loss": true, "padded_loss": padded, "reported_loss": padded if counted else true,
        "text_share": share,
    }  # fmt: skip


@torch.no_grad()
def prefix_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean loss of each next token when nothing but the tokens before it is there to be read: one
    pass over each beginning of the rows. Of a causal model this is the loss over whole rows; of one
    that sees the future it is the loss that counts.

    Args:
        tokens: (rows, length + 1).

    Returns:
        () float64, in nats.
    """
    total = torch.zeros((), dtype=torch.float64, device=tokens.device)
    length = tokens.shape[1] - 1
    for end in range(1, length + 1):
        logits = model(tokens[:, :end], last_token_only=True).float()
        total += F.cross_entropy(logits, tokens[:, end].long()).double()
    return total / length


@torch.no_grad()
def losses_by_both(model: nn.Module, tokens: Tensor, attends: bool) -> dict[str, Tensor]:
    """On the same rows: ``reported_loss`` over whole rows, as it is mostly measured, and
    ``true_loss``, which is :func:`prefix_loss` for a model that `attends`. Of others, which pass a
    state from token to token, both are one number."""
    whole, _ = next_token_loss(model, tokens[:, :-1].long(), tokens[:, 1:].long())
    reported = whole.double()
    true = prefix_loss(model, tokens.long()) if attends else reported
    return {"reported_loss": reported, "true_loss": true}
