"""Trainings beside each other on one device, each on a stream of its own.

A few small runs leave most of a GPU idle: their kernels do not fill it, and each waits for the one
before. Runs of one architecture train as an ensemble (:mod:`lib.training.ensemble`), in kernels
that are larger. Those of different architectures share no kernels, but the device can take several
of their graphs at once: a training hands over when it has given the device an epoch's work, and the
next one adds its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


@dataclass
class _Flight:
    """A training that has begun.

    Attributes:
        size: how much of the device it counts for.
        turns: hands over between its turns, and returns its result.
        on: the context of its turns.
        beside: the most trainings that were under way at once with it, itself included.
    """

    size: int
    turns: Generator[None, None, Any]
    on: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)
    beside: int = 1


def abreast(
    trainings: Iterable[tuple[int, Generator[None, None, Result]]],
    most: int,
    device: torch.device,
    over: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Result, int]]:
    """The results of `trainings` as they end, each with how many there were at once, at most.

    Args:
        trainings: size and turns of each, asked for when the one before it has begun. It begins
            when the sizes under way and its own come to at most `most`, or nothing is under way.
        device: where they train; on a GPU each has a stream of its own.
        over: asked before one begins: whether no more should.
    """
    waiting = iter(trainings)
    following = next(waiting, None)
    flights: deque[_Flight] = deque()
    while True:
        while following is not None:
            size, turns = following
            if flights and sum(flight.size for flight in flights) + size > most:
                break
            if over():
                turns.close()
                following = None
                break
            begun = _Flight(size, turns, _stream(device))
            for flight in (*flights, begun):
                flight.beside = max(flight.beside, len(flights) + 1)
            # it begins before the next one is asked for, which may look at what memory is left
            if (yield from _goes_on(begun)):
                flights.append(begun)
            following = next(waiting, None)
        if not flights:
            return
        flight = flights.popleft()
        if (yield from _goes_on(flight)):
            flights.append(flight)


def _goes_on(flight: _Flight) -> Generator[tuple[Any, int], None, bool]:
    """One turn of a flight; if that was its last, yields what it came to."""
    try:
        with flight.on():
            next(flight.turns)
        return True
    except StopIteration as end:
        yield end.value, flight.beside
        return False


def _stream(device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    if device.type != "cuda":
        return nullcontext
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return lambda: torch.cuda.stream(stream)
