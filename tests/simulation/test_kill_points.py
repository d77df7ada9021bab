"""Where a kill is said to have fallen: what a process has let go of is not its own any more, and a kill counts once."""

import asyncio

from cutbank.testing.clock import ManualClock
from cutbank.testing.taps import Call
from simulation.history import History
from simulation.watch import CLAIM_OBJECT, OBJECT_COMMIT, Watch


async def nothing() -> None:
    pass


def watch() -> Watch:
    clock = ManualClock()
    seen = Watch(
        "sink-0.1",
        History(clock),
        kill=lambda: None,
        freeze=lambda _seconds: None,
        struck=lambda _kind, _call: None,
        gate=nothing,
        clock=clock,
    )
    seen._unfinished = {"anomalies/0": {"a"}, "anomalies/1": {"b"}}
    seen._uncommitted = {"anomalies/2", "anomalies/3"}
    return seen


def test_a_kill_counts_once_at_a_point_whatever_the_number_of_partitions() -> None:
    assert watch().kill_points() == {CLAIM_OBJECT: 1, OBJECT_COMMIT: 1}


def test_a_partition_that_was_let_go_of_is_no_point_any_more() -> None:
    seen = watch()

    async def release() -> None:
        for number in range(4):
            await seen.inner(Call("release", f"anomalies/{number}"), nothing)

    asyncio.run(release())
    assert seen.kill_points() == {}
