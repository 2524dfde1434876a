"""What published runs say of their own time, beside what benchmarks measure."""

from __future__ import annotations

from lib import provenance, sessions
from lib.experiments import cells_of, find
from lib.store import Store


def recorded_sentence(experiment: str, profile: str = "paper", store: Store | None = None) -> str:
    """What the published runs of an experiment say of their own time, as one sentence."""
    found = find(experiment)
    store = store or Store.at(provenance.ROOT)
    cells = cells_of(found, profile)
    records = store.records(found.name, found.protocol, cells)
    kept = [
        record.provenance
        for record in records
        if record is not None and "training_seconds" in record.provenance
    ]
    times = [sessions.training_seconds(facts) / 60 for facts in kept]
    resumed = sum(sessions.certainty([facts]) == sessions.ABOUT for facts in kept)
    if not times:
        return f"No run of {experiment} has a record yet."
    lowest = sessions.AT_LEAST if sessions.certainty(kept) == sessions.AT_LEAST else ""
    said = "" if not resumed else (
        f" ({resumed} resumed; the time before that is counted at the pace after it)"
    )  # fmt: skip
    if len(kept) < len(cells):
        said += f"; at that pace all take {sum(times) * len(cells) / len(times):.0f}"
    return (
        f"The {len(times)} of {len(cells)} runs of {experiment} that have a record trained for "
        f"{lowest}{sum(times):.1f} minutes together, evaluations included{said}."
    )
