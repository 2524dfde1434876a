"""The memory chapter says what its records say: reconstruction and unrelated text."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

from lib import page
from lib.analysis.forgetting import rouge_words
from lib.experiments import find, memory, memory_training, memory_unrelated
from tests.findings.records import KINDS_OF_TEXT, made_up, of_size, three_seeds


def test_unrelated_text_does_what_the_memory_pages_say() -> None:
    """Numbers of claims' notes too, rounded as they are there."""
    frame = memory_unrelated.frame(page.records_of(memory_unrelated.NAME, "matched"))
    assert len(frame) == 21
    chance = frame.drop(columns=["corpus", "status"]).groupby("length").mean()
    decoders = memory.frame(page.records_of(memory.NAME, "matched"))
    decoders = decoders[decoders["model"] == "mamba1-20x192-kinds"]
    own = decoders.drop(columns=["model", "corpus", "status"]).groupby("length").mean()
    share = own["omission"] / chance["omission"]
    assert share[64] == pytest.approx(0.5, abs=0.05) and share[128] == pytest.approx(0.75, abs=0.05)
    assert share[256] == pytest.approx(1, abs=0.02)  # and prose is lost even more
    assert own.loc[256, "omission_prose"] > chance.loc[256, "omission_prose"]
    within = chance["rho_frequency_within"]
    for model in ("mamba1-20x192-kinds", "mamba1-17x128-kinds"):
        table = memory.frame(page.records_of(memory.NAME, "matched"))
        rows = table[table["model"] == model].groupby("length")["rho_frequency_within"].mean()
        assert (within[rows.dropna().index] < rows.dropna()).all()
    long = chance.loc[[64, 128, 256]]
    assert long["rho_frequency"].round(2).agg(["min", "max"]).tolist() == [-0.58, -0.55]
    assert long["rho_frequency_within"].round(2).agg(["min", "max"]).tolist() == [-0.55, -0.52]
    slope = long["omission_first_quarter"] - long["omission_last_quarter"]
    assert slope.round(2).agg(["min", "max"]).tolist() == [-0.19, -0.14]
    even = long["omission_first_quarter_even"] - long["omission_last_quarter_even"]
    assert even.abs().max() < 0.005
    theirs = (own["omission_first_quarter"] - own["omission_last_quarter"]).loc[long.index]
    assert (theirs > slope).all()
    two = of_size(2e6)
    two = (two["omission_first_quarter"] - two["omission_last_quarter"]).loc[long.index]
    assert (two > slope).all()
    # claims on words: what leads in an unrelated text, draw by draw
    drawn = frame[frame["length"] >= 64]
    numbers = (drawn["omission_pos_NUM"] - drawn["omission_pos_most"]).groupby(drawn["length"])
    assert numbers.mean().round(2).agg(["min", "max"]).tolist() == [-0.06, -0.03]
    assert numbers.max().max() < 0
    places, groups = drawn["omission_entity_Location"], drawn["omission_entity_Organization"]
    assert (places == drawn["omission_entity_most"]).all() and (groups < places).all()
    assert groups.round(2).between(0.97, 0.98).all() and (places > 0.99).all()
    # a state of zeros is no measure of habit
    every = memory.frame(page.records_of(memory.NAME, "matched"))
    for model in ("mamba1-20x192-kinds", "mamba1-17x128-kinds"):
        zero = every[every["model"] == model].set_index("length")["zero_omission"]
        assert (zero > chance["omission"].loc[zero.index]).all()
    kinds = ("prose", "code", "mathematics", "dialogue", "reference")
    lost = chance[[f"omission_{kind}" for kind in kinds]]
    assert (lost.idxmax(axis=1) == "omission_prose").all()
    for kind, ends in (("mathematics", [-0.3, -0.24]), ("code", [-0.27, -0.26])):
        less = long[f"omission_{kind}"] - long["omission_prose"]
        assert less.round(2).agg(["min", "max"]).tolist() == ends
    classes = chance.filter(regex="^omission_pos_[A-Z]+$").loc[8:]
    for _, row in classes.iterrows():
        assert {c.rsplit("_", 1)[1] for c in row.nlargest(3).index} == {"NOUN", "ADJ", "NUM"}


def test_the_state_still_holds_something_of_256_tokens() -> None:
    """Though omission tells no decoder from another text of the same kind there."""
    chance = memory_unrelated.frame(page.records_of(memory_unrelated.NAME, "matched"))
    chance = chance[chance["length"] == 256]
    own = three_seeds().loc[256]
    assert len(own) == len(chance) == 3
    for name, ours, theirs in (("token_accuracy", 0.035, 0.024), ("rougeL", 0.27, 0.22)):
        assert own[name].min() > chance[name].max()
        found = (own[name].mean(), chance[name].mean())
        assert found == pytest.approx((ours, theirs), abs=0.5 * 10 ** -len(str(ours)[2:]))
    assert (own["omission"] < own["shuffled_omission"] - 0.07).all()
    assert (
        round(own["shuffled_omission"].mean(), 2) == 0.58
        and round(own["omission"].mean(), 2) == 0.49
    )
    # answers kept as text: words shared with their own chunk and with the other one of its kind
    table = memory.tables(page.records_of(memory.NAME, "matched"), "example")
    table = table[(table["length"] == 256) & (table["model"] == "mamba1-20x192-kinds")]
    shares = []
    for _, pair in table.groupby(["seed", "group"]):
        chunks, answers = (
            [Counter(rouge_words(text.replace("\x1f", ""))) for text in pair[column]]
            for column in ("text", "written")
        )
        for chunk, other, answer in zip(chunks, chunks[::-1], answers, strict=True):
            shares.append([(one & answer).total() / one.total() for one in (chunk, other)])
    found = pd.DataFrame(shares, columns=["own", "other"])
    assert len(found) == 30 and (found["own"] > found["other"]).sum() == 26
    assert found.mean().round(2).tolist() == [0.34, 0.23]


def test_reconstruction_of_three_seeds() -> None:
    rows = three_seeds()
    kept = rows["token_accuracy"]
    assert kept[64].to_numpy() == pytest.approx(1 / 3, abs=0.04) and (kept.loc[128:] < 0.1).all()
    numbers = rows["omission_pos_NUM"] - rows["omission_pos_most"]
    assert (numbers[128] > 0).all() and (numbers[256] < 0).all() and (numbers[64] > 0).sum() == 1
    most = rows.loc[256, ["omission_pos_ADJ", "omission_pos_CONJ"]]
    assert (most.max(axis=1) == rows.loc[256, "omission_pos_most"]).all()
    assert (rows["standardised_pos_NUM"] < rows["standardised_pos_most"]).all()
    assert (rows["omission_entity_Organization"] < rows["omission_entity_most"]).all()
    assert rows["omission_entity_Organization"].between(0.955, 0.975).all()
    assert rows["omission_entity_Location"].between(0.955, 1).all()
    assert (
        of_size(5e6).loc[16, "omission_entity_Organization"]
        > 1.4 * of_size(5e6).loc[16, "omission_entity_most"]
    )
    by_kind = rows[[f"omission_{kind}" for kind in KINDS_OF_TEXT]]
    assert (by_kind.idxmax(axis=1) == "omission_prose").all()
    assert (by_kind["omission_mathematics"] < by_kind["omission_prose"] / 2).all()
    early = rows["omission_first_quarter"] - rows["omission_last_quarter"]
    assert early[64].between(0.01, 0.03).all() and (early.loc[128:] < -0.03).all()


def test_reconstruction_rare_tokens_and_hard_chunks_are_lost() -> None:
    rows = pd.concat([made_up(5e6), made_up(2e6)])
    rows = rows[rows["length"] >= 16]
    assert (rows[["rho_frequency", "rho_frequency_within"]] < -0.25).all(axis=None)
    assert (rows["rho_perplexity"] > 0.5).all()
    assert "rho_perplexity_within" not in rows  # the pages say that it has not been measured
    kinds = three_seeds().loc[64, [f"omission_{kind}" for kind in KINDS_OF_TEXT]].mean()
    assert round(kinds.min(), 2) == round(kinds["omission_code"], 2) == 0.16
    assert round(kinds.max(), 2) == round(kinds["omission_prose"], 2) == 0.57


def test_reconstruction_what_came_back_so_far() -> None:
    middle, large, small = of_size(2e6), of_size(5e6), of_size(3e5)
    assert list(middle.index) == [4, 8, 16, 32, 64, 128, 256]
    assert list(large.index) == [4, 8, 16, 64, 128, 256]
    assert large.loc[64, "token_accuracy"] == pytest.approx(0.36, abs=0.02)
    assert (large.loc[128:, "token_accuracy"] < 0.1).all()
    kept = middle["token_accuracy"]
    assert (kept.loc[:8] > 0.99).all() and kept[32] == pytest.approx(2 / 3, abs=0.02)
    assert kept[64] == pytest.approx(1 / 4, abs=0.02) and (kept.loc[128:] < 0.05).all()
    assert list(small.index) == [8, 16, 32, 64]
    # two sizes, by both measures and seed by seed
    for length, seeds in ((8, 1), (16, 1), (64, 3), (128, 3)):
        larger, smaller = made_up(5e6), middle.loc[length]
        larger = larger[larger["length"] == length]
        assert len(larger) == seeds
        assert (larger["token_accuracy"] > smaller["token_accuracy"]).all()
        assert (larger["omission"] < smaller["omission"]).all()
    assert middle.loc[4, "omission"] == large.loc[4, "omission"] == 0
    longest = three_seeds().loc[256, "omission"]
    assert longest.min() < middle.loc[256, "omission"] < longest.max()
    assert not len(made_up(16e6))


def test_reconstruction_decoders_of_32_tokens_are_not_at_their_end() -> None:
    table = find(memory_training.NAME).frame(page.records_of(memory_training.NAME, "matched"))
    rows = table[(table["length"] == 32) & (table["steps"] == 1000)]
    by_batch = rows[rows["rate"] == 1e-2].set_index("tokens")["token_accuracy"].sort_index()
    by_rate = rows[rows["tokens"] == 16_384].set_index("rate")["token_accuracy"].sort_index()
    assert len(by_batch) == 3 and by_batch.is_monotonic_increasing
    assert len(by_rate) == 4 and by_rate.is_monotonic_increasing
    kept = of_size(2e6).loc[32, "token_accuracy"]
    assert by_rate.iloc[-1] < kept and (round(by_rate[1e-2], 2), round(kept, 2)) == (0.53, 0.67)
    # nothing but 32 tokens and fewer steps than the chapter's has run
    assert set(table["length"]) == {32} and table["steps"].max() < memory.DECODER_STEPS
    curves = memory.tables(page.records_of(memory.NAME, "matched"), "training")
    last = curves[(curves["length"] <= 8) & (curves["parameters"] > 1e6)].sort_values("step")
    last = last.groupby(["model", "length"]).last()
    assert (
        len(last) == 4
        and (last["test_loss"] < 0.01).all()
        and (last["test_accuracy"] > 0.997).all()
    )


def test_reconstruction_places_words_and_kinds_of_text_so_far() -> None:
    rows = of_size(2e6)
    early = rows["omission_first_quarter"] - rows["omission_last_quarter"]
    assert (early.loc[8:32] > 0.03).sum() == 2 and early[8] > 0 and early[4] == 0
    assert abs(early[64]) < 0.01 and (early.loc[128:] < -0.05).all()
    numbers = rows["omission_pos_NUM"] - rows["omission_pos_most"]
    assert list(numbers.index[numbers > 0]) == [64, 128]
    assert (rows.loc[8:32, "omission_pos_NOUN"] == rows.loc[8:32, "omission_pos_most"]).all()
    assert (rows["standardised_pos_NUM"] <= rows["standardised_pos_most"]).all()
    names = rows["omission_entity_Organization"] - rows["omission_entity_most"]
    assert list(names.index[names > 0]) == [16]
    five = of_size(5e6)
    assert (
        five.loc[[8, 16], "omission_first_quarter"] > five.loc[[8, 16], "omission_last_quarter"]
    ).all()
    for some in (rows, five, three_seeds()):
        place = some[[f"omission_{kind}" for kind in KINDS_OF_TEXT]].rank(axis=1)
        tokens = place.index.get_level_values("length")
        short, long = (tokens >= 16) & (tokens <= 64), tokens >= 128
        assert (place.loc[short, ["omission_code", "omission_mathematics"]] == [1, 2]).all(
            axis=None
        )
        assert (place.loc[long, "omission_mathematics"] == 1).all()
    by_kind = rows.loc[8:, [f"omission_{kind}" for kind in KINDS_OF_TEXT]]
    assert (by_kind.idxmax(axis=1) == "omission_prose").all()
    assert (by_kind["omission_mathematics"] < by_kind["omission_prose"] / 2).all()
