"""Faults on purpose, at any call of any transport and any store: by plan, or by chance with a seed.

Owns which call meets which fault, and the history of what was done. Invariants:
- a fault does only what a real one can: its error is one that the protocol names for the call, and what was done
  stays done, whatever the caller is told;
- a process that crashed makes no further call, so its `finally` blocks change nothing outside;
- the same seed and the same calls give the same faults: all chance comes from one generator.

Event-loop only. Delays pass on the given clock.
"""

import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, NoReturn, TypeVar, cast

from cutbank.clock import Clock
from cutbank.errors import CutbankError, OutcomeUnknown, StoreUnavailable, StreamUnavailable
from cutbank.objects.base import ObjectStore
from cutbank.testing.taps import Around, Call, TappedStore, TappedTransport
from cutbank.transports.base import Transport

T = TypeVar("T")

HISTORY_EVENTS_MAX = 10_000
"""Most events that a history keeps; older ones make room and are counted."""

STORE_CALLS = frozenset({"create", "read", "exists", "list", "delete", "probe"})
"""Calls of an object store: their fault is StoreUnavailable, which says itself that a put may have been done."""

STREAM_WRITES = frozenset({"publish", "commit", "publish_and_commit"})
"""Calls of a transport and its leases after which the caller must know what was done."""

STREAM_CALLS = STREAM_WRITES | frozenset(
    {"ensure", "describe", "streams", "stream_read", "position_at", "committed"}
    | {"fence", "lease_committed", "receive", "lag", "release", "join", "leave", "next_event"}
)
"""All calls of a transport, its consumers and leases, under the names that taps give them."""

_SILENT = frozenset({"release", "leave"})
"""They never raise: what they did not do, the session time-out does."""


class Crashed(BaseException):
    """This process is dead: no `except Exception` catches it, and every call that it still makes raises it again."""


class Kind(Enum):
    """What can happen to a call."""

    DELAY = "delay"
    """The request takes its time."""
    DELAY_REPLY = "delay reply"
    """Done, and the answer takes its time."""
    FAIL = "fail"
    """Nothing done, and the caller knows."""
    FAIL_AFTER = "fail after"
    """Done, and the caller is told of an error."""
    LOSE_REQUEST = "lose request"
    """Nothing done, no answer until a time-out: the caller can't know."""
    LOSE_REPLY = "lose reply"
    """Done, no answer until a time-out: the caller can't know."""
    CRASH_BEFORE = "crash before"
    """The process dies before the call is made."""
    CRASH_AFTER = "crash after"
    """The process dies after it is done, before it learns of it."""


_WAITS = frozenset({Kind.DELAY, Kind.DELAY_REPLY, Kind.LOSE_REQUEST, Kind.LOSE_REPLY})
_WAITS_FIRST = frozenset({Kind.DELAY, Kind.LOSE_REQUEST})
_NOT_DONE = frozenset({Kind.FAIL, Kind.LOSE_REQUEST})
_DONE_BUT_FAILS = frozenset({Kind.FAIL_AFTER, Kind.LOSE_REPLY})


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens to a call: a constant (`Fault.FAIL`), or made with its seconds (`Fault.delay(2.0)`).

    The error depends on the call. A store's: StoreUnavailable. A stream's write (publish, commit,
    publish_and_commit): StreamUnavailable if the caller knows that nothing was done (FAIL), else OutcomeUnknown. Any
    other call of a transport: StreamUnavailable; `release` and `leave` raise nothing.
    """

    kind: Kind
    seconds: float = 0.0

    FAIL: ClassVar["Fault"]
    FAIL_AFTER: ClassVar["Fault"]
    CRASH_BEFORE: ClassVar["Fault"]
    CRASH_AFTER: ClassVar["Fault"]

    def __post_init__(self) -> None:
        if (self.seconds > 0.0) != (self.kind in _WAITS):
            raise ValueError(f"{self.kind.value} with {self.seconds} s: delays and lost messages take time, no others")

    @classmethod
    def delay(cls, seconds: float) -> "Fault":
        """The call is made that much later."""
        return cls(Kind.DELAY, seconds)

    @classmethod
    def delay_reply(cls, seconds: float) -> "Fault":
        """The call is made at once; its answer, also an error, comes that much later."""
        return cls(Kind.DELAY_REPLY, seconds)

    @classmethod
    def lose_request(cls, seconds: float) -> "Fault":
        """The call is never made; the caller is told so many seconds later that it may have been."""
        return cls(Kind.LOSE_REQUEST, seconds)

    @classmethod
    def lose_reply(cls, seconds: float) -> "Fault":
        """The call is made; the caller is told so many seconds later that it may have been."""
        return cls(Kind.LOSE_REPLY, seconds)

    def __str__(self) -> str:
        return f"{self.kind.value} {self.seconds:g} s" if self.seconds else self.kind.value


Fault.FAIL = Fault(Kind.FAIL)
Fault.FAIL_AFTER = Fault(Kind.FAIL_AFTER)
Fault.CRASH_BEFORE = Fault(Kind.CRASH_BEFORE)
Fault.CRASH_AFTER = Fault(Kind.CRASH_AFTER)


class Event(NamedTuple):
    """Something that was done to a process."""

    at_s: float
    """Monotonic seconds of the clock."""
    process: str
    what: str
    """A fault, or in words: `killed`, `frozen`, …"""
    call: Call | None = None

    def __str__(self) -> str:
        at = "" if self.call is None else f" at {self.call}"
        return f"{self.at_s:12.3f} s  {self.process or '-'}: {self.what}{at}"


class History:
    """What was done to whom, in order; the newest HISTORY_EVENTS_MAX events. `str` prints it, a line each."""

    def __init__(self, *, events_max: int = HISTORY_EVENTS_MAX) -> None:
        self._events: deque[Event] = deque(maxlen=events_max)
        self.dropped = 0
        """How many of the oldest events were dropped."""

    def note(self, event: Event) -> None:
        """Add an event; harnesses add their own."""
        self.dropped += len(self._events) == self._events.maxlen
        self._events.append(event)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)

    def __str__(self) -> str:
        lines = [f"… {self.dropped} earlier events"] if self.dropped else []
        return "\n".join([*lines, *map(str, self._events)])


@dataclass(slots=True)
class Rule:
    """A fault planned for certain calls."""

    name: str
    fault: Fault
    subject_contains: str
    process: str | None
    nth: int
    times: int | None
    seen: int = 0
    """How many calls it was meant for, struck or not."""

    @property
    def struck(self) -> int:
        """How many calls it has struck; a test asserts this, for a fault that never came proves nothing."""
        after = max(self.seen - self.nth + 1, 0)
        return after if self.times is None else min(after, self.times)

    def strikes(self, process: str, call: Call) -> bool:
        """Count the call if it is meant; whether the fault happens to it."""
        meant = call.name == self.name and self.subject_contains in call.subject and self.process in (None, process)
        before = self.struck
        self.seen += meant
        return self.struck > before


class Faults:
    """The faults of one test or simulation: an `Around` for one nameless process, and with `of` for any number.

    `rates`: for calls by name, the share of them that each fault strikes. Several processes share one `Faults`, and so
    one seed, one plan and one history.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        clock: Clock,
        rates: Mapping[str, Mapping[Fault, float]] | None = None,
        history: History | None = None,
    ) -> None:
        self.seed = seed
        self.history = History() if history is None else history
        self._clock = clock
        self._rng = random.Random(f"faults {seed}")
        self._rules: list[Rule] = []
        self._rates: dict[str, dict[Fault, float]] = {}
        self.rate(rates or {})
        self._nameless = self.of("")

    def at(
        self,
        name: str,
        *,
        fault: Fault,
        subject_contains: str = "",
        process: str | None = None,
        nth: int = 1,
        times: int | None = 1,
    ) -> Rule:
        """Plan a fault for the `nth` call from now on (from 1) and, in all, `times` calls in a row (None: all).

        `process` None: calls of all processes count together. Of several rules the first planned strikes; all count.
        Returns the rule, whose `struck` says how often it has come. Raises ValueError for a call that does not exist
        or can't fail so.
        """
        _check(name, fault)
        if nth < 1 or (times is not None and times < 1):
            raise ValueError(f"nth {nth}, times {times}: both count from 1")
        rule = Rule(name, fault, subject_contains=subject_contains, process=process, nth=nth, times=times)
        self._rules.append(rule)
        return rule

    def rate(self, rates: Mapping[str, Mapping[Fault, float]]) -> None:
        """From now on, by chance: the share of calls of each name that each fault strikes, instead of rates before."""
        for name, shares in rates.items():
            for fault in shares:
                _check(name, fault)
            if min(shares.values(), default=0.0) < 0.0 or sum(shares.values()) > 1.0:
                raise ValueError(f"rates of {name}: shares are at least 0 and 1 together at the most")
        self._rates = {name: dict(shares) for name, shares in rates.items()}

    def heal(self) -> None:
        """No faults any more, neither planned nor by chance, until new ones are given; delays that run end by time."""
        self._rules.clear()
        self._rates = {}

    def of(self, process: str, *, clock: Clock | None = None, crash: Callable[[], object] | None = None) -> Around:
        """What stands around the calls of one life of a process.

        `clock`: the process's own, on which its delays pass. `crash`: how it dies (`SimulatedProcess.kill`, or
        `os.kill` of a real one), called before Crashed is raised.
        """
        return _Struck(self, process, clock=clock or self._clock, crash=crash or (lambda: None))

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        """A call of the nameless process."""
        return await self._nameless(call, do)

    def choose(self, process: str, call: Call) -> Fault | None:
        """The fault that happens to this call, noted in the history. Each call is asked about once."""
        struck = [rule.fault for rule in self._rules if rule.strikes(process, call)]
        fault = struck[0] if struck else self._by_chance(call)
        if fault is not None:
            self.history.note(Event(self._clock.monotonic_s(), process, str(fault), call))
        return fault

    def _by_chance(self, call: Call) -> Fault | None:
        shares = self._rates.get(call.name)
        if not shares:
            return None
        left = self._rng.random()
        for fault, share in shares.items():
            left -= share
            if left < 0.0:
                return fault
        return None


class _Struck:
    """Around the calls of one process: does what was chosen, and lets it make no call after its death."""

    def __init__(self, faults: Faults, process: str, *, clock: Clock, crash: Callable[[], object]) -> None:
        self._faults = faults
        self._process = process
        self._clock = clock
        self._crash = crash
        self._crashed: Call | None = None

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        self._check_alive()
        fault = self._faults.choose(self._process, call)
        try:
            result = await (do() if fault is None else self._strike(fault, call, do))
        except Exception:
            self._check_alive()
            raise
        self._check_alive()
        return result

    async def _strike(self, fault: Fault, call: Call, do: Callable[[], Awaitable[T]]) -> T:
        kind = fault.kind
        if kind in _WAITS_FIRST:
            await self._clock.sleep(fault.seconds)
            self._check_alive()
        if kind is Kind.CRASH_BEFORE:
            self._die(call)
        if kind in _NOT_DONE:
            _fail(fault, call)
            return cast("T", None)
        try:
            result = await do()
        except Exception:
            await self._learn(fault, call)
            raise
        await self._learn(fault, call)
        if kind in _DONE_BUT_FAILS:
            _fail(fault, call)
        return result

    async def _learn(self, fault: Fault, call: Call) -> None:
        """The way of the answer to the caller, whether it is a result or an error."""
        self._check_alive()
        if fault.kind is Kind.CRASH_AFTER:
            self._die(call)
        if fault.kind in _WAITS - _WAITS_FIRST:
            await self._clock.sleep(fault.seconds)

    def _check_alive(self) -> None:
        if self._crashed is not None:
            raise Crashed(f"{self._process} crashed at {self._crashed}")

    def _die(self, call: Call) -> NoReturn:
        self._crashed = call
        self._crash()
        raise Crashed(f"{self._process} crashed at {call}")


def _check(name: str, fault: Fault) -> None:
    """A plan for a call that never comes, or for an error that no real one gives, would prove nothing: ValueError."""
    if name not in STORE_CALLS | STREAM_CALLS:
        raise ValueError(f"no call {name!r}; there are: {', '.join(sorted(STORE_CALLS | STREAM_CALLS))}")
    if name == "next_event" and fault.kind in _NOT_DONE | _DONE_BUT_FAILS:
        raise ValueError("next_event raises only what ends membership for good: it can be delayed or crash, not fail")


def _fail(fault: Fault, call: Call) -> None:
    """Raise the error of this call; of `release` and `leave`, none."""
    message = f"{call}: {fault}, a fault on purpose"
    error: type[CutbankError] = StreamUnavailable
    if call.name in _SILENT:
        return
    if call.name in STORE_CALLS:
        error = StoreUnavailable
    elif call.name in STREAM_WRITES and fault.kind is not Kind.FAIL:
        error = OutcomeUnknown
    raise error(message)


class FaultyTransport(TappedTransport):
    """Any transport, with faults at its calls and at those of its consumers and leases."""

    def __init__(self, transport: Transport, faults: Faults) -> None:
        super().__init__(transport, faults)


class FaultyStore(TappedStore):
    """Any object store, with faults at its calls."""

    def __init__(self, store: ObjectStore, faults: Faults) -> None:
        super().__init__(store, faults)
