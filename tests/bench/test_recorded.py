from __future__ import annotations

from pathlib import Path

from lib.bench.recorded import recorded_sentence
from lib.config import to_dict
from lib.experiments import find
from lib.store import Record, Store


def test_recorded_runs_say_how_long_they_trained(tmp_path: Path) -> None:
    store = Store(tmp_path / "local", tmp_path / "published")
    name = "achilles.phase_diagram"
    assert recorded_sentence(name, store=store) == f"No run of {name} has a record yet."
    experiment = find(name)
    cells = experiment.cells("paper")
    for cell in cells[:2]:
        store.save(
            Record(name, experiment.protocol, to_dict(cell), experiment.readable(cell), "done",
                   {}, {"training_seconds": 30.0})
        )  # fmt: skip
    said = recorded_sentence(name, store=store)
    assert f"The 2 of {len(cells)} runs" in said and "1.0 minutes together" in said
    assert said.endswith(f"all take {len(cells) / 2:.0f}.")
