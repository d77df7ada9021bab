"""A damaged batch of Kafka's under a live partition: it stops loudly, and nothing is committed past it.

Fences, commits and state are the real local ones; what is received comes from a real lease of Kafka's, whose fetches
are answered with the same records in the same places.
"""

import asyncio
from pathlib import Path

import pytest

from cutbank.errors import LogDamaged
from cutbank.records import Batch, Position
from cutbank.transports.base import Lease
from cutbank.transports.kafka.lease import KafkaLease
from kafka_answers import Answers, batch, cluster_of, damaged, fetched, lease_of
from scoring_stage import P0, Stage, TappedLease, sources, trades

BAD = 20


class ReadsFromKafka(TappedLease):
    """The local lease's rights and Kafka's records."""

    def __init__(self, lease: Lease, kafka: KafkaLease) -> None:
        super().__init__(lease, self._until_refused)
        self._kafka = kafka
        self._reads = False
        self._refused = asyncio.Event()

    def seek(self, position: Position) -> None:
        super().seek(position)
        self._kafka.seek(position)

    async def receive(self, *, records_max: int, bytes_max: int, wait_s: float) -> Batch:
        self._reads = True
        try:
            return await self._kafka.receive(records_max=records_max, bytes_max=bytes_max, wait_s=wait_s)
        except LogDamaged:
            self._refused.set()
            raise

    async def _until_refused(self, name: str, phase: str) -> None:
        """What was scored before is still being published when the damage is met, as it is on a slow log."""
        if self._reads and name in {"publish", "commit"} and phase == "before":
            await self._refused.wait()


@pytest.mark.parametrize("batch_records_max", [6, 7, 4096])
async def test_a_damaged_batch_stops_the_partition_and_is_never_passed(tmp_path: Path, batch_records_max: int) -> None:
    async with Stage(tmp_path).opened() as stage:
        stage.config = stage.config.model_copy(update={"batch_records_max": batch_records_max})
        await stage.publish(trades(60))
        source = await stage.read("trades")
        assert list(source.positions) == list(range(60))
        parts = [batch(first, source.values[first : first + 10]) for first in range(0, 60, 10)]
        parts[BAD // 10] = damaged(parts[BAD // 10])
        answers = Answers("trades")
        answers.set("FetchByName", lambda _: fetched(b"".join(parts), end=60))
        kafka = lease_of(cluster_of(answers), P0)
        async with stage.lease() as lease, stage.worker() as worker:
            with pytest.raises(LogDamaged, match=f"the batch at {BAD} has a wrong check sum"):
                await worker.work(ReadsFromKafka(lease, kafka), asyncio.Event())
        await kafka.release()
        committed = await stage.committed()
        assert committed is None or committed <= BAD
        assert all(int(position) < BAD for position in sources(await stage.lines("anomalies")))
        # Met while something was under way, it is asked for again, and that is said.
        assert stage.metrics.counters.get("cutbank_retries_total", 0) == (batch_records_max < BAD)
