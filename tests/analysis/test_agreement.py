from __future__ import annotations

import pytest

from lib.analysis import agreement


def test_every_scan_here_agrees_with_float64() -> None:
    table = agreement.scan_agreement(length=130)
    assert (table["relative difference"] < table["allowed"]).all()
    # float32 is not float64: an exact zero would mean a comparison with itself
    assert (table["relative difference"] > 0).all()
    names = set(table["implementation"])
    assert {"lib, reference", "lib, chunked", "lib, quadratic", "transformers"} <= names
    assert set(table["pass"]) == {"forward", "gradient"}


def test_a_wrong_scan_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        agreement, "_transformers_mamba1", lambda u, delta, A, B, C, D: u * D[:, None]
    )
    table = agreement.scan_agreement(length=30)
    wrong = table[(table["implementation"] == "transformers") & table["op"].str.contains("1")]
    assert (wrong["relative difference"] > wrong["allowed"]).all()
