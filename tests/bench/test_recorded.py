from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.bench.recorded import recorded_sentence
from lib.config import to_dict
from lib.experiments import find
from lib.store import Record, Store
from tests.fakes import PROVENANCE


def test_recorded_runs_say_how_long_they_trained(tmp_path: Path) -> None:
    store = Store(tmp_path / "local", tmp_path / "published")
    name = "achilles.phase_diagram"
    experiment = find(name)
    said = recorded_sentence(name, store=store)
    assert said == f"No run of “{experiment.title}” has a record yet."
    cells = experiment.cells("paper")

    def keep(cell: Any, facts: dict[str, Any]) -> str:
        store.save(
            Record(name, experiment.protocol, to_dict(cell), experiment.readable(cell), "done",
                   {}, {"training_seconds": 30.0, **PROVENANCE, **facts})
        )  # fmt: skip
        return recorded_sentence(name, store=store)

    keep(cells[0], {})
    said = keep(cells[1], {"sessions": [{"steps": 10}]})
    assert f"The 2 of {len(cells)} runs" in said and "1.0 minutes together" in said
    assert said.endswith(f"; at that pace all take {len(cells) / 2:.0f}.")
    assert "resumed" not in said
    # a session that was timed counts as it is, one that was not at the pace of the last
    timed = [{"steps": 5, "seconds": 90.0}, {"steps": 10, "seconds": 30.0}]
    said = keep(cells[2], {"sessions": timed})
    assert "3.0 minutes together" in said and "resumed" not in said
    said = keep(cells[3], {"sessions": [{"steps": 20}, {"steps": 10}]})
    assert "about 4.5 minutes together" in said and "(1 resumed;" in said
    # of 4.5 minutes one was not timed, and two thirds of the steps of one run in four
    assert "pace after it: 3.5 minutes and 83% of the steps were timed)" in said
    other = [{"steps": 20, "device_name": "another"}, {"steps": 10}]
    assert "at least 5.0 minutes together" in keep(cells[4], {"sessions": other})
    for cell in cells[4:]:
        said = keep(cell, {})
    assert f"The {len(cells)} of {len(cells)} runs" in said and "all take" not in said
