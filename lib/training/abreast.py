"""Trainings beside each other on one device, each on a stream of its own.

A few small runs leave most of a GPU idle: their kernels do not fill it, and each waits for the one
before. Runs of one architecture train as an ensemble (:mod:`lib.training.ensemble`), in kernels
that are larger. Those of different architectures share no kernels, but the device can take several
of their graphs at once: a training hands over when it has given the device an epoch's work, and the
next one adds its own.
"""

from __future__ import annotations

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
        trainings: size and turns of each, asked for when its turn to begin has come; the next one
            begins while the sizes under way come to at most `most`, or if nothing is under way.
        device: where they train; on a GPU each has a stream of its own.
        over: asked before one begins: whether no more should.
    """
    waiting = iter(trainings)
    following = next(waiting, None)
    flights: list[_Flight] = []
    while flights or following is not None:
        while following is not None:
            size, turns = following
            if over():
                turns.close()
                following = None
                break
            if flights and sum(flight.size for flight in flights) + size > most:
                break
            flights.append(_Flight(size, turns, _stream(device)))
            for flight in flights:
                flight.beside = max(flight.beside, len(flights))
            # it begins before the next one is asked for, which may look at what memory is left
            yield from _turn(flights, flights[-1])
            following = next(waiting, None)
        for flight in list(flights):
            yield from _turn(flights, flight)


def _turn(flights: list[_Flight], flight: _Flight) -> Iterator[tuple[Any, int]]:
    """One turn of a flight: what it came to, if that was its last."""
    try:
        with flight.on():
            next(flight.turns)
    except StopIteration as end:
        flights.remove(flight)
        yield end.value, flight.beside


def _stream(device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    if device.type != "cuda":
        return nullcontext
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return lambda: torch.cuda.stream(stream)
