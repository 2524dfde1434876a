from __future__ import annotations

import pandas as pd
import pytest

from lib.analysis.routes import BEHIND, BOTH, PAIR, routes, routes_sentence

NAMES = [
    "block", "n_layers", "gamma", "seed", "blocking_inner_mean_after_pair",
    "substitution_inner_mean", "blocking_inner_mean_untrained",
    "substitution_inner_mean_untrained", "best_composite", "final_composite",
]  # fmt: skip
FRAME = pd.DataFrame(
    [
        ("mamba2", 2, 1.0, 1, 0.999, 0.97, 0.99, 0.90, 0.60, 0.1),
        ("mamba2", 2, 1.0, 2, 0.95, 0.95, 0.98, 0.99, 0.80, 0.8),
        ("mamba2", 2, 0.5, 1, 0.02, 0.05, 0.97, 0.95, 0.10, 0.1),
        ("mamba2", 2, 2.0, 1, 0.96, 0.50, 1.00, 1.00, 0.40, 0.2),
        ("mamba2", 2, 2.0, 2, 0.40, 0.20, 1.00, 1.00, 0.30, 0.2),
        ("mamba2", 2, 2.0, 3, None, None, None, None, 0.30, 0.2),  # not looked into
    ],
    columns=NAMES,
)


def test_a_route_needs_both_interventions() -> None:
    found = routes(FRAME)
    assert found["route"].tolist() == [BEHIND, BEHIND, PAIR, BOTH, BOTH]
    assert found["model"].tolist()[1:3] == ["Mamba-2, γ 1", "Mamba-2, γ 0.5"]
    deep = routes(FRAME.assign(n_layers=7))
    assert deep["model"].tolist()[1:3] == ["Mamba-2, 7 layers, γ 1", "Mamba-2, 7 layers, γ 0.5"]
    assert found["kept"].tolist() == [0.999, 0.95, 0.02, 0.96, 0.40]


def test_the_sentence_counts_models_and_says_what_the_controls_did() -> None:
    text = routes_sentence(routes(FRAME))
    assert "Of 5 trained models" in text
    assert "**2** from the tokens behind the pair (best composite accuracy 0.60 to 0.80)" in text
    assert "**1** from the pair's own tokens (best composite accuracy 0.10 to 0.10)" in text
    assert "**2** from both (best composite accuracy 0.30 to 0.40)" in text
    assert "left 97% to 100% of the answers as they were, and after the exchange 90% to" in text
    assert "4 of 5 pass both tests before they have learnt anything" in text
    # kept ranks 5 3 1 4 2; best composite 4 5 1 3 2, 1 - 6 (1 + 4 + 0 + 1 + 0) / (5 * 24);
    # final composite 1.5 5 1.5 3.5 3.5, whose products of deviations add up to nothing
    assert "composite accuracy: 0.70 [" in text and "] at the best epoch, 0.00 [" in text


def test_a_single_run_has_no_correlation() -> None:
    one = routes_sentence(routes(FRAME.head(1)))
    assert "Of 1 trained models" in one and "correlation" not in one


def test_no_run_is_refused_by_the_sentence_and_empty_in_the_table() -> None:
    assert len(routes(pd.DataFrame())) == 0
    with pytest.raises(ValueError, match="table has no run"):
        routes_sentence(routes(pd.DataFrame()))
