"""A flight recorder: what a process was doing when it was killed, in a mapped file that outlives SIGKILL.

The child's `Recorder` is an `Around`: it writes the begin and the end of each call of transport and store into a ring
of fixed slots. The parent's `Flight` follows the ring, and may arm an **aim** in its header: at the next call of that
step, before or after its effect, the child does something to itself (SIGKILL, SIGSTOP, SIGTERM, or fail as if the
disk were full).

Invariant: a slot's number is written last and taken away first, so what the parent reads was written whole. One
writer, one reader. The child's side is event-loop only.
"""

import mmap
import os
import re
import signal
import struct
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from enum import IntEnum, StrEnum
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeVar

from cutbank.errors import StoreUnavailable, StreamUnavailable
from cutbank.pipeline.sinking.claims import CLAIMS_ROOT, link_from_key
from cutbank.records import Batch
from cutbank.testing.taps import Call

T = TypeVar("T")

HEADER_BYTES = 256
SLOT_BYTES = 256
SLOTS = 8192
"""Calls that are remembered, twice: each has a begin and an end."""

RING_BYTES = HEADER_BYTES + SLOTS * SLOT_BYTES

EVENTS_KEPT = 50_000
"""Events that the parent remembers of one process."""

_NUMBER = struct.Struct("<Q")
_EVENT = struct.Struct("<QBH")
"""Number of the call, kind, bytes of the text that follows."""
_TEXT_BYTES_MAX = SLOT_BYTES - _NUMBER.size - _EVENT.size

_AIM = struct.Struct("<BBB")
"""Armed, when and action, and then the step's name, ended by a zero byte."""
_STEP_BYTES_MAX = 64
_SNAPSHOT = re.compile(r"[^/]+/[^/]+/[^/]+/\d{8}/[0-9A-F]{64}")


class Kind(IntEnum):
    """What an event tells of its call."""

    BEGUN = 1
    DONE = 2
    FAILED = 3
    AIMED = 4
    """It was hit by an aim: what follows was done by the recorder."""


class When(IntEnum):
    """On which side of a call's effect an aim hits."""

    BEFORE = 1
    AFTER = 2
    """The effect is there, and nobody has been told."""


class Action(IntEnum):
    """What a child does to itself when it is hit."""

    KILL = 1
    FREEZE = 2
    """SIGSTOP; hits again and again until disarmed."""
    TERM = 3
    """SIGTERM, once."""
    FULL = 4
    """The step `store` or `log`: every write of it fails as on a full disk, until disarmed."""


class Step(StrEnum):
    """The calls that matter. A store's `create` is told apart by what it creates."""

    PUBLISH = "publish"
    PUBLISH_AND_COMMIT = "publish_and_commit"
    COMMIT = "commit"
    FENCE = "fence"
    RECEIVE = "receive"
    CLAIM = "create claim"
    OBJECT = "create object"
    BIRTH = "create birth"
    SNAPSHOT = "create snapshot"
    STORE = "store"
    """Every create; only in aims."""
    LOG = "log"
    """Every write to the log; only in aims."""


_STORE_STEPS = frozenset({Step.CLAIM, Step.OBJECT, Step.BIRTH, Step.SNAPSHOT})
_LOG_STEPS = frozenset({Step.PUBLISH, Step.PUBLISH_AND_COMMIT, Step.COMMIT})


class Aim(NamedTuple):
    """What is to happen at the next call of a step."""

    step: str
    when: When
    action: Action

    def __str__(self) -> str:
        return f"{self.action.name.lower()} {self.when.name.lower()} {self.step}"


class Event(NamedTuple):
    """One slot."""

    number: int
    """Counts all events of a process, from 1."""
    call: int
    kind: Kind
    step: str
    subject: str
    note: str
    """Of a receive that is done: where the next one begins. Of what failed: the error's name."""


def step_of(call: Call) -> str:
    """The step that a call is."""
    if call.name != "create":
        return call.name
    if call.subject.startswith(CLAIMS_ROOT):
        link = link_from_key(call.subject)
        return Step.CLAIM if link is not None and link.kind == "claim" else Step.BIRTH
    if call.subject.endswith("/birth"):
        return Step.BIRTH
    return Step.SNAPSHOT if _SNAPSHOT.fullmatch(call.subject) else Step.OBJECT


def make_ring(path: Path) -> None:
    """An empty ring. Every byte is there, so that no later disk full can hit a mapped page."""
    path.write_bytes(bytes(RING_BYTES))


class Recorder:
    """The child's side: an `Around`."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._ring = mmap.mmap(file.fileno(), RING_BYTES)
        self._events = 0
        self._calls = 0

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        """Write the begin, do it, write the end."""
        self._calls += 1
        number, step = self._calls, step_of(call)
        self._write(number, Kind.BEGUN, f"{step}\t{call.subject}")
        try:
            self._hit(number, step, When.BEFORE)
            result = await do()
            self._hit(number, step, When.AFTER)
        except BaseException as error:
            self._write(number, Kind.FAILED, type(error).__name__)
            raise
        self._write(number, Kind.DONE, str(result.end) if isinstance(result, Batch) else "")
        return result

    def _write(self, call: int, kind: Kind, text: str) -> None:
        self._events += 1
        at = HEADER_BYTES + (self._events - 1) % SLOTS * SLOT_BYTES
        data = text.encode()[:_TEXT_BYTES_MAX]
        _NUMBER.pack_into(self._ring, at, 0)
        _EVENT.pack_into(self._ring, at + _NUMBER.size, call, kind, len(data))
        start = at + _NUMBER.size + _EVENT.size
        self._ring[start : start + len(data)] = data
        _NUMBER.pack_into(self._ring, at, self._events)

    def _hit(self, call: int, step: str, when: When) -> None:
        """Do what the parent has armed, if it is meant for here."""
        if not self._ring[0]:
            return
        _, at, action = _AIM.unpack_from(self._ring)
        wanted = self._ring[_AIM.size : _AIM.size + _STEP_BYTES_MAX].split(b"\0", 1)[0].decode()
        if at != when:
            return
        if action == Action.FULL:
            self._fail(step, wanted)
        if wanted != step:
            return
        self._write(call, Kind.AIMED, Action(action).name)
        if action == Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == Action.FREEZE:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == Action.TERM:
            self._ring[0] = 0
            os.kill(os.getpid(), signal.SIGTERM)

    @staticmethod
    def _fail(step: str, wanted: str) -> None:
        """As the store and the log fail when the disk is full: nothing is done."""
        if wanted == Step.STORE and step in _STORE_STEPS:
            raise StoreUnavailable("no space left on device, says the faulty store")
        if wanted == Step.LOG and step in _LOG_STEPS:
            raise StreamUnavailable("database or disk is full, says the faulty log")


class Flight:
    """The parent's side: follows one process's ring, dead or alive."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._ring = mmap.mmap(file.fileno(), RING_BYTES)
        self._next = 1
        self._begun: dict[int, tuple[str, str]] = {}
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        """What was read so far, oldest first."""
        self.open: dict[int, Event] = {}
        """Calls begun and not returned, as far as was read."""
        self.reading: dict[str, int] = {}
        """By partition, where its next receive begins."""
        self.counts: Counter[tuple[str, Kind]] = Counter()
        """How often a step was begun, done, failed."""
        self.errors: Counter[tuple[str, str]] = Counter()
        """How often a step has failed with an error of that name."""

    def close(self) -> None:
        """Forget the events; the counts stay."""
        self.events.clear()
        self._ring.close()

    @property
    def last(self) -> int:
        """Number of the last event that was read."""
        return self._next - 1

    def follow(self) -> list[Event]:
        """What is new; taken into `events`, `open`, `reading`, `counts` and `errors`. Nothing once it is closed."""
        new = [] if self._ring.closed else list(self._new())
        for event in new:
            self.events.append(event)
            self.counts[event.step, event.kind] += 1
            if event.kind is Kind.FAILED:
                self.errors[event.step, event.note] += 1
            if event.kind is Kind.BEGUN:
                self.open[event.call] = event
            elif event.kind in (Kind.DONE, Kind.FAILED):
                self.open.pop(event.call, None)
                self._begun.pop(event.call, None)
                if event.step == Step.RECEIVE and event.kind is Kind.DONE:
                    self.reading[event.subject] = int(event.note)
        return new

    def since(self, number: int) -> list[Event]:
        """Events after that one, as far as was read."""
        found = list(takewhile(lambda event: event.number > number, reversed(self.events)))
        return found[::-1]

    def arm(self, aim: Aim) -> None:
        """From now on, this happens at the next such call."""
        self.disarm()
        step = aim.step.encode() + b"\0"
        self._ring[_AIM.size : _AIM.size + len(step)] = step
        _AIM.pack_into(self._ring, 0, 0, aim.when, aim.action)
        self._ring[0] = 1

    def disarm(self) -> None:
        """Nothing happens any more."""
        self._ring[0] = 0

    def _new(self) -> Iterator[Event]:
        while True:
            found = self._read(self._next)
            if found is None:
                newest = self._overtaken()
                if newest is None:
                    return
                # The child was faster than we looked: what it has written over is gone.
                self._next = max(self._next + 1, newest - SLOTS + 2)
                continue
            self._next += 1
            yield found

    def _overtaken(self) -> int | None:
        """The number in the next event's slot, if that is a later one."""
        (number,) = _NUMBER.unpack_from(self._ring, self._place(self._next))
        return number if number > self._next else None

    @staticmethod
    def _place(number: int) -> int:
        return HEADER_BYTES + (number - 1) % SLOTS * SLOT_BYTES

    def _read(self, number: int) -> Event | None:
        at = self._place(number)
        if _NUMBER.unpack_from(self._ring, at)[0] != number:
            return None
        call, kind, length = _EVENT.unpack_from(self._ring, at + _NUMBER.size)
        start = at + _NUMBER.size + _EVENT.size
        text = bytes(self._ring[start : start + length])
        if _NUMBER.unpack_from(self._ring, at)[0] != number:
            return None  # written over while it was read
        if kind == Kind.BEGUN:
            step, _, subject = text.decode(errors="replace").partition("\t")
            self._begun[call] = step, subject
            return Event(number, call, Kind.BEGUN, step, subject, "")
        step, subject = self._begun.get(call, ("", ""))
        return Event(number, call, Kind(kind), step, subject, text.decode(errors="replace"))
