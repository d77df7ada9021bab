"""What a sink says loudly: another stream under the same name, records past retention, damaged chains."""

import asyncio
import random
import re
import sqlite3
from pathlib import Path

import orjson
import pytest

from cutbank.errors import AnotherStream, ObjectsLost, PartitionStopped, PositionLost, StateLost
from cutbank.pipeline.sinking import SinkConfig, inspect
from cutbank.pipeline.sinking.claims import DOCUMENT_BYTES_MAX, Claim, Layout, encode
from cutbank.pipeline.sinking.layout import object_key
from cutbank.pipeline.sinking.worker import Sink
from cutbank.records import Partition, Position
from cutbank.testing.faults import Crashed
from cutbank.transports.base import StreamConfig
from sinking_world import CHAIN, FIRST_MINUTE_MS, PIPELINE, STREAM, World, anomaly, crashing, ids

DAY_MS = 24 * 3600 * 1000


async def crash_at(world: World, at: int) -> None:
    with pytest.raises(Crashed):
        async with world.sinking(store=crashing(world, at=at)) as running:
            await world.until(world.all_committed, running)


async def stops_with(world: World, kind: type[PartitionStopped], match: str, **settings: object) -> None:
    with pytest.raises(kind, match=match):
        async with world.sinking(**settings) as running:
            await running.ended()


async def expire(world: World) -> None:
    """Let everything published so far pass retention."""
    world.clock.jump_wall(DAY_MS + 1)
    await world.transport.expire()


def forge(world: World, key: str, body: bytes) -> None:
    path = Path(world.store.url.removeprefix("file://")) / key
    path.write_bytes(body)


async def made_again(world: World) -> None:
    await world.transport.delete(STREAM)
    await world.transport.ensure(StreamConfig(STREAM))


async def test_a_stream_made_again_under_the_same_name_is_another_stream(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    await made_again(world)
    await world.publish(anomaly(2), minute=1)
    await stops_with(world, AnotherStream, "another stream has taken this name.*Give the new stream another name")
    assert ids(await world.lines()) == [1]


async def test_a_second_cluster_with_more_partitions_begins_none_of_its_own_chains(world: World) -> None:
    """On the same root: the partitions that the first one has not got are none of its, and stop as well."""
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    await world.transport.delete(STREAM)
    await world.transport.ensure(StreamConfig(STREAM, partitions=2))
    config = SinkConfig(pipeline=PIPELINE, stream=STREAM)
    sink = Sink(world.transport, world.store, config, clock=world.clock, metrics=world.metrics, rng=random.Random(1))
    async with world.transport.consumer("p.sink", [STREAM]) as consumer:
        stopped = []
        async for event in consumer.events():
            with pytest.raises(AnotherStream, match=r"chain p/anomalies/0 was begun on .*another store URL"):
                await sink.work(event.lease, asyncio.Event())
            stopped.append(event.lease.partition.id)
            if len(stopped) == 2:
                break
    assert sorted(stopped) == ["0", "1"]
    assert not await world.store.exists(CHAIN._replace(partition="1").birth_key)


async def test_an_object_that_is_there_with_other_content_is_never_taken_for_the_claims(world: World) -> None:
    """As after somebody removed the claims and left the objects."""
    await world.publish(anomaly(1), minute=0)
    await world.publish(anomaly(2), minute=1)
    key = object_key(CHAIN, Layout(), start=Position(0), minute_ms=FIRST_MINUTE_MS, ordinal=0)
    await world.store.create(key, b"a line of an earlier chain\n")
    await stops_with(world, PartitionStopped, "other content than its claim says; move it out of the way")
    assert await world.store.read(key) == b"a line of an earlier chain\n"
    await world.store.delete(key)
    await world.sink_all()
    assert ids(await world.lines()) == [1, 2]
    await world.check_whole()


async def test_another_first_record_is_another_stream_even_under_one_identity(world: World) -> None:
    """As after a broker was restored from another one's disk."""
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    await made_again(world)
    await world.publish(anomaly(2), minute=1)
    birth = await inspect.birth(world.store, CHAIN)
    identity = (await world.transport.describe(STREAM)).identity
    forge(world, CHAIN.birth_key, encode(birth.model_copy(update={"identity": identity})))
    await stops_with(world, AnotherStream, "record at 0 is not the one")


async def test_a_log_that_ends_before_the_chain_is_another_stream(world: World) -> None:
    await world.publish(anomaly(1), anomaly(2), minute=0)
    await world.sink_all()
    await made_again(world)
    await world.publish(anomaly(1), minute=1)
    birth = await inspect.birth(world.store, CHAIN)
    identity = (await world.transport.describe(STREAM)).identity
    forge(world, CHAIN.birth_key, encode(birth.model_copy(update={"identity": identity})))
    await stops_with(world, AnotherStream, "it ends at 1, before the newest claim does")


async def test_records_that_differ_inside_an_unfinished_claim_are_another_stream(world: World) -> None:
    await world.publish(anomaly(1), anomaly(2), minute=0)
    await crash_at(world, 2)
    claim = (await world.claims())[0]
    lines = claim.objects[0].model_copy(update={"sha256": "0" * 64})
    forge(world, claim.key, encode(claim.model_copy(update={"objects": (lines,)})))
    await stops_with(world, AnotherStream, "are not those it was made of")
    assert await world.objects() == {}


@pytest.mark.parametrize("count", [1, 3])
async def test_a_claim_of_fewer_or_more_records_than_there_are_is_not_finished_wrongly(
    world: World, count: int
) -> None:
    await world.publish(anomaly(1), anomaly(2), minute=0)
    await crash_at(world, 2)
    claim = (await world.claims())[0]
    wrong = claim.objects[0].model_copy(update={"count": count, "line_bytes": claim.line_bytes * count // 2})
    forge(world, claim.key, encode(claim.model_copy(update={"objects": (wrong,)})))
    await stops_with(world, AnotherStream, "are not those it was made of")
    assert await world.objects() == {}


async def test_objects_that_are_there_need_no_records(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    with pytest.raises(Crashed):
        async with world.sinking(store=crashing(world, at=2, after=True)) as running:
            await world.until(world.all_committed, running)
    await expire(world)
    await world.publish(anomaly(2), minute=3000)
    await world.sink_all()
    assert ids(await world.lines()) == [1, 2]
    await world.check_whole()


async def test_missing_objects_whose_records_are_gone_are_lost_loudly(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await crash_at(world, 2)
    await expire(world)
    await world.publish(anomaly(2), minute=3000)
    await stops_with(world, ObjectsLost, r"2026/.*p-anomalies-0-0-0\.json.*accept_lost")
    assert [loss async for loss in inspect.losses(world.store)] == []
    # Only the explicit setting goes on, and says so in the store, once.
    await world.sink_all(accept_lost=True)
    (loss,) = [loss async for loss in inspect.losses(world.store, "p")]
    assert (loss.start, loss.end) == (0, 1)
    assert loss.missing == ((await world.claims())[0].objects[0].key,)
    assert ids(await world.lines()) == [2]


async def test_a_loss_once_accepted_needs_no_setting_any_more(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await crash_at(world, 2)
    await expire(world)
    await world.publish(anomaly(2), minute=3000)

    async def accepted() -> bool:
        return bool([loss async for loss in inspect.losses(world.store)])

    async with world.sinking(accept_lost=True) as running:
        await world.until(accepted, running, step_s=0)
    assert len(await world.claims()) == 1
    await world.sink_all()
    assert ids(await world.lines()) == [2]


async def test_unread_records_past_retention_are_lost_loudly(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    await world.publish(anomaly(2), minute=1)
    await expire(world)
    await world.publish(anomaly(3), minute=3000)
    await stops_with(world, PositionLost, "the chain ends at 1, the oldest record retained is 2")
    await world.sink_all(accept_lost=True)
    (loss,) = [loss async for loss in inspect.losses(world.store)]
    assert (loss.start, loss.end, loss.missing) == (1, 2, ())
    claims = await world.claims()
    assert [(claim.start, claim.end, len(claim.objects)) for claim in claims] == [(0, 1, 1), (1, 2, 0), (2, 3, 1)]
    assert ids(await world.lines()) == [1, 3]
    await world.check_whole()


async def test_a_gap_claim_left_without_its_mark_is_finished(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    await world.publish(anomaly(2), minute=1)
    await expire(world)
    await world.publish(anomaly(3), minute=3000)
    with pytest.raises(Crashed):
        async with world.sinking(store=crashing(world, at=1), accept_lost=True) as running:
            await running.ended()
    assert [loss async for loss in inspect.losses(world.store)] == []
    await world.sink_all()
    assert [(loss.start, loss.end) async for loss in inspect.losses(world.store)] == [(1, 2)]
    assert ids(await world.lines()) == [1, 3]


async def test_the_committed_position_counts_where_the_chains_end_is_gone(world: World) -> None:
    """Repeats moved the position on; then they passed retention, and nothing was lost by that."""
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    await world.publish(anomaly(1), anomaly(1), minute=1)
    await world.sink_all()
    assert await world.committed() == 3
    await expire(world)
    await world.publish(anomaly(1), anomaly(2), minute=3000)
    await world.sink_all()
    claims = await world.claims()
    assert [(claim.start, claim.end) for claim in claims] == [(0, 1), (1, 5)]
    assert ids(await world.lines()) == [1, 2], "marks go on too"
    await world.check_whole()


async def test_an_idle_partition_past_retention_is_not_lost(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    await expire(world)
    part = (await world.transport.describe(STREAM)).partitions[0]
    assert part.oldest == part.end == 1
    await world.sink_all()
    await world.publish(anomaly(2), minute=3000)
    await world.sink_all()
    assert ids(await world.lines()) == [1, 2]


async def test_what_is_held_when_the_next_records_are_lost_is_kept_first(world: World) -> None:
    """Retention overtakes a slow reader: what it has in memory may be the last copy."""
    await world.publish(anomaly(1), minute=0)

    async def held() -> bool:
        return running.sink.held_bytes > 0

    async def over() -> bool:
        return running.task.done()

    async with world.sinking() as running:
        await world.until(held, running, step_s=0)
        overtake(world)
        await world.until(over, step_s=0.5)
        with pytest.raises(PositionLost):
            running.task.result()
        running.task = running.idle()
    assert ids(await world.lines()) == [1]
    await world.check_whole()


def overtake(world: World) -> None:
    """Two records come and pass retention between two reads, which no timing here can bring about: the log is told."""
    path = world.url.removeprefix("local://").partition("?")[0]
    with sqlite3.connect(path) as db:
        db.execute("UPDATE partitions SET oldest = 3, next_position = 3")
    db.close()


async def test_claims_without_a_birth_stop(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    await world.store.delete(CHAIN.birth_key)
    await stops_with(world, StateLost, "no birth; restore _cutbank/p/anomalies/0/birth")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda body: body[: len(body) // 2], "not JSON"),
        (lambda body: b"", "not JSON"),
        (lambda body: b"[]", "an object"),
        (lambda body: body.replace(b'"end":"1"', b'"end":"0"'), "ends after its start"),
        (lambda body: body.replace(b'"stream":"anomalies"', b'"stream":"trades"'), "another key"),
        (lambda body: body.replace(b'"count":1', b'"count":1,"colour":"red"'), "colour"),
        (lambda body: body.replace(b'"key":"2026', b'"key":"../2026'), "object key"),
        (lambda body: orjson.dumps({**orjson.loads(body), "version": 2}), "newer Cutbank"),
        (lambda body: orjson.dumps({**orjson.loads(body), "layout": {"version": 9}}), "newer Cutbank"),
        (lambda body: body + b" " * DOCUMENT_BYTES_MAX, "larger than"),
    ],
)
async def test_a_damaged_or_newer_claim_stops_and_names_its_key(world: World, damage: object, why: str) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    claim = (await world.claims())[0]
    body = await world.store.read(claim.key)
    assert callable(damage)
    forge(world, claim.key, damage(body))
    await stops_with(world, PartitionStopped, f"{re.escape(claim.key)}.*{why}")


async def test_foreign_files_among_the_claims_change_nothing(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    for name in ("0", "0" * 64 + ".lost.bak", "FFFF", "notes.txt", "0" * 63 + "g"):
        await world.store.create(CHAIN.prefix + name, b"what")
    await world.publish(anomaly(2), minute=1)
    await world.sink_all()
    assert ids(await world.lines()) == [1, 2]
    await world.check_whole()
    links = [key async for key, link in inspect.links(world.store) if link is None]
    assert len(links) == 5


async def test_a_record_that_is_gone_from_a_finished_claim_is_no_matter(world: World) -> None:
    await world.publish(anomaly(1), minute=0)
    await world.sink_all()
    await expire(world)
    batch = (await world.transport.describe(STREAM)).partitions[0]
    with pytest.raises(PositionLost):
        await world.transport.read(Partition(STREAM, "0"), Position(0), records_max=1, bytes_max=1)
    assert batch.oldest == 1
    await world.sink_all()
    assert isinstance((await world.claims())[0], Claim)
