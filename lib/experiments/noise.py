"""Chapter "Noise": can Mamba learn, unlearn and retain noise (arXiv 2407.00996)?

What the chapter's experiments share. The experiments themselves are in modules of their own, such
as :mod:`lib.experiments.noise_audit`.
"""

from __future__ import annotations

from lib.experiments import Experiment

CHAPTER = "noise"
# phases of training, by the names of the third party's files: clean, noisy, clean again
PHASES = {
    "finetuned": "1: tuned on clean answers",
    "charflip": "2: tuned on flipped answers",
    "unlearned": "3: tuned on clean answers again",
}

EXPERIMENTS: tuple[Experiment, ...] = ()
