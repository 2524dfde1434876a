from __future__ import annotations

import itertools

import pytest
import torch

from lib.analysis.composite import (
    accuracies,
    answer_offsets,
    answer_probabilities,
    answers,
    expected_answers,
    last_token_loss,
    steps_and_decays,
)
from lib.experiments.achilles import mamba2_model
from lib.models.language_model import build_language_model
from lib.tasks.composite import CompositeTask, build

TASK = CompositeTask(train_per_pair=40, test_per_pair=10)


class Knows(torch.nn.Module):
    """Stands in for a model: answers with a rule of the tokens."""

    def __init__(self, shifts: dict[int, int]) -> None:
        super().__init__()
        self.shifts = shifts

    def forward(self, tokens: torch.Tensor, last_token_only: bool) -> torch.Tensor:
        assert last_token_only
        out = torch.zeros(len(tokens), 201)
        for row, sequence in enumerate(tokens.tolist()):
            (at,) = [i for i in range(len(sequence) - 1) if max(sequence[i : i + 2]) < 5]
            shift = self.shifts[10 * sequence[at] + sequence[at + 1]]
            out[row, sequence[at - 1] + shift] = 1.0
        return out


SHIFTS = {1: 5, 2: 1, 3: -2, 4: -8}
COMPOSED = {10 * a + b: SHIFTS[a] + SHIFTS[b] for a, b in itertools.product(SHIFTS, SHIFTS)}


@pytest.mark.parametrize(
    ("shifts", "expected"),
    [
        ({**COMPOSED, 34: -6}, {"composite": 1.0, "symmetric": 0.0, "seen": 1.0}),
        ({**COMPOSED, 34: -6, 43: -6}, {"composite": 0.0, "symmetric": 1.0, "seen": 1.0}),
        (COMPOSED, {"composite": 1.0, "symmetric": 0.0, "seen": 14 / 15}),
        (dict.fromkeys(COMPOSED, 0), {"composite": 0.0, "symmetric": 0.0, "seen": 0.0}),
    ],
)
def test_accuracies_tell_the_solutions_apart(
    shifts: dict[int, int], expected: dict[str, float]
) -> None:
    _, test = build(TASK, seed=2)
    found = accuracies(Knows(shifts), test, by_pair=True)  # type: ignore[arg-type]
    assert {k: found[k] for k in expected} == pytest.approx(expected)
    assert found["pair_43"] == expected["composite"]
    assert found["pair_34"] == (1.0 if shifts[34] == -6 else 0.0)


def test_offsets_count_every_answer_to_a_pair() -> None:
    _, test = build(TASK, seed=2)
    assert answer_offsets(Knows({**COMPOSED, 34: -6}), test) == {-10: 1.0}  # type: ignore[arg-type]
    assert answer_offsets(Knows({**COMPOSED, 43: -7}), test, 43) == {-7: 1.0}  # type: ignore[arg-type]
    assert answer_offsets(Knows(COMPOSED), test, 12) == {6: 1.0}  # type: ignore[arg-type]

    class Half(Knows):
        """Composite for even keys, the key itself for odd ones."""

        def forward(self, tokens: torch.Tensor, last_token_only: bool) -> torch.Tensor:
            out = super().forward(tokens, last_token_only)
            keys = out.argmax(-1) + 10
            odd = keys % 2 == 1
            out[odd] = torch.nn.functional.one_hot(keys[odd], 201).float()
            return out

    asked = test.where(43)
    odd = float((test.keys[asked] % 2 == 1).double().mean())
    found = answer_offsets(Half(COMPOSED), test)  # type: ignore[arg-type]
    assert found == pytest.approx({-10: 1 - odd, 0: odd}) and 0 < odd < 1
    # of 100, 95 on are 5 back
    round_about = answer_offsets(Knows({**COMPOSED, 43: 95}), test, modulus=100)  # type: ignore[arg-type]
    assert round_about == {-5: 1.0}
    with pytest.raises(ValueError, match=r"pair is 55, allowed: \[11, 12"):
        answer_offsets(Knows(COMPOSED), test, 55)  # type: ignore[arg-type]


def test_loss_looks_at_the_last_token_only() -> None:
    model = build_language_model(mamba2_model(1, 1.0, d_state=8), seed=0)
    tokens, labels = torch.randint(20, 100, (4, 8)), torch.randint(20, 100, (4,))
    loss, right = last_token_loss(model, tokens, labels)
    logits = model(tokens)[:, -1]
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, labels))
    assert int(right) == int((logits.argmax(-1) == labels).sum())
    assert torch.equal(answers(model, tokens), logits.argmax(-1))


def test_expected_answers() -> None:
    assert expected_answers(50, 4, 3) == {"composite": 40, "symmetric": 44}
    assert expected_answers(50, 3, 4) == {"trained": 44}
    assert expected_answers(50, 1, 2) == {"trained": 56}


def test_steps_and_decays_are_those_of_the_model() -> None:
    model = build_language_model(mamba2_model(2, None, d_state=8), seed=0)
    dt, decay = steps_and_decays(model, torch.arange(20, 28))
    assert dt.shape == decay.shape == (2, 8)
    assert (dt > 0).all() and ((decay > 0) & (decay < 1)).all()
    A = -model.layers[1].mixer.A_log.exp()
    torch.testing.assert_close(decay[1], torch.exp(dt[1] * A).detach())


def test_answer_probabilities_are_a_distribution() -> None:
    model = build_language_model(mamba2_model(1, 1.0, d_state=8), seed=0)
    tokens = torch.arange(20, 28)
    odds = answer_probabilities(model, tokens)
    assert len(odds) == 201 and sum(odds) == pytest.approx(1.0, abs=1e-5)
    assert max(range(201), key=odds.__getitem__) == int(answers(model, tokens[None]))
