"""Sequences for looking into a model of the composite task: every key at every place.

The paper asks each pair on 480 "randomly generated sequences" (arXiv 2509.17514, Fig. 6) and says
no more. 480 is 80 keys at 6 positions, and both readings of its length give 6: 8 tokens (its text)
with a pair that may stand at the very end, or 9 tokens (its drawings) with at least one token after
the pair. Which of them matters: a pair at the end leaves no token for an intervention to reach.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from lib.tasks.composite import CompositeTask, Split, place


def intervention_split(
    task: CompositeTask, seed: int, pair_may_end: bool = True, repeats: int = 1
) -> Split:
    """All pairs (16) with every key of the task at every position, `repeats` times each.

    Every sequence has noise of its own, drawn from `seed` in a stream that neither training nor
    test data use. Keys stand at any position, as trained and as held out: it is one model's answers
    that are compared, not its accuracy.

    Args:
        pair_may_end: whether the second anchor may be the last token, whatever the task says. With
            8 tokens and 80 keys a pair has 480 sequences, or 400 where it may not; with 9 tokens
            560 or 480.

    Raises:
        ValueError: `seed` below 0, `repeats` below 1, or sequences too short for a token after the
            pair.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}, allowed: 0 or more")
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}, allowed: at least 1")
    task = dataclasses.replace(task, pair_may_end=pair_may_end)
    keys = np.arange(task.key_min, task.key_max + 1)
    pairs = np.array(task.rules.pairs)
    axes = (np.arange(len(pairs)), np.arange(task.positions), keys, np.arange(repeats))
    codes, index, keys, _ = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    (stream,) = np.random.SeedSequence([seed, 0x1F]).spawn(1)
    rng = np.random.Generator(np.random.PCG64(stream))
    tokens = rng.integers(task.noise_min, task.noise_max + 1, (len(codes), task.length))
    return place(task, tokens, keys, index, pairs[codes])


def twin(task: CompositeTask, split: Split, pair: int = 43) -> Split:
    """The same sequences, noise, keys and positions with another pair, written as 43.

    Raises:
        ValueError: no pair of anchors.
    """
    anchors = divmod(pair, 10)
    if anchors not in task.rules.pairs:
        known = ", ".join(f"{first}{second}" for first, second in task.rules.pairs)
        raise ValueError(f"pair is {pair}, allowed: {known}")
    tokens, keys, index = (t.cpu().numpy() for t in (split.tokens, split.keys, split.index))
    pairs = np.broadcast_to(np.array(anchors), (len(split), 2))
    return place(task, tokens.copy(), keys, index, pairs).to(split.tokens.device)
