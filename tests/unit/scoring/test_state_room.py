"""What the state store keeps, on the real file-system store: create-only, two usable generations, births for ever."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import AlreadyExists, ObjectMissing, SnapshotUnusable, StoreUnavailable
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.pipeline.scoring.snapshots import (
    SNAPSHOT_BYTES_MAX,
    Birth,
    Run,
    Snapshot,
    StreamBirth,
    snapshot_bytes,
)
from cutbank.pipeline.scoring.state import SnapshotEntry, StateRoom
from cutbank.records import Partition, Position
from scoring_stage import P0, TappedStore


def run_of(number: int) -> Run:
    return Run(pipeline="p", partition=P0, identity="i", number=number, spec_hash="h")


def snapshot_of(next_position: int, *, run: int = 1) -> bytes:
    return snapshot_bytes(
        Snapshot(
            run=run_of(run),
            next=Position(next_position),
            clamp_ms=0,
            records=next_position,
            errors=0,
            anomalies=0,
            threshold=1.0,
            detector=b"state",
        )
    )


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[StateRoom]:
    async with open_store(f"file://{tmp_path}/state", clock=SystemClock(), metrics=NoMetrics()) as store:
        yield StateRoom(store, pipeline="p", stream="trades")


async def put(room: StateRoom, *places: int, run: int = 1) -> None:
    for place in places:
        await room.create_snapshot(P0, run, Position(place), snapshot_of(place, run=run))


async def listed(room: StateRoom) -> list[tuple[int, int]]:
    return [(entry.run, entry.next) for entry in (await room.inventory(P0)).snapshots]


async def test_an_empty_store_has_nothing(room: StateRoom) -> None:
    assert await room.stream_birth() is None
    assert await room.birth(P0, 1) is None
    inventory = await room.inventory(P0)
    assert (inventory.runs, inventory.snapshots, inventory.newest_run) == ((), (), 0)


async def test_of_two_births_the_first_counts(room: StateRoom) -> None:
    first = StreamBirth(pipeline="p", stream="trades", identity="i", starts={"0": Position(4)})
    await room.create_stream_birth(first)
    with pytest.raises(AlreadyExists):
        await room.create_stream_birth(StreamBirth(pipeline="p", stream="trades", identity="j", starts={}))
    assert await room.stream_birth() == first
    birth = Birth(run=run_of(1), start=Position(4))
    await room.create_birth(birth)
    with pytest.raises(AlreadyExists):
        await room.create_birth(Birth(run=run_of(1), start=Position(5)))
    assert await room.birth(P0, 1) == birth


async def test_the_inventory_lists_the_newest_first_over_all_runs(room: StateRoom) -> None:
    await put(room, 5, 50, 500)
    await put(room, 7, run=2)
    await room.create_birth(Birth(run=run_of(3), start=Position(9)))
    inventory = await room.inventory(P0)
    assert inventory.runs == (1, 2, 3)
    assert inventory.newest_run == 3
    assert await listed(room) == [(2, 7), (1, 500), (1, 50), (1, 5)]
    assert [entry.next for entry in inventory.of_run(1)] == [500, 50, 5]
    assert (await room.inventory(Partition("trades", "1"))).runs == ()


async def test_foreign_files_are_left_alone(room: StateRoom, tmp_path: Path) -> None:
    await put(room, 5)
    note = tmp_path / "state/p/trades/0/notes.txt"
    note.write_text("mine")
    assert await listed(room) == [(1, 5)]
    await put(room, 6, 7, 8)
    await room.prune(P0, 1)
    assert note.exists()


async def test_the_same_snapshot_again_is_fine(room: StateRoom) -> None:
    await put(room, 5)
    await put(room, 5)
    entry = (await room.inventory(P0)).snapshots[0]
    assert (await room.snapshot(P0, entry)).records == 5


async def test_a_corrupt_snapshot_in_its_place_is_replaced(room: StateRoom, tmp_path: Path) -> None:
    await put(room, 5)
    entry = (await room.inventory(P0)).snapshots[0]
    path = tmp_path / "state" / entry.key
    path.chmod(0o644)
    path.write_bytes(b"broken")
    with pytest.raises(SnapshotUnusable):
        await room.snapshot(P0, entry)
    await put(room, 5)
    assert path.read_bytes() == snapshot_of(5)


async def test_two_that_replace_a_corrupt_snapshot_at_once_both_succeed_in_the_end(tmp_path: Path) -> None:
    async with open_store(f"file://{tmp_path}/state", clock=SystemClock(), metrics=NoMetrics()) as store:
        rival = StateRoom(store, pipeline="p", stream="trades")

        async def faster(name: str, phase: str) -> None:
            if (name, phase) == ("delete", "after"):
                await put(rival, 5)

        room = StateRoom(TappedStore(store, faster), pipeline="p", stream="trades")
        await rival.create_snapshot(P0, 1, Position(5), b"broken")
        with pytest.raises(StoreUnavailable, match="somebody else replaced it"):
            await put(room, 5)
        await put(room, 5)
        entry = (await room.inventory(P0)).snapshots[0]
        assert (await room.snapshot(P0, entry)).records == 5


async def test_pruning_keeps_two_usable_generations(room: StateRoom) -> None:
    await put(room, 1, 2, 3, 4, 5)
    unreadable = (await room.inventory(P0)).snapshots[1].key
    await room.prune(P0, 1, unusable=frozenset({unreadable}))
    assert await listed(room) == [(1, 5), (1, 3)]


async def test_pruning_drops_older_runs_snapshots_never_births_nor_newer_runs(room: StateRoom) -> None:
    for run in (1, 2, 3):
        await room.create_birth(Birth(run=run_of(run), start=Position(0)))
        await put(room, 10, 20, 30, run=run)
    await room.prune(P0, 2)
    assert await listed(room) == [(3, 30), (3, 20), (3, 10), (2, 30), (2, 20)]
    assert (await room.inventory(P0)).runs == (1, 2, 3)


async def test_a_file_under_another_ones_name_is_unusable(room: StateRoom, tmp_path: Path) -> None:
    await put(room, 5, 6)
    newer, older = (await room.inventory(P0)).snapshots
    (tmp_path / "state" / newer.key).chmod(0o644)
    (tmp_path / "state" / newer.key).write_bytes((tmp_path / "state" / older.key).read_bytes())
    with pytest.raises(SnapshotUnusable, match="holds another snapshot"):
        await room.snapshot(P0, newer)


async def test_a_birth_under_another_ones_name_is_unusable(room: StateRoom, tmp_path: Path) -> None:
    await room.create_birth(Birth(run=run_of(1), start=Position(0)))
    other = tmp_path / "state/p/trades/0/00000002/birth"
    other.parent.mkdir()
    other.write_bytes((tmp_path / "state/p/trades/0/00000001/birth").read_bytes())
    with pytest.raises(SnapshotUnusable, match="another run"):
        await room.birth(P0, 2)


async def test_a_snapshot_over_the_limit_is_not_even_read(room: StateRoom) -> None:
    entry = SnapshotEntry(run=1, next=Position(5), key="p/trades/0/00000001/none", size_bytes=SNAPSHOT_BYTES_MAX + 1)
    with pytest.raises(SnapshotUnusable, match="the most is"):
        await room.snapshot(P0, entry)


async def test_a_snapshot_gone_since_the_listing_is_missing(room: StateRoom) -> None:
    await put(room, 5)
    entry = (await room.inventory(P0)).snapshots[0]
    await room.discard(entry)
    with pytest.raises(ObjectMissing):
        await room.snapshot(P0, entry)
