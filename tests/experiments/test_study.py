"""What every study has in common, on a toy task: the answer is the sum of the first and the last
token."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from lib.analysis.composite import answers, last_token_loss
from lib.config import to_dict
from lib.experiments import Context, Outcome
from lib.experiments._training import Study, train_cells
from lib.locks import Holding
from lib.models.config import InitialisationConfig, LanguageModelConfig, Mamba2Config
from lib.models.language_model import LanguageModel, build_language_model
from lib.training import pace
from lib.training.checkpoints import CheckpointError, load_checkpoint
from lib.training.config import TrainingConfig
from lib.training.loop import Trainer

VOCABULARY = 11


@dataclasses.dataclass(frozen=True)
class Sum:
    length: int = 4
    rows: int = 36


@dataclasses.dataclass(frozen=True)
class Cell:
    task: Sum
    model: LanguageModelConfig
    training: TrainingConfig
    seed: int


@dataclasses.dataclass(frozen=True)
class Asked:
    tokens: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Asked:
        return Asked(self.tokens.to(device), self.labels.to(device))


def asked(task: Sum, seed: int, rows: int) -> Asked:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (rows, task.length), generator=generator)
    return Asked(tokens, (tokens[:, 0] + tokens[:, -1]) % VOCABULARY)


def stacked(tests: Sequence[Asked]) -> Asked:
    return Asked(*(torch.stack([getattr(t, n) for t in tests]) for n in ("tokens", "labels")))


class Toy:
    """A study that notes what it is asked for."""

    def __init__(self, keep: Any = lambda cell: True) -> None:
        self.calls: Counter[str] = Counter()
        self.built: list[int] = []
        self.stacks: list[int] = []
        self.inspected: list[tuple[Cell, dict[str, Tensor]]] = []
        self.study = Study(
            data=self.data, stacked=self.stacked, loss=last_token_loss, evaluate=self.evaluate,
            summarise=self.summarise, readable=lambda cell: f"sum-s{cell.seed}",
            final=self.final, inspect=self.inspect, keep_weights=keep,
        )  # fmt: skip

    def data(self, task: Sum, seed: int) -> tuple[tuple[Tensor, ...], Asked]:
        self.built.append(seed)
        train = asked(task, seed, task.rows)
        return (train.tokens, train.labels), asked(task, 1000 + seed, 20 + task.rows % 3)

    def stacked(self, tests: Sequence[Asked]) -> Asked:
        self.stacks.append(len(tests))
        return stacked(tests)

    def evaluate(self, model: nn.Module, test: Asked) -> dict[str, Tensor]:
        self.calls["evaluate"] += 1
        assert not model.training and not torch.is_grad_enabled()
        # a fingerprint of the test data: a run must never be measured on another's
        data = test.tokens.double().mean((-2, -1))
        return {"right": (answers(model, test.tokens) == test.labels).double().mean(-1), "d": data}

    def final(self, model: nn.Module, test: Asked) -> dict[str, Tensor]:
        self.calls["final"] += 1
        assert not model.training
        return {"final_right": (answers(model, test.tokens) == test.labels).double().mean(-1)}

    def summarise(self, curves: pd.DataFrame) -> dict[str, float | None]:
        last = curves.iloc[-1] if len(curves) else None
        return {name: None if last is None else float(last[name]) for name in ("right", "d")}

    def inspect(self, model: LanguageModel, cell: Cell) -> dict[str, float]:
        assert isinstance(model, LanguageModel) and not model.training
        self.inspected.append((cell, {k: v.clone() for k, v in model.state_dict().items()}))
        test = asked(cell.task, 1000 + cell.seed, 20 + cell.task.rows % 3)
        hits = answers(model, test.tokens) == test.labels
        return {"inspected_right": float(hits.double().mean())}


MODEL = LanguageModelConfig(
    VOCABULARY, 1, (Mamba2Config(8, d_state=4, headdim=16),), tie_embeddings=True,
    initialisation=InitialisationConfig(gamma=0.5),
)  # fmt: skip
TINY = Cell(
    Sum(), MODEL, TrainingConfig(epochs=4, warmup_epochs=1, batch_size=12, lr_peak=1e-2), seed=1
)


def cell(seed: int = 1, gamma: float = 0.5, **changes: Any) -> Cell:
    start = InitialisationConfig(gamma=gamma)
    model = dataclasses.replace(MODEL, initialisation=start, **changes.pop("model", {}))
    return dataclasses.replace(TINY, seed=seed, model=model, **changes)


MANY = [cell(1, 0.5), cell(2, 0.5), cell(1, 1.0)]


def train(cells: Sequence[Cell], toy: Toy | None = None, **options: Any) -> list[Outcome]:
    return list(train_cells(cells, Context(**options), (toy or Toy()).study))


def kept_in(folder: Path, **options: Any) -> dict[str, Any]:
    """Options of a context that keeps checkpoints."""
    identify = lambda cell: f"{cell.seed}g{cell.model.initialisation.gamma}"  # noqa: E731
    return {"checkpoints": folder, "identify": identify, **options}


def weights(outcome: Outcome, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    assert outcome.weights is not None
    path = folder / f"{len(list(folder.iterdir()))}.safetensors"
    path.write_bytes(outcome.weights)
    return load_checkpoint(path)


def alike(found: Outcome, expected: Outcome) -> None:
    assert (found.cell, found.status) == (expected.cell, expected.status)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-6)
    assert found.curves is not None and expected.curves is not None
    pd.testing.assert_frame_equal(found.curves, expected.curves, rtol=1e-4, atol=1e-6)


def test_a_run_alone_equals_its_slice_of_an_ensemble(tmp_path: Path) -> None:
    toy = Toy()
    together = train(MANY, toy)
    assert [o.facts["ensemble"]["runs"] for o in together] == [3, 3, 3]
    # what is called for: data once a seed, tests of all runs as one, all runs measured at once
    assert toy.built == [1, 2] and toy.stacks == [3]
    assert toy.calls == {"evaluate": 4, "final": 1}
    assert [c for c, _ in toy.inspected] == MANY
    for outcome, (_, inspected) in zip(together, toy.inspected, strict=True):
        single = Toy()
        (alone,) = train([outcome.cell], single)
        assert single.stacks == [] and single.calls == {"evaluate": 4, "final": 1}
        alike(outcome, alone)
        found, _ = weights(outcome, tmp_path)
        expected, facts = weights(alone, tmp_path)
        assert facts["config"] == to_dict(outcome.cell)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
            assert torch.equal(inspected[name], found[name])


def test_metrics_and_facts_of_a_finished_run(tmp_path: Path) -> None:
    (outcome,) = train([TINY])
    assert set(outcome.metrics) == {
        "right", "d", "n_parameters", "steps", "final_right", "inspected_right",
    }  # fmt: skip
    # three ways to count the same answers of the trained weights
    right = outcome.metrics["right"]
    assert right == outcome.metrics["final_right"] == outcome.metrics["inspected_right"]
    assert outcome.metrics["steps"] == 4 * 3 and outcome.curves is not None
    assert outcome.curves["step"].tolist() == [3, 6, 9, 12]
    embedding, d, conv = 11 * 8, 16, 16 + 2 * 4  # tied: the head has none of its own
    mixer = 8 * (2 * d + 2 * 4 + 1) + conv * 4 + conv + 3 + d + d * 8
    assert outcome.metrics["n_parameters"] == embedding + mixer + 8 + 8
    assert outcome.facts["compile"] is False and outcome.facts["peak_memory_bytes"] is None
    assert outcome.facts["dtype"] == "float32" and outcome.facts["training_seconds"] > 0
    (session,) = outcome.facts["sessions"]
    assert session["steps"] == 12 and session["device_name"]
    trained, _ = weights(outcome, tmp_path)
    start = build_language_model(TINY.model, seed=1).state_dict()
    assert all(not torch.equal(trained[name], start[name]) for name in trained)


def test_weights_are_kept_where_asked() -> None:
    kept = train(MANY, Toy(keep=lambda cell: cell.seed == 2))
    assert [o.weights is not None for o in kept] == [False, True, False]
    assert all("inspected_right" in o.metrics for o in kept)


def test_the_batch_size_leaves_a_last_smaller_batch_where_asked() -> None:
    ragged = dataclasses.replace(TINY, task=Sum(rows=40))
    whole = dataclasses.replace(ragged.training, drop_last=False)
    steps = {drop: train([dataclasses.replace(ragged, training=training)])[0].metrics["steps"]
             for drop, training in ((True, ragged.training), (False, whole))}  # fmt: skip
    assert steps == {True: 12, False: 16}


@pytest.mark.parametrize(
    "other",
    [
        cell(task=Sum(rows=48)),
        cell(task=Sum(length=5)),
        cell(model={"final_norm": False}),
        cell(model={"n_layers": 2}),
        cell(training=dataclasses.replace(TINY.training, lr_peak=5e-3)),
    ],
    ids=["rows", "length", "norm", "depth", "rate"],
)
def test_only_seed_and_initialisation_may_differ(other: Cell) -> None:
    second = dataclasses.replace(other, seed=2)
    found = train([MANY[0], other, MANY[2], second])
    assert [o.cell for o in found] == [MANY[0], MANY[2], other, second]
    assert [o.facts["ensemble"]["runs"] for o in found] == [2, 2, 2, 2]


def test_a_group_is_no_larger_than_asked() -> None:
    toy = Toy()
    cells = [cell(seed) for seed in range(1, 6)]
    found = train(cells, toy, ensemble=2)
    assert [o.cell for o in found] == cells
    assert [o.facts["ensemble"]["runs"] for o in found] == [1, 2, 2, 2, 2]
    assert toy.stacks == [2, 2] and toy.built == [1, 2, 3, 4, 5]


def test_groups_are_trained_when_they_are_asked_for() -> None:
    """A run that is broken off has given what was finished before."""
    toy = Toy()
    coming = train_cells([cell(1), cell(2)], Context(ensemble=1), toy.study)
    assert toy.built == []
    assert next(coming).status == "done" and toy.built == [1]
    assert [o.cell.seed for o in coming] == [2]


def test_the_budget_ends_the_group_and_starts_no_other() -> None:
    toy = Toy()
    found = train([*MANY, cell(task=Sum(rows=48))], toy, deadline=time.monotonic())
    assert [(o.cell, o.status) for o in found] == [(c, "stopped") for c in MANY]
    assert all(o.metrics == {} and o.weights is None and o.curves is None for o in found)
    assert toy.built == [1, 2] and toy.calls == {} and toy.inspected == []


def test_what_would_not_end_is_given_up_for_what_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a checkpoint, from which it goes on as if it had never stopped."""

    @dataclasses.dataclass
    class Ticks:
        now: float = 0.0

        def monotonic(self) -> float:  # each look, one a step, takes four seconds
            self.now += 4.0
            return self.now

    short = cell(training=dataclasses.replace(TINY.training, epochs=1))
    expected, ticks = train(MANY), Ticks()
    with monkeypatch.context() as patch:
        patch.setattr(pace, "time", ticks)
        patch.setattr(pace, "clock", lambda: ticks.now)
        patch.setattr(pace, "USEFUL", 0.0)
        patch.setattr("lib.experiments.time", ticks)
        found = train([*MANY, short], **kept_in(tmp_path), deadline=44.0, whole=True)
    assert [(o.cell, o.status) for o in found] == [(c, "stopped") for c in MANY] + [(short, "done")]
    for outcome in found[:3]:
        assert outcome.reason is not None and "given up at step 5 of 12: " in outcome.reason
    again = train(MANY, **kept_in(tmp_path))
    for one, other in zip(again, expected, strict=True):
        assert one.metrics == other.metrics and one.weights == other.weights
        assert [session["steps"] for session in one.facts["sessions"]] == [5, 7]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("cells", [MANY[:1], MANY], ids=["alone", "ensemble"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_and_resumed_is_uninterrupted(
    cells: list[Cell], epoch: int, tmp_path: Path
) -> None:
    whole = train(cells)

    class Breaking(Toy):
        def evaluate(self, model: nn.Module, test: Asked) -> dict[str, Tensor]:
            if self.calls["evaluate"] == epoch:  # within the epoch's end, before its checkpoint
                raise Interrupted
            return super().evaluate(model, test)

    options = kept_in(tmp_path)
    with pytest.raises(Interrupted):
        train(cells, Breaking(), **options, checkpoint_every=0.0)
    paths = sorted(tmp_path.glob("[!.]*.safetensors"))
    assert [load_checkpoint(p)[1]["step"] for p in paths] == [3 * epoch + 2] * len(cells)
    resumed = train(cells, **options)
    for found, expected in zip(resumed, whole, strict=True):
        assert found.cell == expected.cell and found.metrics == expected.metrics
        assert found.weights == expected.weights
        assert found.curves is not None and found.curves.equals(expected.curves)
        steps = [session["steps"] for session in found.facts["sessions"]]
        assert steps == [3 * epoch + 2, 12 - 3 * epoch - 2]


def test_runs_at_different_steps_are_not_stacked(tmp_path: Path) -> None:
    options = kept_in(tmp_path)
    train([MANY[1]], **options, deadline=time.monotonic())  # a checkpoint at step 0: as far as none
    found = train(MANY, **options)
    assert [o.facts["ensemble"]["runs"] for o in found] == [3, 3, 3]
    for path in tmp_path.iterdir():
        path.unlink()
    train([MANY[1]], **options, checkpoint_every=0.0)
    found = train(MANY, **options)
    assert [(o.cell, o.facts["ensemble"]["runs"]) for o in found] == [
        (MANY[0], 2), (MANY[2], 2), (MANY[1], 1),
    ]  # fmt: skip


def test_a_wrong_checkpoint_stops_everything_before_it_trains(tmp_path: Path) -> None:
    train([MANY[1]], **kept_in(tmp_path), deadline=time.monotonic())
    (path,) = tmp_path.iterdir()
    toy, options = Toy(), kept_in(tmp_path)
    stranger = path.read_bytes().replace(b"2g0.5", b"9g0.5")
    path.write_bytes(stranger)
    message = rf"checkpoint .*{path.name} belongs to cell 9g0.5, not to 2g0.5"
    with pytest.raises(CheckpointError, match=message):
        train(MANY, toy, **options)
    assert toy.built == [] and path.read_bytes() == stranger


def test_a_damaged_checkpoint_stops_nobody(tmp_path: Path) -> None:
    train([MANY[1]], **kept_in(tmp_path), deadline=time.monotonic())
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"")
    whole = train(MANY, Toy())
    with pytest.warns(UserWarning, match=rf"{path.name} cannot be read.*begins again"):
        found = train(MANY, Toy(), **kept_in(tmp_path))
    assert [o.status for o in found] == ["done"] * len(MANY)
    assert [o.metrics for o in found] == [o.metrics for o in whole]
    assert path.with_name(f"{path.name}.damaged").read_bytes() == b""


def test_a_run_that_fails_says_when_and_is_not_looked_into() -> None:
    wild = dataclasses.replace(TINY.training, lr_peak=1e30, clip_norm=None)
    toy = Toy()
    found = train([dataclasses.replace(c, training=wild) for c in MANY[:2]], toy)
    for outcome in found:
        assert outcome.status == "failed" and outcome.weights is None
        assert outcome.reason is not None
        assert outcome.reason.startswith("the loss was not finite at step ")
        assert set(outcome.metrics) == {"right", "d", "n_parameters", "steps"}
        assert outcome.facts["sessions"]
    assert toy.inspected == [] and toy.calls["final"] == 0


def test_a_failed_run_of_a_group_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(config: LanguageModelConfig, *, seed: int, **options: Any) -> LanguageModel:
        model = build_language_model(config, seed=seed, **options)
        if seed == 2:
            with torch.no_grad():
                model.layers[0].mixer.D.fill_(math.inf)
        return model

    monkeypatch.setattr("lib.models.language_model.build_language_model", poisoned)
    toy = Toy()
    found = train(MANY, toy)
    assert [o.status for o in found] == ["done", "failed", "done"]
    assert [c for c, _ in toy.inspected] == [MANY[0], MANY[2]] and toy.calls["final"] == 1
    assert found[1].metrics["right"] is None and "final_right" not in found[1].metrics
    for outcome in (found[0], found[2]):
        alike(outcome, train([outcome.cell])[0])


def test_time_is_shared_out() -> None:
    found = train(MANY)
    for outcome in found:
        assert outcome.started is not None and outcome.wall_seconds is not None
        whole = outcome.facts["ensemble"]["training_seconds"]
        assert outcome.facts["training_seconds"] == pytest.approx(whole / 3, abs=1e-3)
        # looking into it, and all that is built before, is part of its time
        assert outcome.wall_seconds >= outcome.facts["training_seconds"] - 1e-3


def test_groups_beside_each_other_share_the_time() -> None:
    """What they are said to have taken comes to no more than what passed."""
    cells = [cell(seed, model={"n_layers": layers}) for layers in (1, 2, 3) for seed in (1, 2)]
    begun = time.perf_counter()
    found = train(cells, ensemble=2, abreast=6)
    passed = time.perf_counter() - begun
    assert {o.facts["ensemble"]["abreast"] for o in found} == {3}
    assert all(o.facts["shared_time"] for o in found)
    assert sum(o.wall_seconds or math.inf for o in found) <= passed
    assert sum(o.facts["training_seconds"] for o in found) <= passed
    for outcome in found:
        (session,) = outcome.facts["sessions"]
        assert session["seconds"] == outcome.facts["training_seconds"] > 0
    assert not any("shared_time" in o.facts for o in train(cells[:2]))


def test_steps_are_looked_up_when_a_group_s_turn_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have taken a cell further since cells were put together."""
    deep = [cell(seed, model={"n_layers": 2}) for seed in (1, 2)]
    real = Trainer.turns

    def few(self: Trainer) -> Any:
        for number, awaited in enumerate(real(self)):
            yield awaited
            if number == 4:
                self.save()
                return

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "turns", few)
        (stopped,) = train(deep[:1], **kept_in(tmp_path / "other"))
    assert stopped.status == "stopped"

    class Late(Toy):
        def data(self, task: Sum, seed: int) -> tuple[tuple[Tensor, ...], Asked]:
            if not self.built:  # the first group is being made: those of the second are known
                shutil.copytree(tmp_path / "other", tmp_path / "kept")
            return super().data(task, seed)

    found = train([cell(), *deep], Late(), ensemble=2, **kept_in(tmp_path / "kept"))
    assert [o.status for o in found] == ["done"] * 3
    assert [o.facts["ensemble"]["runs"] for o in found] == [1, 1, 1]
    alone = train(deep[:1])[0]
    assert found[1].cell == deep[0] and len(found[1].facts["sessions"]) == 2
    assert found[1].metrics == alone.metrics


@pytest.mark.parametrize("abreast", [0, 4])
def test_cells_of_another_process_are_passed_over(tmp_path: Path, abreast: int) -> None:
    cells = [*MANY, *(cell(seed, model={"n_layers": 2}) for seed in (1, 2))]
    said: list[str] = []

    def holding() -> Holding:
        return Holding(
            tmp_path, lambda c: str(cells.index(c)), lambda some: [c == cells[0] for c in some],
            lambda c: str(cells.index(c)), said.append,
        )  # fmt: skip

    other, mine = holding(), holding()
    assert other.take([cells[1], cells[3], cells[4]]) == [cells[1], cells[3], cells[4]]
    found = train(cells, abreast=abreast, holding=mine)
    assert [o.cell for o in found] == [cells[2]] and found[0].facts["ensemble"]["runs"] == 1
    assert mine.elsewhere == [cells[1], cells[3], cells[4]] and mine.ended == [cells[0]]
    assert len(said) == 3


@pytest.mark.parametrize("abreast", [0, 4])
def test_a_group_is_free_until_it_begins(tmp_path: Path, abreast: int) -> None:
    cells = [*MANY, *(cell(seed, model={"n_layers": 2}) for seed in (1, 2))]

    def holding() -> Holding:
        return Holding(
            tmp_path, lambda c: str(cells.index(c)), lambda some: [False] * len(some),
            lambda c: str(cells.index(c)), lambda line: None,
        )  # fmt: skip

    other, mine = holding(), holding()
    coming = train_cells(cells, Context(abreast=abreast, holding=mine), Toy().study)
    first = next(coming)
    # there is no room beside three: those of the other depth wait until all three have ended
    assert first.cell == cells[0] and other.take(cells[3:4]) == cells[3:4]
    assert other.take(cells[:3]) == []
    assert [o.cell for o in coming] == [*cells[1:3], cells[4]] and mine.elsewhere == [cells[3]]
