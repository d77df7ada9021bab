"""The real scorer and sink in simulated processes: killed at a call, they leave no trace but what they had done."""

import asyncio
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

import orjson
import pytest

from cutbank.metrics import NoMetrics
from cutbank.pipeline.oracle import Expected, undisturbed
from cutbank.pipeline.scoring import ScorerConfig, group_name, run_scorer
from cutbank.pipeline.scoring.state import StateRoom
from cutbank.pipeline.sinking import SinkConfig, run_sink
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message, Partition, Position
from cutbank.testing import ManualClock
from cutbank.testing.detectors import chain_detectors
from cutbank.testing.loop import simulate
from cutbank.testing.memory_log import MemoryLog
from cutbank.testing.memory_store import MemoryStore
from cutbank.testing.process import SimulatedProcess
from cutbank.testing.taps import Call, TappedStore, TappedTransport
from cutbank.transports.base import StreamConfig

T = TypeVar("T")

SPEC = PipelineSpec(name="p")
DETECTORS = chain_detectors(dimensions=2, share=0.3)
SESSION_S = 5.0
SECONDS = 50
"""How long records come: over a minute's end, so that the sink has cut one object when the last ones come."""


class Begun:
    """Around what lies inside a process's gate: counts the calls that really begin."""

    def __init__(self) -> None:
        self.calls: Counter[Call] = Counter()

    async def __call__(self, call: Call, do: Callable[[], Awaitable[T]], /) -> T:
        self.calls[call] += 1
        return await do()


class Place:
    """A log, a state store and a bucket, with the services that work on them."""

    def __init__(self, *, own_clocks: bool = True) -> None:
        self.clock = ManualClock()
        self.own_clocks = own_clocks
        self.log = MemoryLog(clock=self.clock, heartbeat_s=1.0, session_timeout_s=SESSION_S)
        self.state, self.bucket = MemoryStore(name="state"), MemoryStore(name="bucket")
        self.begun: dict[str, Begun] = defaultdict(Begun)

    def seen(self, process: SimulatedProcess, store: MemoryStore) -> tuple[TappedTransport, TappedStore]:
        """The log and a store as a process has them."""
        begun = self.begun[process.name]
        handle = self.log.open(clock=process.clock if self.own_clocks else self.clock)
        return process.transport(TappedTransport(handle, begun)), process.store(TappedStore(store.open(), begun))

    def score(self, process: SimulatedProcess, stop: asyncio.Event) -> Coroutine[None, None, None]:
        return run_scorer(
            *self.seen(process, self.state),
            SPEC,
            ScorerConfig(batch_records_max=9, snapshot_s=3.0, wait_s=2.0),
            clock=process.clock,
            metrics=NoMetrics(),
            stop=stop,
            rng=random.Random(1),
            detectors=DETECTORS,
        )

    def sink(self, process: SimulatedProcess, stop: asyncio.Event) -> Coroutine[None, None, None]:
        return run_sink(
            *self.seen(process, self.bucket),
            SinkConfig(pipeline=SPEC.name, stream=SPEC.destination, stretch_records_max=20),
            clock=process.clock,
            metrics=NoMetrics(),
            stop=stop,
            rng=random.Random(2),
        )

    async def produce(self) -> None:
        transport = self.log.open()
        for second in range(SECONDS):
            values = [orjson.dumps({"price": second + 0.25, "quantity": number}) for number in range(3)]
            await transport.publish([Message(SPEC.source, value) for value in values])
            await self.clock.sleep(1.0)

    async def anomalies(self) -> list[bytes]:
        """What an undisturbed run gives."""
        room = StateRoom(self.state.open(), pipeline=SPEC.name, stream=SPEC.source)
        oracle = undisturbed(self.log.open(), room, SPEC, detectors=DETECTORS)
        return sorted([item.output.value async for item in oracle if isinstance(item, Expected)])

    def lines(self) -> list[bytes]:
        bodies = [body for key, body in self.bucket.objects.items() if not key.startswith("_cutbank/")]
        return sorted(line for body in bodies for line in body.splitlines())


Service = Callable[[SimulatedProcess, asyncio.Event], Coroutine[None, None, None]]


async def killed_and_replaced(place: Place, role: str, call: str, nth: int, *, after: bool) -> float:
    """Kill one of a scorer and a sink, prove that it does nothing more, and let another one make everything good.

    Returns the simulated second of the kill.
    """
    services: list[Service] = [place.score, place.sink]
    service, other = services if role == "scorer" else reversed(services)
    await place.log.open().ensure(StreamConfig(SPEC.source))
    stop = asyncio.Event()
    beside, victim, successor = (SimulatedProcess(name, place.clock) for name in ("beside", "victim", "successor"))
    beside.start(other(beside, stop))
    producing = asyncio.create_task(place.produce())
    rule = victim.crash_at(call, nth=nth, after=after)
    main = victim.start(service(victim, stop))
    await victim.ended()
    assert (rule.struck, main.done()) == (1, True)
    killed_s, begun = place.clock.monotonic_s(), Counter(place.begun["victim"].calls)
    successor.start(service(successor, stop))
    await producing
    await place.clock.sleep(75.0)
    stop.set()
    await successor.ended()
    await beside.ended()
    assert place.begun["victim"].calls == begun, "a dead process makes no call"
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert place.lines() == await place.anomalies() != []
    return killed_s


SCORER_CALLS = [
    ("join", 1), ("next_event", 1), ("fence", 1), ("read", 1), ("receive", 4), ("publish_and_commit", 1),
    ("publish_and_commit", 3), ("create", 6), ("delete", 2),
]  # fmt: skip
SINK_CALLS = [
    ("probe", 1),
    ("next_event", 1),
    ("receive", 3),
    ("create", 1),
    ("create", 2),
    ("create", 3),
    ("commit", 2),
]
KILLS = [
    *(("scorer", call, nth, after) for call, nth in SCORER_CALLS for after in (False, True)),
    *(("sink", call, nth, after) for call, nth in SINK_CALLS for after in (False, True)),
]


def check(place: Place, main: Coroutine[None, None, T], caplog: pytest.LogCaptureFixture) -> T:
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        result = simulate(main, clock=place.clock, seconds_max=1000.0)
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
    return result


@pytest.mark.parametrize(("role", "call", "nth", "after"), KILLS)
def test_killed_at_a_call(caplog: pytest.LogCaptureFixture, role: str, call: str, nth: int, *, after: bool) -> None:
    place = Place()
    check(place, killed_and_replaced(place, role, call, nth, after=after), caplog)


@pytest.mark.parametrize("own_clocks", [True, False], ids=["handle on its clock", "handle on another clock"])
@pytest.mark.parametrize("call", ["receive", "publish_and_commit", "create"])
def test_the_group_of_a_killed_scorer_learns_of_it_by_its_silence_alone(
    caplog: pytest.LogCaptureFixture, call: str, *, own_clocks: bool
) -> None:
    """Also where the transport knows nothing of the process: its heart is the process's task, its farewell a call."""
    place = Place(own_clocks=own_clocks)
    commits_s: list[float] = []

    def note(group: str, _partition: Partition, _position: Position) -> None:
        if group == group_name(SPEC):
            commits_s.append(place.clock.monotonic_s())

    place.log.on_commit.append(note)
    killed_s = check(place, killed_and_replaced(place, "scorer", call, 8, after=True), caplog)
    assert 0.0 < killed_s < SECONDS
    assert min(at_s for at_s in commits_s if at_s > killed_s) > killed_s + SESSION_S - 1.0 - 0.5
