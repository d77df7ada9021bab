"""Stands around every call of one process: names it, notes it, kills the process at it, and knows where a kill falls.

Three places: `outer` sees a call begin and end as the process does; `inner`, below the faults, sees what was really
done; `SeenStore`, at the bottom, sees what is put. So a kill is counted by what is durable at that moment, not by
what the process knows. Event-loop only; one watch a process.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import TypeVar

from cutbank.clock import Clock
from cutbank.errors import CutbankError
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.sinking.claims import Claim, decode, link_from_key
from cutbank.records import Batch
from cutbank.testing.faults import Crashed
from cutbank.testing.taps import Around, Call, TappedStore
from simulation.history import History
from simulation.plan import READ_AHEAD

T = TypeVar("T")

PUBLISH_COMMIT = "between publish and commit"
CLAIM_OBJECT = "between claim and object"
OBJECT_COMMIT = "between object and commit"
SNAPSHOT = "during a snapshot"
MANY_OPEN = "with 50 partition values open"
KILL_POINTS = (PUBLISH_COMMIT, CLAIM_OBJECT, OBJECT_COMMIT, SNAPSHOT, MANY_OPEN, READ_AHEAD)
"""Where kills have to fall: a point that is never hit is not tested."""

MANY = 50

_CHANGES = frozenset({"publish", "publish_and_commit", "commit", "fence", "release", "create", "delete", "ensure"})
"""Calls that change something: noted with more weight."""


def named(call: Call, where: str) -> str:
    """A call's name as plans have it: `create claim`, `create object`, `list state`, `publish_and_commit`."""
    if where == "log":
        return call.name
    if call.name != "create":
        return f"{call.name} {where}"
    if where == "state":
        if not call.subject.endswith("/birth"):
            return "create snapshot"
        return "create birth" if call.subject.count("/") > 2 else "create stream birth"
    link = link_from_key(call.subject)
    if link is None:
        return "create object"
    return "create chain birth" if link.kind == "birth" else f"create {link.kind}"


def layered(*arounds: Around) -> Around:
    """One around for all of these, the first outermost."""

    async def around(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        for each in reversed(arounds):
            do = _bound(each, call, do)
        return await do()

    return around


def _bound(around: Around, call: Call, do: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    return lambda: around(call, do)


@dataclass(slots=True)
class Trap:
    """Kill or freeze the process at the `number`-th such call from now, before or after its effect."""

    call: str
    number: int
    after: bool
    freeze_s: float = 0.0
    """Not 0: it is not killed but stands still for so long."""
    late_s: float = 0.0
    """Not 0: it is killed, and the call, which was on its way, is done so much later all the same."""


@dataclass(slots=True)
class Watch:
    """One process's."""

    who: str
    history: History
    kill: Callable[[], object]
    """Ends the process at once: from then on no call of it does anything."""
    freeze: Callable[[float], object]
    """Stops the process for so many seconds."""
    struck: Callable[[str, str], None]
    """Told what has befallen the process at a call: the event's kind, the call."""
    gate: Callable[[], Awaitable[None]]
    """Returns when the process may run."""
    clock: Clock
    """The world's."""
    calls: Counter[str] = field(default_factory=Counter)
    posted: "list[asyncio.Task[None]]" = field(default_factory=list)
    """What is on its way without its process."""
    traps: list[Trap] = field(default_factory=list)
    _publishing: "asyncio.Task[object] | None" = None
    _published: int = 0
    _snapshots: int = 0
    handovers: Counter[str] = field(default_factory=Counter)
    """The world's: objects put by another process than the one that claimed them."""
    claimed: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The world's: by object's key, who claimed it and in which layout."""
    _finished: set[str] = field(default_factory=set)
    """Layouts of others' claims that this process has put objects of, before it made a claim of its own."""
    _many: set[str] = field(default_factory=set)
    """Partitions whose claim has many values."""
    _ahead: set[str] = field(default_factory=set)
    """Partitions of which records were read since their claim."""
    _unfinished: dict[str, set[str]] = field(default_factory=dict)
    """By partition: objects of the last claim that it made which are not there yet."""
    _uncommitted: set[str] = field(default_factory=set)
    """Partitions of whose last claim all objects are there, and whose commit isn't done."""

    def kill_points(self) -> Counter[str]:
        """Where this process stands: what a kill now falls between, each once, whatever the number of partitions."""
        return +Counter(
            {
                PUBLISH_COMMIT: self._published,
                CLAIM_OBJECT: bool(self._unfinished),
                OBJECT_COMMIT: bool(self._uncommitted),
                SNAPSHOT: bool(self._snapshots),
                MANY_OPEN: not self._many.isdisjoint(self._unfinished),
                READ_AHEAD: not self._ahead.isdisjoint({*self._unfinished, *self._uncommitted}),
            }
        )

    def outer(self, where: str) -> Around:
        """The layer that the process calls: of its log, store or state."""

        async def around(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            return await self._outer(where, call, do)

        return around

    async def inner(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        """The layer below the log's faults."""
        if call.name == "publish_and_commit":
            self._publishing = asyncio.current_task()
            try:
                return await do()
            finally:
                self._publishing = None
                # Killed in the middle, it stays counted: what was published stands, the position doesn't.
                self._published = 0
        result = await do()
        if call.name == "receive" and isinstance(result, Batch) and len(result):
            self._ahead.add(call.subject)
            if call.subject in self._unfinished or call.subject in self._uncommitted:
                self._sprung(READ_AHEAD, after=None)
        if call.name in {"commit", "release"}:
            self._uncommitted.discard(call.subject)
        if call.name == "release":
            self._unfinished.pop(call.subject, None)  # It is somebody else's to finish.
        return result

    def log_took(self) -> None:
        """The log took records; told in the middle of whatever process's call that is. Outputs of ours, uncommitted?"""
        if self._publishing is None or asyncio.current_task() is not self._publishing:
            return
        self._published = 1
        self._sprung(PUBLISH_COMMIT, after=None)

    def created(self, key: str, body: bytes) -> None:
        """A document or object of this process is durable."""
        link = link_from_key(key)
        if link is not None and link.kind == "claim":
            claim = decode(body, Claim, key=key)
            partition = f"{claim.stream}/{claim.partition}"
            self._uncommitted.discard(partition)
            self._ahead.discard(partition)
            self._unfinished[partition] = {item.key for item in claim.objects}
            (self._many.add if len(claim.partition_values) >= MANY else self._many.discard)(partition)
            self._claims(claim)
        self._puts(key)
        for partition, missing in list(self._unfinished.items()):
            missing.discard(key)
            if not missing:
                del self._unfinished[partition]
                self._uncommitted.add(partition)

    def _claims(self, claim: Claim) -> None:
        """A claim of its own: what it is set to shows, and whether it has finished what was claimed otherwise."""
        layout = claim.layout.model_dump_json()
        self.claimed.update((item.key, (self.who, layout)) for item in claim.objects)
        self.handovers["then claimed in another layout"] += len(self._finished - {layout})
        self._finished.clear()

    def _puts(self, key: str) -> None:
        """An object: whose claim is it?"""
        who, layout = self.claimed.get(key, (self.who, ""))
        if who != self.who:
            self.handovers["objects put by another than who claimed them"] += 1
            self._finished.add(layout)

    async def _outer(self, where: str, call: Call, do: Callable[[], Awaitable[T]]) -> T:
        name = named(call, where)
        self.calls[name] += 1
        snapshot = name == "create snapshot"
        self._snapshots += snapshot
        outcome = "unanswered"
        try:
            if (trap := self._sprung(name, after=False)) is not None:
                if trap.late_s:
                    self._post(name, call, do, trap.late_s)
                raise Crashed(f"{self.who} killed")
            await self.gate()
            result = await do()
            if self._sprung(name, after=True) is not None:
                raise Crashed(f"{self.who} killed")
            outcome = ""
            return result
        except CutbankError as error:
            outcome = type(error).__name__
            raise
        finally:
            self._snapshots -= snapshot
            changes = call.name in _CHANGES
            if outcome or changes:
                self.history.say(self.who, f"{name} {call.subject} {outcome}".rstrip(), weight=int(changes))

    def _post(self, name: str, call: Call, do: Callable[[], Awaitable[T]], late_s: float) -> None:
        """What was on its way when its process died arrives."""

        async def arrive() -> None:
            await self.clock.sleep(late_s)
            self.history.say(self.who, f"{call}: arrives, {late_s:.1f} s after its process died")
            self.struck("kill, call arrives late", name)
            with suppress(CutbankError, Crashed):
                await do()

        # In nobody's context: it is the network's, and no process's task.
        self.posted.append(asyncio.get_running_loop().create_task(arrive(), name=f"late {call}", context=Context()))

    def _sprung(self, name: str, *, after: bool | None) -> Trap | None:
        """The trap that springs here and kills. A call counts when it begins (`after` False), or now (None)."""
        for trap in self.traps:
            if trap.call != name:
                continue
            if not after:
                trap.number -= 1
            if trap.number <= 0 and (after is None or trap.after == after):
                self.traps.remove(trap)
                when = "" if after is None else "after " if after else "before "
                self.history.say(self.who, f"{'frozen' if trap.freeze_s else 'killed'} {when}{name}")
                if trap.freeze_s:
                    self.struck("freeze at call", name)
                    self.freeze(trap.freeze_s)
                    return None
                if not trap.late_s:
                    self.struck("kill at call", name)
                self.kill()
                return trap
        return None


class SeenStore(TappedStore):
    """The bottom: tells what is put once it is there."""

    def __init__(self, store: ObjectStore, around: Around, *, created: Callable[[str, bytes], None]) -> None:
        super().__init__(store, around)
        self._created = created

    async def create(self, key: str, body: bytes) -> None:
        """As the protocol says."""

        async def create() -> None:
            await self._inner.create(key, body)
            self._created(key, body)

        await self._around(Call("create", key), create)
