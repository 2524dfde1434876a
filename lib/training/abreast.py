"""Trainings beside each other on one device, each on a stream of its own.

A few small runs leave most of a GPU idle: their kernels do not fill it, and each waits for the one
before. Runs of one architecture train as an ensemble (:mod:`lib.training.ensemble`), in kernels
that are larger. Those of different architectures share no kernels, but the device can take several
of their graphs at once.

Turns are short, a step each. What a device has been told lies in a queue, and a host that tells it
more than the queue holds has to wait: a training that gave away a whole epoch at once would keep
the host until the epoch is nearly over, and no other's work would lie beside its own. (With turns
of an epoch an H100 took no less time for groups beside each other than for one after the other,
which this would explain.) Each has a few steps in the queue, and says what it waits for before its
next turn.

What a training takes is told by :func:`clock`: of the time in which several are under way, each has
an equal share, so that the times of all come to the time that passed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

import torch

Result = TypeVar("Result")
PAUSE = 5e-5  # seconds between two looks at what all wait for


class Awaited(Protocol):
    """What a training waits for, such as a ``torch.cuda.Event``. It has a true ``idle`` if that is
    another's work, in whose time the one that waits has no share."""

    def query(self) -> bool:
        """Whether it has come."""


# a training: hands over between its turns, with what must have come before its next one, and
# returns what it came to
Turns: TypeAlias = Generator[Awaited | None, None, Result]


@dataclass
class _Flight:
    """A training that has begun.

    Attributes:
        size: how much of the device it counts for.
        turns: the training.
        on: the context of its turns.
        beside: the most trainings that were under way at once with it, itself included.
        awaited: what it waits for.
    """

    size: int
    turns: Turns[Any]
    on: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)
    beside: int = 1
    awaited: Awaited | None = None

    @property
    def ready(self) -> bool:
        """Whether it can have its turn without waiting."""
        return self.awaited is None or self.awaited.query()

    @property
    def idle(self) -> bool:
        """Whether it waits for others' work, and leaves the device to them."""
        return bool(getattr(self.awaited, "idle", False))


class _Shares:
    """Seconds that count for each of the trainings under way: of one second an equal part.

    Since the parts are equal, one sum tells all of them: a training's share of a time is how far it
    has grown meanwhile. It goes by `now`, as ``time.perf_counter`` does.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.among = now, 1
        self.since = self.sum = now()

    def read(self) -> float:
        """The sum so far."""
        return self.sum + (self.now() - self.since) / self.among

    def divide(self, among: int) -> None:
        """From here on by so many."""
        if among != self.among:
            now = self.now()
            self.sum += (now - self.since) / self.among
            self.since, self.among = now, among


_OWN: ContextVar[_Shares | None] = ContextVar("shares", default=None)


def clock() -> float:
    """Seconds, of which only differences mean something, as of ``time.perf_counter``; between two
    turns of a training that is not the only one under way, its share of them."""
    shares = _OWN.get()
    return time.perf_counter() if shares is None else shares.read()


@contextmanager
def _counted(shares: _Shares) -> Iterator[None]:
    token = _OWN.set(shares)
    try:
        yield
    finally:
        _OWN.reset(token)


def abreast(
    trainings: Iterable[tuple[int, Turns[Result]]],
    most: int,
    device: torch.device,
    over: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.perf_counter,
) -> Iterator[tuple[Result, int]]:
    """The results of `trainings` as they end, each with how many there were at once, at most.

    Args:
        trainings: size and turns of each, asked for when the one before it has begun. It begins
            when the sizes under way and its own come to at most `most`, or nothing is under way.
        device: where they train; on a GPU each has a stream of its own.
        over: asked before one begins: whether no more should.
        now: tells the time that they share.
    """
    shares = _Shares(now)

    def goes_on(flight: _Flight) -> Generator[tuple[Any, int], None, bool]:
        """One turn of a flight beside `flights`; if that was its last, yields what it came to."""
        try:
            with flight.on(), _counted(shares):
                flight.awaited = None
                shares.divide(_busy([*flights, flight]))
                flight.awaited = next(flight.turns)
            shares.divide(_busy([*flights, flight]))
            return True
        except StopIteration as end:
            shares.divide(_busy(flights))
            yield end.value, flight.beside
            return False

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
            begun = _Flight(size, turns, _stream(device), len(flights) + 1)
            # it begins before the next one is asked for, which may look at what memory is left
            if (yield from goes_on(begun)):
                flights.append(begun)
                for flight in flights:  # one that had nothing to do was beside nobody
                    flight.beside = max(flight.beside, len(flights))
            following = next(waiting, None)
        if not flights:
            return
        flight = _ready(flights)
        if (yield from goes_on(flight)):
            flights.append(flight)


def by_itself(turns: Turns[Result]) -> Result:
    """What a training by itself comes to: it has its turns one after the other, and nothing but the
    training waits."""
    while True:
        try:
            next(turns)
        except StopIteration as end:
            result: Result = end.value
            return result


def _ready(flights: deque[_Flight]) -> _Flight:
    """Take out the first flight that waits for nothing; those that do go behind it, in order."""
    while True:
        for _ in range(len(flights)):
            flight = flights.popleft()
            if flight.ready:
                return flight
            flights.append(flight)
        time.sleep(PAUSE)


def _busy(flights: Iterable[_Flight]) -> int:
    """How many share the time."""
    return max(1, sum(not flight.idle for flight in flights))


def _stream(device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    if device.type != "cuda":
        return nullcontext
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return lambda: torch.cuda.stream(stream)
