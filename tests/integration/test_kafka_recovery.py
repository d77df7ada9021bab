"""Recovery on a real Kafka: what a scorer does after a kill, and with snapshots or all state lost; rolling updates.

Every record's score goes to [scores]; at the end these are the ones of an undisturbed scorer on the embedded log, bit
for bit, and the oracle's lines over this very log, byte for byte.
"""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import orjson
import pytest

from brokers.fixtures import Broker
from cutbank.clock import Clock
from cutbank.metrics import Metrics
from cutbank.pipeline.oracle import Expected, undisturbed
from cutbank.records import Partition
from cutbank.runtime.metrics import PrometheusMetrics
from cutbank.runtime.service import Runtime
from cutbank.testing.taps import Call, TappedTransport
from cutbank.transports.base import Tell, Transport, tell_nobody
from cutbank.transports.registry import TRANSPORTS, open_kafka
from scorers_on_kafka import PARTITIONS, STATIC, Process, Site, scored_locally, scores, until
from scoring_stage import trades

T = TypeVar("T")
STRETCH = 150
"""Records in each partition between two disturbances."""
REPLAYED = "cutbank_replayed_records_total"


@pytest.fixture
async def site(broker: Broker, tmp_path: Path) -> AsyncIterator[Site]:
    async with Site(broker, tmp_path) as site:
        yield site


async def check_scores(site: Site, published: list[bytes]) -> None:
    """Each record of each partition once, with the score that it gets where nothing happens."""
    lines = await site.lines(site.spec.scores)
    ids = [str(number) for number in range(site.partitions)]
    undisturbed_scores = await scored_locally(site.folder, site.spec, dict.fromkeys(ids, published))
    assert {one: scores(part) for one, part in lines.items()} == undisturbed_scores
    expected: dict[str, list[bytes]] = {one: [] for one in ids}
    async for line in undisturbed(site.transport, None, site.spec, emit="all"):
        assert isinstance(line, Expected)
        if line.output.stream == site.spec.scores:
            expected[line.source.partition].append(line.output.value)
    assert lines == expected


async def replay_due(site: Site) -> int:
    """Records that lie between the newest snapshot (or birth) and the committed position, over all partitions."""
    committed = await site.committed()
    due = 0
    for partition, inventory in (await site.inventory()).items():
        birth = await site.state.birth(partition, inventory.newest_run)
        assert birth is not None
        snapshots = inventory.of_run(inventory.newest_run)
        newest = snapshots[0].next if snapshots else birth.start
        batch = await site.transport.read(partition, newest, records_max=100_000, bytes_max=1 << 26)
        due += len(batch.before(committed[partition]))
    return due


async def live(scorer: Process) -> None:
    """Once all partitions are live in it, replays behind it."""
    await scorer.says("live", PARTITIONS)


async def test_a_killed_scorer_costs_what_came_since_its_last_snapshot_and_no_score_changes(site: Site) -> None:
    values = trades(6 * STRETCH)
    stretches = [values[first : first + STRETCH] for first in range(0, len(values), STRETCH)]

    # Killed with load on, somewhere between two of its periodic snapshots.
    async with site.process(SNAPSHOT_S="0.5") as scorer:
        await live(scorer)
        for first in range(0, 2 * STRETCH, 10):
            await site.publish(values[first : first + 10])

            async def scored(at_least: int = first * PARTITIONS) -> bool:
                return await scorer.metric("cutbank_records_scored_total") >= at_least

            await until(scored, what="the scorer to keep up")
        assert await scorer.metric("cutbank_snapshots_total") > 0
        await scorer.kill()
    births = {partition: inventory.runs for partition, inventory in (await site.inventory()).items()}
    assert set(births.values()) == {(1,)}

    # Its heir replays what came since the newest snapshot, and is killed long after its last one.
    due = await replay_due(site)
    async with site.process(options=STATIC) as scorer:
        await live(scorer)
        assert await scorer.metric(REPLAYED) == due
        await site.publish(stretches[2])
        await site.all_scored()
        assert await scorer.metric("cutbank_snapshots_total") == 0
        await scorer.kill()
    assert (due := await replay_due(site)) >= PARTITIONS * STRETCH
    async with site.process(options=STATIC) as scorer:
        await live(scorer)
        assert await scorer.metric(REPLAYED) == due
        await site.publish(stretches[3])
        await site.all_scored()
        assert await scorer.terminate() == 0, "with a last snapshot of each partition"
    assert await replay_due(site) == 0

    # The newest snapshot of one partition is damaged, of the other gone: the ones before them.
    inventory = await site.inventory()
    damaged, gone = (inventory[Partition(site.spec.source, one)].of_run(1)[0] for one in "01")
    body = bytearray((site.state_folder / damaged.key).read_bytes())
    body[len(body) // 2] ^= 1
    (site.state_folder / damaged.key).write_bytes(body)
    (site.state_folder / gone.key).unlink()
    async with site.process(options=STATIC) as scorer:
        await live(scorer)
        assert await scorer.metric("cutbank_snapshots_unusable_total") == 1
        assert await scorer.metric(REPLAYED) >= PARTITIONS * STRETCH
        await site.publish(stretches[4])
        await site.all_scored()
        assert await scorer.terminate() == 0
    # All snapshots are gone, not the births: all over again.
    for entry in (entry for found in (await site.inventory()).values() for entry in found.snapshots):
        (site.state_folder / entry.key).unlink()
    async with site.process(options=STATIC) as scorer:
        await live(scorer)
        assert await scorer.metric(REPLAYED) == PARTITIONS * 5 * STRETCH
        await site.publish(stretches[5])
        await site.all_scored()
        assert await scorer.metric("cutbank_runs_started_total") == 0
        await scorer.kill()
    assert births == {partition: inventory.runs for partition, inventory in (await site.inventory()).items()}
    await check_scores(site, values)


async def test_without_any_state_every_partition_stops_loudly_until_told_to_begin_anew(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    values = trades(2 * STRETCH)
    async with site.service():
        await site.publish(values[:STRETCH])
        await site.all_scored()
    before, committed = await site.lines(site.spec.scores), await site.committed()
    shutil.rmtree(site.state_folder)
    async with site.service() as runtime:

        async def stopped() -> bool:
            assert isinstance(runtime.metrics, PrometheusMetrics)
            return runtime.metrics.value("cutbank_partitions_stopped", role="scorer") == PARTITIONS

        await until(stopped, what="every partition to stop")
        await site.publish(values[STRETCH:])
    assert await site.committed() == committed
    assert await site.lines(site.spec.scores) == before
    said = capsys.readouterr().out
    assert said.count("partition stopped") == PARTITIONS
    assert "has no birth of" in said
    assert "on_lost_state=new_run" in said
    async with site.service(ON_LOST_STATE="new_run"):
        await site.all_scored()
    lines = await site.lines(site.spec.scores)
    for one, part in lines.items():
        assert part[:STRETCH] == before[one], "what was said stays said, once"
        runs = [orjson.loads(line)["SOURCE"]["run"] for line in part]
        assert set(runs[:STRETCH]) == {1}
        assert len(set(runs[STRETCH:])) == 1
        assert runs[STRETCH] > 1, "sinks drop what is of an older run"
    # All records are retained, and were learnt again: the scores are those of a life without a loss.
    assert {one: scores(part) for one, part in lines.items()} == await scored_locally(
        site.folder, site.spec, dict.fromkeys("01", values)
    )


async def test_a_birth_is_resolved_once(site: Site) -> None:
    """Where LATEST was stays the start, though the first scorer did nothing more, and the next is told otherwise."""
    values = trades(60)
    await site.publish(values[:20])
    ends = await site.ends()
    async with site.process(options=STATIC, START="latest") as scorer:

        async def born() -> bool:
            return all(inventory.runs for inventory in (await site.inventory()).values())

        await until(born, what="the births of all partitions")
        await scorer.kill()
    await site.publish(values[20:40])
    births = {partition: await site.state.birth(partition, 1) for partition in ends}
    assert {partition: birth.start for partition, birth in births.items() if birth is not None} == ends
    async with site.process(options=STATIC, START="earliest") as scorer:
        await site.all_scored()
        await scorer.kill()
    async with site.process(options=STATIC, START="latest"):
        await site.publish(values[40:])
        await site.all_scored()
    ids = list(range(20, 60))
    found = {one: [number for number, _ in scores(part)] for one, part in (await site.lines(site.spec.scores)).items()}
    assert found == {"0": ids, "1": ids}
    assert births == {partition: await site.state.birth(partition, 1) for partition in ends}
    assert {inventory.runs for inventory in (await site.inventory()).values()} == {(1,)}


class Fences:
    """Around every Kafka transport that is opened: counts each scorer's fences."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: dict[str, int] = {}
        monkeypatch.setitem(TRANSPORTS, "kafka", self._open)

    def _open(
        self, url: str, *, clock: Clock, metrics: Metrics, client_id: str | None = None, tell: Tell = tell_nobody
    ) -> Transport:
        name = url.rpartition("group_instance_id=")[2]

        async def counted(call: Call, do: Callable[[], Awaitable[T]], /) -> T:
            if call.name == "fence":
                self.of[name] = self.of.get(name, 0) + 1
            return await do()

        return TappedTransport(open_kafka(url, clock=clock, metrics=metrics, client_id=client_id, tell=tell), counted)


def figure(runtime: Runtime, name: str, **labels: str) -> float:
    assert isinstance(runtime.metrics, PrometheusMetrics)
    return runtime.metrics.value(name, **labels)


async def reaches(runtime: Runtime, value: float, name: str, **labels: str) -> None:
    async def reached() -> bool:
        return figure(runtime, name, **labels) == value

    await until(reached, what=f"{name} to be {value:g}")


async def test_a_rolling_update_with_static_names_moves_nothing(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scorer one is stopped and started again within its session: scorer two notices nothing."""
    fences = Fences(monkeypatch)
    values = trades(3 * STRETCH)
    one, two = (f"&group_instance_id={name}" for name in ("one", "two"))
    # A session that is longer than any stop and start of the test.
    async with Site(broker, tmp_path, partitions=4, session_ms=55_000) as site, site.service(options=two) as stays:

        async def holds(of: Runtime, partitions: int) -> None:
            await reaches(of, partitions, "cutbank_partitions_held", role="scorer")

        await holds(stays, 4)
        async with site.service(options=one) as goes:
            await holds(goes, 2)
            await holds(stays, 2)
            await site.publish(values[:STRETCH])
            for each in (goes, stays):
                await reaches(each, 2 * STRETCH, "cutbank_records_scored_total")
        fenced = fences.of["two"]
        await site.publish(values[STRETCH : 2 * STRETCH])
        async with site.service(options=one) as back:
            await holds(back, 2)
            await site.publish(values[2 * STRETCH :])
            await reaches(back, 2 * 2 * STRETCH, "cutbank_records_scored_total")
            await reaches(stays, 2 * 3 * STRETCH, "cutbank_records_scored_total")
            assert figure(back, REPLAYED) == 0, "its last snapshots were at the committed positions"
        assert figure(stays, "cutbank_partitions_held", role="scorer") == 2
        assert fences.of["two"] == fenced
        assert figure(stays, REPLAYED) == 0
        assert figure(stays, "cutbank_partitions_given_up_total", role="scorer") == 0
        await check_scores(site, values)


async def test_of_two_processes_with_one_static_name_the_older_exits_and_says_why(site: Site) -> None:
    async with site.process(options=STATIC) as older:
        await live(older)
        async with site.service(options=STATIC):
            assert await older.ends() == 2
            await site.publish(trades(20))
            await site.all_scored()
    (error,) = older.logged("failed")
    assert "another process has joined as group_instance_id 'scorer-0'" in error["error"]
