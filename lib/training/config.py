"""How to train, as a frozen config (no torch needed to read it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lib.config import added_later, require

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; the defaults are those of arXiv 2509.17514, App. D (composite task).

    Attributes:
        epochs: passes over the data, warm-up included (10 of warm-up and 200 of cosine).
        warmup_epochs: epochs of linear warm-up from `lr_start` to `lr_peak`.
        warmup_steps: steps of it instead, at most all there are; None for `warmup_epochs`.
        lr_end: the cosine ends here.
        lr_by: the rate changes with every "batch" (group code) or "epoch" (third party).
        weight_decay: AdamW's, on every parameter, or (`spare_dynamics`) on all but A_log, D and
            the dt bias, as mamba_ssm's examples do; the paper does not say.
        clip_norm: largest norm of the whole gradient, None for no clipping.
        drop_last: leave out an epoch's last, smaller batch.
        accumulate: a batch goes through the model in so many equal parts, whose gradients are
            added: the same step in less memory.
        precision: "bfloat16": products in it (autocast), weights and optimiser in float32.
    """

    epochs: int = 210
    warmup_epochs: int = 10
    batch_size: int = 2048
    lr_start: float = 1e-5
    lr_peak: float = 2.5e-4
    lr_end: float = 1e-5
    lr_by: Literal["batch", "epoch"] = "batch"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    spare_dynamics: bool = False
    clip_norm: float | None = 1.0
    drop_last: bool = True
    accumulate: int = added_later(1)
    precision: Literal["float32", "bfloat16"] = added_later("float32")
    warmup_steps: int | None = added_later(None)

    def warmup(self, epoch_steps: int) -> int:
        """Steps of warm-up where an epoch has `epoch_steps`."""
        if self.warmup_steps is None:
            return self.warmup_epochs * epoch_steps
        return min(self.warmup_steps, self.epochs * epoch_steps)

    def __post_init__(self) -> None:
        require(self, "epochs", self.epochs >= 1, "at least 1")
        require(self, "warmup_epochs", 0 <= self.warmup_epochs <= self.epochs, f"0..{self.epochs}")
        fits = self.warmup_steps is None or self.warmup_steps >= 0
        require(self, "warmup_steps", fits, "None, or 0 or more")
        require(self, "batch_size", self.batch_size >= 1, "at least 1")
        for name in ("lr_start", "lr_peak", "lr_end", "eps"):
            require(self, name, getattr(self, name) > 0, "more than 0")
        for name in ("beta1", "beta2"):
            require(self, name, 0 <= getattr(self, name) < 1, "0 up to but not 1")
        require(self, "weight_decay", self.weight_decay >= 0, "0 or more")
        require(
            self, "clip_norm", self.clip_norm is None or self.clip_norm > 0, "None or more than 0"
        )
        parts = self.accumulate
        require(
            self, "accumulate", parts >= 1 and self.batch_size % parts == 0,
            f"a divisor of batch_size {self.batch_size}",
        )  # fmt: skip
        require(self, "precision", self.precision in PRECISIONS, " or ".join(map(repr, PRECISIONS)))
        require(self, "lr_by", self.lr_by in ("batch", "epoch"), "'batch' or 'epoch'")
