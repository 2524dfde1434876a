"""Trainings beside each other: who begins when, and that none notices the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lib.training.abreast import Turns, abreast, by_itself, clock
from lib.training.batches import TensorBatches
from lib.training.checkpoints import load_checkpoint
from lib.training.config import TrainingConfig
from lib.training.loop import Trainer
from lib.training.runs import Run

CPU = torch.device("cpu")


def training(name: str, turns: int, log: list[str]) -> Turns[str]:
    for _ in range(turns):
        log.append(name)
        yield
    return name


def flown(sizes: dict[str, tuple[int, int]], most: int) -> tuple[str, list[tuple[str, int]]]:
    """Turns in their order, and results with how many there were at once; of sizes and turns."""
    log: list[str] = []
    jobs = ((size, training(name, turns, log)) for name, (size, turns) in sizes.items())
    found = list(abreast(jobs, most, CPU))
    return "".join(log), found


def test_they_take_turns_and_the_next_begins_where_there_is_room() -> None:
    order, found = flown({"a": (2, 3), "b": (2, 1), "c": (2, 3), "d": (2, 1)}, most=4)
    # a begins, b beside it; b ends in its second turn and c begins; a ends in its fourth, d begins
    assert order == "ab" + "a" + "c" + "ac" + "d" + "c"
    assert found == [("b", 2), ("a", 2), ("d", 2), ("c", 2)]


@pytest.mark.parametrize("most", [0, 1, 3])
def test_one_after_the_other_if_no_two_fit(most: int) -> None:
    order, found = flown({"a": (2, 2), "b": (2, 2), "c": (2, 1)}, most)
    assert order == "aabbc" and found == [("a", 1), ("b", 1), ("c", 1)]


def test_one_larger_than_all_room_trains_alone() -> None:
    order, found = flown({"a": (9, 2), "b": (1, 2), "c": (1, 2), "d": (9, 1)}, most=8)
    assert order == "aa" + "bcbc" + "d"
    assert dict(found) == {"a": 1, "b": 2, "c": 2, "d": 1}


def test_nothing_to_train_and_trainings_that_end_at_once() -> None:
    assert flown({}, most=4) == ("", [])
    assert flown({"a": (1, 0), "b": (1, 0)}, most=4) == ("", [("a", 1), ("b", 1)])


def test_one_with_nothing_to_do_is_beside_nobody() -> None:
    assert flown({"a": (1, 2), "b": (1, 0)}, most=4)[1] == [("b", 2), ("a", 1)]


def test_the_next_is_asked_for_when_its_turn_to_begin_has_come() -> None:
    log: list[str] = []

    def jobs() -> Iterator[tuple[int, Turns[str]]]:
        for name in "abc":
            log.append(f"ask {name}")
            yield 1, training(name, 2, log)

    list(abreast(jobs(), 1, CPU))
    assert log == ["ask a", "a", "ask b", "a", "b", "ask c", "b", "c", "c"]


def test_no_more_begin_when_it_is_over_and_the_others_end() -> None:
    log: list[str] = []
    ended: list[str] = []
    jobs = (
        (1, training(name, turns, log)) for name, turns in zip("abcd", (1, 3, 2, 2), strict=True)
    )
    for name, _ in abreast(jobs, 2, CPU, over=lambda: bool(ended)):
        ended.append(name)
    assert ended == ["a", "b"] and set(log) == {"a", "b"}


def test_what_one_raises_is_raised() -> None:
    def broken() -> Turns[str]:
        yield
        raise RuntimeError("out of memory")

    log: list[str] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        list(abreast([(1, training("a", 5, log)), (1, broken())], 2, CPU))
    assert log == ["a", "a"]


class Counted:
    """Comes when it has been asked for so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def query(self) -> bool:
        self.left -= 1
        return self.left < 0


def waiting(name: str, times: list[int], log: list[str]) -> Turns[str]:
    """A training that waits, after each turn, until it has been asked so many times."""
    for count in times:
        log.append(name)
        yield Counted(count)
    return name


def test_one_that_waits_is_passed_over_until_what_it_waits_for_has_come() -> None:
    log: list[str] = []
    jobs = [(1, waiting("a", [2, 0], log)), (1, training("b", 4, log))]
    assert list(abreast(jobs, 2, CPU)) == [("a", 2), ("b", 2)]
    # a is asked for, twice in vain, between the turns of b
    assert "".join(log) == "ab" + "b" + "b" + "a" + "b"


def test_if_all_wait_the_first_whose_time_has_come_goes_on() -> None:
    log: list[str] = []
    jobs = [(1, waiting(name, [times], log)) for name, times in (("a", 9), ("b", 4), ("c", 6))]
    assert list(abreast(jobs, 3, CPU)) == [("b", 3), ("c", 3), ("a", 3)]


def test_one_that_waits_by_itself_ends() -> None:
    log: list[str] = []
    assert list(abreast([(1, waiting("a", [3, 1, 0], log))], 4, CPU)) == [("a", 1)]
    assert log == ["a"] * 3


def test_a_training_by_itself_does_not_ask_what_it_waits_for() -> None:
    log: list[str] = []
    forever = Counted(10**9)

    def long() -> Turns[str]:
        log.append("begun")
        yield forever
        log.append("ended")
        return "done"

    assert by_itself(long()) == "done" and log == ["begun", "ended"]
    assert forever.left == 10**9


class Hands:
    """A clock that goes on when told to."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


class Idle:
    """What comes when `told` holds; whoever waits for it does nothing meanwhile."""

    idle = True

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def query(self) -> bool:
        return bool(self.told)


def taking(name: str, seconds: list[float], hands: Hands) -> Turns[tuple[str, float]]:
    """A training whose turns take so many seconds each, to what it was told that it took."""
    begun = clock()
    for each in seconds:
        hands.at += each
        yield None
    return name, round(clock() - begun, 9)


def test_the_times_of_all_come_to_the_time_that_passed() -> None:
    hands = Hands()
    jobs = [
        (1, taking("a", [3.0, 1.0], hands)), (1, taking("b", [2.0, 2.0, 4.0], hands)),
        (1, taking("c", [5.0], hands)),
    ]  # fmt: skip
    found = []
    for (name, took), _ in abreast(jobs, 2, CPU, now=hands):
        found.append((name, took))
        hands.at += 1.0  # what is done with it is time of those that go on
    # 3 seconds of a alone; 2 + 1 + 2 of a and b; 1 of b alone; 5 + 4 of b and c; 1 of b alone
    assert found == [("a", 3 + 2.5), ("c", 4.5), ("b", 2.5 + 1 + 4.5 + 1)]
    assert sum(took for _, took in found) == 119.0 - 100.0


def test_a_checkpoint_holds_a_share_of_the_time(tmp_path: Path) -> None:
    """Whoever writes it is no thread of the training's."""
    hands, taken = Hands(), {name: list[float]() for name in "ab"}

    def trainer(name: str) -> Trainer:
        def loss(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
            if taken[name]:  # what the step before ended with
                _, facts = load_checkpoint(path)
                taken[name].append(facts["sessions"][0]["seconds"])
            taken[name] = taken[name] or [0.0]
            hands.at += 1.0
            return model(x).square().mean(), torch.zeros((), dtype=torch.int64)

        path = tmp_path / f"{name}.safetensors"
        batches = TensorBatches((torch.ones(4, 2),), 1, seed=1)
        config = TrainingConfig(epochs=1, warmup_epochs=0, batch_size=1)
        return Trainer(
            nn.Linear(2, 1), loss, batches, config, runs=[Run(name, path)], checkpoint_every=0.0
        )

    trainers = [trainer(name) for name in taken]
    list(abreast(((1, each.turns()) for each in trainers), 2, CPU, now=hands))
    # the first step of a is its own, of each other second both have half
    assert taken == {"a": [0.0, 1.0, 2.0, 3.0], "b": [0.0, 0.5, 1.5, 2.5]}


def test_who_waits_for_another_s_work_has_no_share_of_it() -> None:
    hands, told = Hands(), list[str]()

    def waits() -> Turns[tuple[str, float]]:
        yield Idle(told)
        begun = clock()
        hands.at += 1.0
        return "waits", clock() - begun

    def works() -> Turns[tuple[str, float]]:
        begun = clock()
        for _ in range(4):
            hands.at += 2.0
            yield None
        told.append("now")
        yield None
        return "works", clock() - begun

    found = dict(result for result, _ in abreast([(1, waits()), (1, works())], 2, CPU, now=hands))
    # the second of the one that waited is that of both
    assert found == {"waits": 0.5, "works": 8.5}


def test_by_itself_a_training_has_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands()
    monkeypatch.setattr("time.perf_counter", hands)
    assert by_itself(taking("a", [3.0, 1.0], hands)) == ("a", 4.0)
    ((found, _),) = abreast([(1, taking("a", [3.0, 1.0], hands))], 4, CPU, now=hands)
    assert found == ("a", 4.0)
