"""What tests of pages read: published records as frames, by chapter."""

from __future__ import annotations

import pandas as pd

from lib import page
from lib.experiments import find, memory, noise_phases, stories


def frame_of(name: str) -> pd.DataFrame:
    return find(name).frame(page.records_of(name, "paper"))


def of_variant(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    rows = frame[frame["variant"].isin(names)]
    assert len(rows) == 3 * len(names), f"{names}: {len(rows)} runs"
    return rows


def noise_cells(name: str = noise_phases.NAME) -> pd.DataFrame:
    frame = find(name).frame(page.records_of(name, "matched"))
    return frame[frame["size"] == "1M"]


def on_all_facts() -> pd.DataFrame:
    return noise_phases.on_all_facts(noise_cells(), "1M")


def by_seed(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows (model, seed), a column a noise; for noise on all facts."""
    whole = noise_phases.on_all_facts(frame, "1M")
    assert len(whole) == 3 * 3 * 6  # architectures, seeds, noises and the control
    return whole.pivot_table(index=["model", "seed"], columns="noise", values=column)


FORMS, MEANINGS = ["char_flip", "word_flip", "transliteration"], ["irrelevant", "counterfactual"]


def noise_distances(column: str) -> pd.DataFrame:
    """Rows (model, seed), a column a noise, in nats a token."""
    distances = noise_phases.distances(on_all_facts())
    assert len(distances) == 3 * 3 * 5
    return distances.pivot_table(index=["model", "seed"], columns="noise", values=column)


def from_scratch(column: str) -> pd.DataFrame:
    """Of the 5M models: rows (text, seed), a column a model."""
    frame = find(stories.NAME).frame(page.records_of(stories.NAME, "matched"))
    five = frame[frame["parameters"] < 6e6]
    assert len(five) == 2 * 3 * 4
    return five.pivot_table(index=["text", "seed"], columns="model", values=column)


MAMBAS, EXPERTS = ["Mamba-1", "Mamba-2"], "mixture of experts"


def made_up(parameters: float) -> pd.DataFrame:
    """The decoders of one model on made-up text, all seeds."""
    frame = find(memory.NAME).frame(page.records_of(memory.NAME, "matched"))
    return frame[(frame["corpus"] == "kinds") & ((frame["parameters"] / parameters).round() == 1)]


def of_size(parameters: float) -> pd.DataFrame:
    """A row a length: those of the first seed, the only one but of 5M parameters."""
    rows = made_up(parameters)
    assert parameters == 5e6 or (rows["seed"] == 1).all()
    return rows[rows["seed"] == 1].set_index("length").sort_index()


def three_seeds() -> pd.DataFrame:
    """A row a length and seed: the decoders of 5M parameters that have run with three seeds."""
    rows = made_up(5e6).set_index(["length", "seed"]).sort_index().loc[64:]
    assert list(rows.index) == [(n, seed) for n in (64, 128, 256) for seed in (1, 2, 3)]
    return rows


KINDS_OF_TEXT = ["code", "dialogue", "mathematics", "prose", "reference"]
