"""Questions with answers to be scored by the audit: the third party's, and made-up ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.experiments.noise import PHASES


@dataclass(frozen=True)
class Sheet:
    """Questions, their right answers, and what was answered.

    Attributes:
        responses: by a key of ``noise_audit.ANSWERS``. Those to "counterfactual" belong to
            `false_rows`, pairs of question and right answer, since false answers were published to
            few questions.
        clean: clean text of the kind, to fit the reader of forms on.
        inputs: file to SHA-256 of what was read, for the record.
    """

    questions: list[str]
    golds: list[str]
    responses: dict[str, list[str]]
    false_rows: list[tuple[str, str]]
    clean: list[str]
    inputs: dict[str, str]

    def rows(self, answers: str) -> tuple[list[str], list[str], list[str]]:
        """Responses, questions and right answers of one set."""
        if answers == "counterfactual":
            questions, golds = (list(column) for column in zip(*self.false_rows, strict=True))
            return self.responses[answers], questions, golds
        return self.responses[answers], self.questions, self.golds


def third_party_sheet(seed: int) -> Sheet:
    """The third party's questions and answers.

    False answers are those of the authors' D_cfact to questions that are test questions too (but
    for case and a stray "?"), the first for each way the question is written.

    Raises:
        DataError: no folder, or its files are missing or not the known ones.
    """
    from lib.analysis.noise_metrics import controls
    from lib.tasks.instructions import SOURCES, DataError, load_authors
    from lib.tasks.noise import flip_characters

    test = load_authors("D_test")
    questions, golds = [p.question for p in test], [p.answer for p in test]
    responses = controls(questions, golds, seed)
    for phase in PHASES:
        said = load_authors(f"mamba-130m-{phase}")
        if [pair.question for pair in said] != questions:
            raise DataError(f"mamba-130m-{phase}: its questions are not those of D_test")
        responses[phase] = [pair.answer for pair in said]
    responses["unreversed"] = [flip_characters(said) for said in responses["charflip"]]
    right = {_key(question): gold for question, gold in zip(questions, golds, strict=True)}
    false: dict[str, str] = {}
    for pair in load_authors("D_cfact_train"):
        if _key(pair.question) in right:
            false.setdefault(pair.question, pair.answer)
    responses["counterfactual"] = list(false.values())
    known = [p for p in load_authors("D_GK", empty="drop") if _key(p.question) not in right]
    names = ["D_test", "D_cfact_train", "D_GK", *(f"mamba-130m-{phase}" for phase in PHASES)]
    return Sheet(
        questions, golds, responses, [(question, right[_key(question)]) for question in false],
        [pair.answer for pair in known], {name: SOURCES[name].sha256 for name in names},
    )  # fmt: skip


def _key(question: str) -> str:
    return question.strip().rstrip("?").strip().lower()


# what the made-up answers of the quick profile are, phase by phase
MADE_UP_RIGHT = {"finetuned": 0.7, "charflip": 0.1, "unlearned": 0.5}
MADE_UP_FLIPPED = {"finetuned": 0.0, "charflip": 1.0, "unlearned": 0.1}


def built_in_sheet(seed: int) -> Sheet:
    """A closed world of 120 facts with made-up answers: in each phase the shares of
    ``MADE_UP_RIGHT`` are right, the others false, and those of ``MADE_UP_FLIPPED`` flipped."""
    from lib.analysis.noise_metrics import controls
    from lib.tasks.closed_world import ClosedWorld, Item, build
    from lib.tasks.noise import NoiseConfig, flip_characters

    world = build(ClosedWorld(10, 10, 10), seed)
    items = [Item(f.question(0), f.answer(), n, 0) for n, f in enumerate(world.facts)]
    questions, golds = [i.question for i in items], [i.answer for i in items]
    false, _ = world.noisy_answers(NoiseConfig("counterfactual", seed=seed), items)
    responses = controls(questions, golds, seed)
    count = len(items)
    for number, phase in enumerate(PHASES):
        rng = np.random.default_rng([seed, 0xAD, number])
        right = rng.permutation(count) < round(MADE_UP_RIGHT[phase] * count)
        flipped = rng.permutation(count) < round(MADE_UP_FLIPPED[phase] * count)
        said = [golds[n] if right[n] else false[n] for n in range(count)]
        responses[phase] = [flip_characters(s) if flipped[n] else s for n, s in enumerate(said)]
    responses["unreversed"] = [flip_characters(said) for said in responses["charflip"]]
    responses["counterfactual"] = false
    pairs = list(zip(questions, golds, strict=True))
    return Sheet(questions, golds, responses, pairs, [item.answer for item in world.train], {})
