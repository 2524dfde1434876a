"""The front page says what verdicts and records say."""

from __future__ import annotations

from pathlib import Path

from lib import claims, page


def test_front_page_in_short(root: Path) -> None:
    reported = claims.report(root)
    rows = {row["id"]: row["verdict"] for row in reported}
    measured = {row["id"] for row in reported if row["seeds"] == row["expected_seeds"]}
    cell = "achilles.composite.l7"
    assert rows[f"{cell}-tied-best-composite"] == "reproduced"
    assert rows[f"{cell}-own-best-composite"] == "not reproduced"
    diagram = {name: v for name, v in rows.items() if name.startswith("achilles.phase_diagram.")}
    exceptions = [v for name, v in diagram.items() if ".exception-" in name]
    assert len(exceptions) == 5 and set(exceptions) == {"not reproduced"}
    others = [v for name, v in diagram.items() if ".exception-" not in name]
    assert len(others) == 8 and set(others) <= {"reproduced", "partly"}
    assert len(page.records_of("achilles.phase_diagram", "paper")) == 216
    assert rows["noise.matched.retention"] == rows["noise.audit.meaning.retention"]
    assert rows["noise.matched.retention"] == "not reproduced"
    assert rows["stories.scaling_with_length.prefill-mamba1"] == "reproduced"
    assert rows["stories.scaling_with_length.token-mamba1"] == "reproduced"
    chapter = {name: v for name, v in rows.items() if name.startswith("memory.")}
    total = len(chapter)
    made = {name.split(".", 1)[1]: v for name, v in chapter.items() if name in measured}
    assert "not run" not in made.values()
    causal = {f"prevalence_causal.{name}" for name in ("numbers", "names")}
    made_up_text = [name for name in made if name.endswith("-made-up")]
    assert set(made) == causal | set(made_up_text) and len(made) == 12
    text = (root / "book/index.md").read_text()
    assert f"only {len(made)} of that chapter's {total} claims have run" in text
    held = causal | {"reconstruction_by_length.longer-made-up"}
    assert {name for name, v in made.items() if v == "reproduced"} == held
    assert set(made.values()) == {"reproduced", "not reproduced", "protocol unknown"}
    # all others of one model, at three lengths
    ran = [c for c in claims.load_claims(root) if c.id.removeprefix("memory.") in made_up_text]
    assert len(ran) == 10 and {c.select["language.model.pattern.0.d_model"] for c in ran} == {192}
    lengths = {str(c.select["task.length"]) for c in ran} | {
        str(c.other.select["task.length"]) for c in ran
    }
    assert lengths <= {"[64, 128, 256]", "64", "256"}
