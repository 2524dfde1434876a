"""Choosing the next token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from lib.models.sampling import Sampler, SamplingConfig, probabilities

LOGITS = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("top_k", [None, 1, 7, 40, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
def test_probabilities_equal_those_of_transformers(top_k: int | None, top_p: float) -> None:
    scores = LOGITS.double() / 0.7
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(torch.zeros(5, 1), scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(torch.zeros(5, 1), scores)
    found = probabilities(LOGITS, SamplingConfig(0.7, top_k, top_p))
    assert torch.allclose(found, scores.softmax(-1), rtol=1e-12, atol=0)


def test_the_nucleus_is_the_fewest_tokens_that_suffice() -> None:
    logits = torch.tensor([[0.4, 0.1, 0.3, 0.2]]).log()
    found = probabilities(logits, SamplingConfig(1.0, top_p=0.6))
    assert torch.allclose(found, torch.tensor([[4 / 7, 0.0, 3 / 7, 0.0]]).double(), atol=1e-6)


def test_draws_have_the_frequencies_of_the_probabilities() -> None:
    config = SamplingConfig(1.5, top_k=6, top_p=0.95, seed=4)
    sampler, counts = Sampler(config, [0]), torch.zeros(40)
    for _ in range(4000):
        counts[sampler(LOGITS[:1])] += 1
    wanted = probabilities(LOGITS[:1], config)[0]
    assert (counts[wanted == 0] == 0).all()
    # four standard deviations of a binomial count
    assert ((counts / 4000 - wanted).abs() <= 4 * (wanted * (1 - wanted) / 4000).sqrt()).all()


def test_a_row_draws_the_same_in_any_batch_and_rows_differ() -> None:
    flat = torch.zeros(3, 1000)
    config = SamplingConfig(1.0, seed=3)
    together, second = Sampler(config, [0, 1, 2]), Sampler(config, [1])
    drawn = torch.stack([together(flat) for _ in range(8)])
    assert torch.cat([second(flat[:1]) for _ in range(8)]).equal(drawn[:, 1])
    assert not drawn[:, 0].equal(drawn[:, 1])
    assert not Sampler(SamplingConfig(1.0, seed=9), [0])(flat[:1]).equal(drawn[0, :1])


def test_greedy_takes_the_likeliest_and_draws_nothing() -> None:
    sampler = Sampler(SamplingConfig(), range(5))
    assert sampler(LOGITS).equal(LOGITS.argmax(-1))
    fresh = torch.Generator().manual_seed(0).get_state()
    assert sampler.streams[0].get_state().equal(fresh)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "cold": (lambda: SamplingConfig(-0.1), r"SamplingConfig.temperature is -0.1, allowed: 0 \("),
    "hot": (lambda: SamplingConfig(float("inf")), r"temperature is inf"),
    "k": (lambda: SamplingConfig(1.0, top_k=0), r"top_k is 0, allowed: None or at least 1"),
    "p": (lambda: SamplingConfig(1.0, top_p=0.0), r"top_p is 0.0, allowed: more than 0"),
    "p above": (lambda: SamplingConfig(1.0, top_p=1.1), r"top_p is 1.1"),
    "seed": (lambda: SamplingConfig(1.0, seed=-1), r"seed is -1"),
    "nan": (lambda: Sampler(SamplingConfig(), [0])(torch.tensor([[0.0, torch.nan]])), "are NaN"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_drawn_from_is_refused(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make()
