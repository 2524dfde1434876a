"""What the noise, stories and foundations chapters say is what the published records say: numbers
beside those of :mod:`tests.findings.test_noise` and :mod:`tests.findings.test_stories`.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lib import claims, page
from lib.analysis.noise_reference import published, recoveries
from lib.analysis.noise_third_party import ALSO_ENGLISH, looks_flipped
from lib.experiments import (
    find,
    mistakes,
    noise_audit,
    noise_bf16,
    noise_phases,
    noise_texts,
    scaling,
    stories,
)
from tests.findings.records import (
    EXPERTS,
    FORMS,
    MAMBAS,
    MEANINGS,
    from_scratch,
    noise_cells,
    noise_distances,
)


def more_in_a_mamba(values: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Of 3 seeds, in how many a noise has a larger value in Mamba-1 and Mamba-2 than in the
    Transformer; rows are (model, seed)."""
    others = values.loc["Transformer"]
    counts = [(values.loc[mamba] > others).sum() for mamba in MAMBAS]
    assert len(others) == 3
    return {noise: (int(counts[0][noise]), int(counts[1][noise])) for noise in values.columns}


def test_which_noise_is_kept_more_depends_on_the_measure() -> None:
    trace, never = noise_distances("trace"), noise_distances("control, phase 3")
    assert more_in_a_mamba(trace) == {
        "char_flip": (3, 2), "word_flip": (3, 3), "transliteration": (1, 1),
        "irrelevant": (0, 0), "counterfactual": (2, 3),
    }  # fmt: skip
    shares = more_in_a_mamba(trace / never)
    assert shares == {
        "char_flip": (3, 3), "word_flip": (3, 3), "transliteration": (3, 2),
        "irrelevant": (0, 1), "counterfactual": (2, 3),
    }  # fmt: skip
    assert sum(sum(shares[noise]) for noise in FORMS) == 17
    likelier = more_in_a_mamba(-noise_distances("phase 3"))
    assert likelier == {noise: (3, 3) for noise in [*FORMS, "irrelevant"]} | {
        "counterfactual": (0, 0)
    }
    assert set(likelier) == {*FORMS, *MEANINGS}


def test_how_many_matched_cells_have_run() -> None:
    cells = noise_phases.cells("matched")
    sizes = pd.Series([noise_phases.size_of(cell) for cell in cells]).value_counts()
    assert sizes.to_dict() == {"1M": 189, "5M": 63}
    assert len(noise_cells()) == len(page.records_of(noise_phases.NAME, "matched")) == 189


def of_answers() -> pd.DataFrame:
    frame = noise_audit.frame(page.records_of(noise_audit.NAME, "paper"))
    return frame.set_index("answers")


def test_the_audit_as_the_chapter_tells_it() -> None:
    frame = of_answers()
    before, after = frame.loc["finetuned"], frame.loc["unlearned"]
    assert (before["questions"], after["questions"]) == (449, 449)
    assert [round(float(row["content"]), 3) for row in (before, after)] == [0.241, 0.192]
    assert round(float(after["content_before_p"]), 2) == 0.04
    assert [round(float(row["their_flip"]), 3) for row in (before, after)] == [0.087, 0.076]
    assert round(float(after["their_flip_before_p"]), 2) == 0.46
    assert round(float(after["their_flip"] - after["their_flip_before"]), 3) == -0.011
    assert before["form_char_flip"] == 0 and round(float(after["form_char_flip"]), 3) == 0.02
    assert round(float(after["form_char_flip"]) * 449, 6) == 9
    assert round(float(after["form_char_flip_before_p"]), 3) == 0.004
    accuracy = [before["their_accuracy"], before["their_accuracy_echo"]]
    assert [round(float(share), 3) for share in accuracy] == [0.633, 0.65]
    assert round(float(before["their_accuracy_echo_p"]), 1) == 0.5


def test_the_rule_for_flipped_answers_is_the_one_that_pages_tell() -> None:
    assert {"a", "no", "saw"} == ALSO_ENGLISH
    assert looks_flipped(". It is so") and looks_flipped("He saw a cat")
    assert not looks_flipped("He has a cat") and not looks_flipped("b " * 10 + "a no")


def test_what_has_run_of_published_weights_and_learning_rates() -> None:
    found = {
        name: (len(page.records_of(name, "matched")), len(page.records_of(name, "paper")))
        for name in (noise_texts.NAMES[key] for key in ("130m", "1.4b", "transformers"))
    }
    assert found == {
        "noise.mamba_130m": (1, 0), "noise.mamba_1_4b": (0, 0),
        "noise.against_transformers": (0, 0),
    }  # fmt: skip
    assert len(find("noise.against_transformers").cells("paper")) == 20
    assert len(page.records_of(stories.RATES_NAME, "matched")) == 0
    assert len(find(stories.RATES_NAME).cells("matched")) == 8


def test_the_authors_questions_are_answered_no_better_than_by_chance() -> None:
    frame = find(noise_texts.NAMES["form"]).frame(page.records_of("noise.form", "matched"))
    before = frame.groupby(["model", "noise"])["content_clean"].mean()
    chance = float(of_answers().loc["shuffled", "content"])
    assert len(before) == 18 and (before <= chance + 1e-3).all()


def test_claims_of_the_larger_mamba_are_its_printed_numbers(root: Path) -> None:
    chapter = [claim for claim in claims.load_claims(root) if claim.chapter == "noise"]
    again = {claim.id.split(".")[-1]: claim for claim in chapter if claim.id.endswith("-again")}
    printed = recoveries(root).set_index(["model", "noise"])["change"].loc["Mamba 1.4B"]
    assert (printed > 0).all()
    assert (printed.idxmin(), printed.idxmax()) == ("transliteration", "counterfactual")
    assert (round(printed.min(), 3), round(printed.max(), 3)) == (0.004, 0.098)
    assert len(again) == len(printed) == 4
    for noise, change in printed.items():
        claim = again[f"{str(noise).replace('_', '-')}-again"]
        assert claim.experiment == "noise.mamba_1_4b" and claim.select["noise"] == noise
        assert claim.metric == "their_accuracy_again" and claim.minus == "their_accuracy_clean"
        assert claim.value == pytest.approx(change) and claim.tolerance == 0.045
        assert claim.rule == ("within" if noise == "transliteration" else "at least")
        assert claim.rule == "within" or claim.value > claim.tolerance  # a gain is tested
    table = published(root).set_index(["model", "noise", "phase"])["value"].loc["Mamba 1.4B"]
    text = {id: claim.statement for id, claim in again.items()}
    for noise in ("word_flip", "transliteration", "counterfactual"):
        number = f"{100 * table[noise, 'again']:.1f}"
        assert number in text[f"{noise.replace('_', '-')}-again"]
    assert all(claim.minus for claim in chapter if "than before" in claim.statement)


def test_bf16_how_much_float32_loses() -> None:
    frame = noise_cells(noise_bf16.NAME)
    rows = frame[(frame["rate"] == 1e-5) & (frame["weights"] == "float32")].set_index("seed")
    lost = 1 - rows["content_noisy"] / rows["content_clean"]
    assert len(lost) == 3
    assert (lost.min(), lost.max()) == pytest.approx((1 / 8, 1 / 2), abs=0.01)


def test_what_went_wrong_in_numbers() -> None:
    frame = find(mistakes.NAME).frame(page.records_of(mistakes.NAME, "matched"))
    keys = ["mistake", "made", "seed"]
    rows = frame.set_index(keys).sort_index()
    padding = rows.loc["padding", True]
    lower = 1 - padding["reported_loss"] / padding["true_loss"]
    assert lower.round(2).tolist() == [0.22] * 3
    assert (1 - padding["text_share"]).round(2).tolist() == [0.22] * 3
    loss = rows.loc["experts", "true_loss"].unstack("made")
    assert (loss[True] - loss[False]).round(2).tolist() == [0.08, 0.06, 0.06]


def test_reading_is_proportional_from_some_length_on() -> None:
    frame = find(scaling.NAME).frame(page.records_of(scaling.NAME, "matched"))
    gpu = frame[frame["device"] == "cuda"]
    exponents = gpu.pivot_table(index="length", columns="model", values="exponent_prefill_ms")
    for model, start in (("Mamba-1", 4096), ("Mamba-2", 16384)):  # doubling from there on
        near = (exponents[model] - 1).abs() < 0.1
        assert near[exponents.index > start].all() and not near[start]
    times = scaling.by_length(gpu, "prefill_ms").pivot(
        index="length", columns="model", values="value"
    )
    assert times.loc[[512, 4096], "Mamba-1"].round().tolist() == [27, 31]
    assert times.loc[16384, "Mamba-2"] / times.loc[512, "Mamba-2"] < 1.6


def test_from_scratch_seeds_of_models_with_attention_lie_apart() -> None:
    last = from_scratch("final_valid_bits_per_byte").loc["stories"]
    apart = last.max() - last.min()
    assert (round(apart["Transformer"], 3), round(apart[EXPERTS], 3)) == (0.029, 0.018)
    assert (apart[MAMBAS] < 0.01).all()
    means = last.mean()
    assert round(means.max() - means.min(), 3) == 0.026


def test_from_scratch_what_the_models_spend() -> None:
    curves = stories.curves(page.records_of(stories.NAME, "matched"))
    work = curves.groupby(["size", "text", "model"])["petaflops"].max().unstack()
    share = (work[EXPERTS] / work["Transformer"]).round(2)
    assert (share[5, "local"], share[5, "stories"]) == (0.57, 0.49)
    ours = work.loc[(16, "stories")]
    assert ours[["Mamba-2", "Transformer"]].round(2).tolist() == [8.84, 7.43]
    assert round(ours["Mamba-2"] / ours["Transformer"], 2) == 1.19


def test_the_scan_of_a_single_prompt_is_ahead() -> None:
    records = page.records_of("foundations.bench_scan", "paper")
    (prompt,) = (record for record in records if record.config["length"] == 65_536)
    names = [f"ratio.mamba_ssm{end}" for end in ("", ".low", ".high")]
    assert [round(prompt.metrics[name], 3) for name in names] == [1.084, 1.083, 1.087]
    for name in ("batch", "d_inner", "d_state", "dtype"):  # change with the length
        assert len({record.config[name] for record in records}) > 1
