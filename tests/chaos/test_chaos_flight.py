"""The flight recorder: what it tells after a SIGKILL is what was under way. Run as a script, this file is who dies."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.flight import SLOTS, Action, Aim, Event, Flight, Kind, Recorder, Step, When, make_ring, step_of
from cutbank.errors import AlreadyExists, StoreUnavailable, StreamUnavailable
from cutbank.pipeline.scoring.snapshots import birth_key, snapshot_key, stream_birth_key
from cutbank.pipeline.sinking.claims import ChainId, Layout
from cutbank.pipeline.sinking.layout import object_key
from cutbank.records import Batch, Partition, Position
from cutbank.testing.taps import Call

TESTS = Path(__file__).resolve().parents[1]


async def write_forever(ring: Path, proof: Path) -> None:
    """A process that commits, and leaves a proof of each commit's effect."""
    recorder = Recorder(ring)

    def leave_proof() -> None:
        proof.write_bytes(proof.read_bytes() + b".")

    async def commit() -> None:
        leave_proof()

    while True:
        await recorder(Call("fence", "trades/0"), nothing)
        await recorder(Call("commit", "trades/0"), commit)


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    path = tmp_path / "ring"
    make_ring(path)
    return path


async def nothing() -> None:
    pass


def raising(error: Exception) -> Callable[[], object]:
    async def call() -> None:
        raise error

    return call


@pytest.mark.parametrize("when", list(When))
def test_after_sigkill_the_ring_tells_the_call_that_was_under_way(ring: Path, tmp_path: Path, when: When) -> None:
    proof = tmp_path / "proof"
    proof.write_bytes(b"")
    flight = Flight(ring)
    with subprocess.Popen(
        [sys.executable, __file__, str(ring), str(proof)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
    ) as process:
        flight.arm(Aim(Step.COMMIT, when, Action.KILL))
        assert process.wait(timeout=60) == -signal.SIGKILL
    flight.follow()
    assert [event.step for event in flight.open.values()] == [Step.COMMIT]
    last = flight.events[-1]
    assert (last.kind, last.step, last.subject, last.note) == (Kind.AIMED, Step.COMMIT, "trades/0", "KILL")
    assert flight.counts[Step.COMMIT, Kind.DONE] == 0
    assert len(proof.read_bytes()) == (1 if when is When.AFTER else 0), "before: nothing was done; after: it was"


async def test_the_ring_tells_begin_and_end_of_each_call(ring: Path) -> None:
    recorder, flight = Recorder(ring), Flight(ring)
    batch = Batch(Partition("trades", "0"), Position(3), Position(8), (), (), (), ())

    async def receive() -> Batch:
        return batch

    assert await recorder(Call("receive", "trades/0"), receive) is batch
    with pytest.raises(AlreadyExists):
        await recorder(Call("create", "2026/x.json"), raising(AlreadyExists("there")))  # type: ignore[arg-type]
    assert flight.follow() == [
        Event(1, 1, Kind.BEGUN, "receive", "trades/0", ""),
        Event(2, 1, Kind.DONE, "receive", "trades/0", "8"),
        Event(3, 2, Kind.BEGUN, "create object", "2026/x.json", ""),
        Event(4, 2, Kind.FAILED, "create object", "2026/x.json", "AlreadyExists"),
    ]
    assert not flight.open
    assert flight.errors == {("create object", "AlreadyExists"): 1}
    assert flight.reading == {"trades/0": 8}
    assert flight.since(2) == list(flight.events)[2:]


async def test_a_ring_that_was_written_over_is_followed_from_where_it_is_whole(ring: Path) -> None:
    recorder, flight = Recorder(ring), Flight(ring)
    for number in range(SLOTS + 10):
        await recorder(Call("commit", f"trades/{number}"), nothing)
    seen = flight.follow()
    assert [event.number for event in seen] == list(range(seen[0].number, 2 * (SLOTS + 10) + 1)), "no gap from there on"
    assert SLOTS - 2 <= len(seen) <= SLOTS
    assert seen[-1] == Event(2 * (SLOTS + 10), SLOTS + 10, Kind.DONE, "commit", f"trades/{SLOTS + 9}", "")
    await recorder(Call("commit", "trades/x"), nothing)
    assert [event.subject for event in flight.follow()] == ["trades/x", "trades/x"]


async def test_a_full_disk_refuses_the_writes_it_is_said_of_until_disarmed(ring: Path) -> None:
    recorder, flight = Recorder(ring), Flight(ring)
    done: list[str] = []

    async def act() -> None:
        done.append("done")

    flight.arm(Aim(Step.STORE, When.BEFORE, Action.FULL))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await recorder(Call("create", "a/birth"), act)
    await recorder(Call("read", "a/birth"), act)
    await recorder(Call("commit", "trades/0"), act)
    flight.arm(Aim(Step.LOG, When.BEFORE, Action.FULL))
    with pytest.raises(StreamUnavailable):
        await recorder(Call("publish", "trades"), act)
    await recorder(Call("create", "a/birth"), act)
    flight.disarm()
    await recorder(Call("publish", "trades"), act)
    assert len(done) == 4


def test_creates_are_told_apart_by_what_they_create() -> None:
    chain, trades = ChainId("a-pipeline", "anomalies", "0"), Partition("trades", "0")
    steps = {
        chain.claim_key(Position(7)): Step.CLAIM,
        chain.birth_key: Step.BIRTH,
        object_key(chain, Layout(), start=Position(7), minute_ms=60_000, ordinal=0): Step.OBJECT,
        snapshot_key("a-pipeline", trades, 1, Position(7)): Step.SNAPSHOT,
        birth_key("a-pipeline", trades, 1): Step.BIRTH,
        stream_birth_key("a-pipeline", "trades"): Step.BIRTH,
    }
    assert {key: step_of(Call("create", key)) for key in steps} == steps
    assert step_of(Call("publish_and_commit", "trades/0")) == Step.PUBLISH_AND_COMMIT


if __name__ == "__main__":
    asyncio.run(write_forever(Path(sys.argv[1]), Path(sys.argv[2])))
