"""Questions and answers for models that read text: the authors' data, and a closed world for tests.

``D_ad`` is the paper's training set, rebuilt from its sources (AlpaGasus's 9k of the hub and
Dolly's 3k), since the file itself is not in every copy of the authors' repository; its order is
not theirs, and of our own split 80 % are trained, as there. The counterfactual arm has data of its
own, clean and false. ``D_ch`` is a smaller clean set of the authors.

Some questions of the test are in the training sets, 50 of 449 in those of the counterfactual arm.
The paper and the third party trained on them; our own cells do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.tasks.closed_world import ClosedWorld, build
from lib.tasks.instructions import SOURCES, load_authors, load_hub
from lib.tasks.noise import NOISES, NONE, NoiseConfig, make_noisy
from lib.tasks.prompts import Pair, to_template, without_label

SETS = ("D_ad", "D_ch", "built_in")
TRAINED = 0.8  # of a set, as in the authors' split
LABEL = "Output:"  # stands before answers and is not flipped


@dataclass(frozen=True)
class Material:
    """What is trained and asked.

    Attributes:
        prompts: of the training rows, by phase ("clean", "noisy", "again"). answers: likewise.
        asked: prompts of the test. questions, golds: the test's questions and right answers, bare.
        clean: clean answers, for the reader of forms.
        inputs: name to SHA-256 of the files that were read.
    """

    prompts: dict[str, list[str]]
    answers: dict[str, list[str]]
    asked: list[str]
    questions: list[str]
    golds: list[str]
    clean: list[str]
    inputs: dict[str, str]


def open_material(
    name: str, noise: str, samples: int | None, seed: int, as_published: bool = False
) -> Material:
    """The material of a study.

    Args:
        name: one of SETS. noise: a key of NOISES, or "none".
        samples: phase 2 has so many rows alone; None for all.
        as_published: questions of the test stay among the trained ones, and of every set 80 % are
            trained, clean and false answers split apart. Else no question of the test is trained,
            and of D_ad alone a part is left out.

    Raises:
        ValueError: another name, or too few rows for `samples`.
        DataError: the data are not on this machine.
    """
    if name not in SETS:
        raise ValueError(f"data is {name!r}, allowed: {', '.join(SETS)}")
    if noise == "counterfactual" and name != "built_in":
        clean, noisy, inputs = _counterfactual(seed, as_published)
    elif name == "built_in":
        return _built_in(noise, samples, seed)
    else:
        make = _d_ad if name == "D_ad" else _d_ch
        clean, inputs = make(seed, as_published)
        noisy = _with_noise(clean, noise, seed)
    test = load_authors("D_test")
    inputs["D_test"] = SOURCES["D_test"].sha256
    return _material(clean, noisy, test, samples, inputs)


def _material(
    clean: Sequence[Pair], noisy: Sequence[Pair], test: Sequence[Pair], samples: int | None,
    inputs: dict[str, str],
) -> Material:  # fmt: skip
    if samples is not None:
        if not 1 <= samples <= len(noisy):
            raise ValueError(f"samples is {samples}, allowed: 1..{len(noisy)}")
        noisy = noisy[:samples]
    rows = {"clean": clean, "noisy": noisy, "again": clean}
    return Material(
        {phase: [f"{pair.question}{LABEL}" for pair in pairs] for phase, pairs in rows.items()},
        {phase: [f" {pair.answer}" for pair in pairs] for phase, pairs in rows.items()},
        [f"{to_template(pair.question)}{LABEL}" for pair in test],
        [pair.question for pair in test],
        [pair.answer for pair in test],
        [pair.answer for pair in clean],
        inputs,
    )


def _with_noise(clean: Sequence[Pair], noise: str, seed: int) -> list[Pair]:
    if noise == NONE:
        return list(clean)
    noisy, _ = make_noisy(NoiseConfig(noise, seed=seed), [pair.answer for pair in clean])
    return [Pair(pair.question, said) for pair, said in zip(clean, noisy, strict=True)]


def _bare(pairs: Sequence[Pair]) -> list[Pair]:
    """Rows with one template and no labels in the answers, those that are empty left out."""
    made = [Pair(without_label(p.question), without_label(p.answer)) for p in pairs]
    return [Pair(to_template(p.question), p.answer) for p in made if p.question and p.answer]


def _without_test(pairs: Sequence[Pair]) -> list[Pair]:
    """`pairs` without questions of the test set, but for case and a stray question mark."""
    known = {_key(pair.question) for pair in load_authors("D_test")}
    return [pair for pair in pairs if _key(without_label(pair.question)) not in known]


def _key(question: str) -> str:
    return question.strip().rstrip("?").strip().lower()


def _d_ad(seed: int, as_published: bool) -> tuple[list[Pair], dict[str, str]]:
    from lib.tasks.instructions import HUB

    rows = [*load_hub("alpagasus", empty="drop"), *load_authors("dolly_3k", empty="drop")]
    kept = _split(rows if as_published else _without_test(rows), seed)
    return kept, {"alpagasus": HUB["alpagasus"][3], "dolly_3k": SOURCES["dolly_3k"].sha256}


def _d_ch(seed: int, as_published: bool) -> tuple[list[Pair], dict[str, str]]:
    rows = _of_set("D_ch_train", seed, as_published)
    return rows, {"D_ch_train": SOURCES["D_ch_train"].sha256}


def _counterfactual(seed: int, as_published: bool) -> tuple[list[Pair], list[Pair], dict[str, str]]:
    names = ("D_GK", "D_cfact_train")
    clean, false = (_of_set(name, seed, as_published) for name in names)
    return clean, false, {name: SOURCES[name].sha256 for name in names}


def _of_set(name: str, seed: int, as_published: bool) -> list[Pair]:
    """The trained rows of one of the authors' sets."""
    rows = load_authors(name, empty="drop")
    return _split(_bare(rows), seed) if as_published else _bare(_without_test(rows))


def _split(rows: Sequence[Pair], seed: int) -> list[Pair]:
    """The part of `rows` that is trained, in an order drawn with `seed`."""
    order = np.random.default_rng([seed, 0xAD]).permutation(len(rows))
    return [rows[n] for n in order[: round(TRAINED * len(rows))].tolist()]


def _built_in(noise: str, samples: int | None, seed: int) -> Material:
    world = build(ClosedWorld(6, 6, 6, attributes=1), seed)
    answers = [item.answer for item in world.train]
    if noise != NONE:
        answers, _ = world.noisy_answers(NoiseConfig(noise, seed=seed), world.train)
    clean = [Pair(to_template(item.question), item.answer) for item in world.train]
    noisy = [Pair(pair.question, said) for pair, said in zip(clean, answers, strict=True)]
    test = [Pair(item.question, item.answer) for item in world.test]
    return _material(clean, noisy, test, samples, {})


def in_context_test(noise: str) -> list[str] | None:
    """The authors' prompts with five noisy examples, for the three noises that have some."""
    names = {"char_flip": "D_ctest", "word_flip": "D_wtest", "transliteration": "D_xlittest"}
    if noise not in names:
        return None
    return [pair.question for pair in load_authors(names[noise])]


def check_noise(noise: str) -> bool:
    """Whether there is such a noise, or it is "none"."""
    return noise == NONE or noise in NOISES
