"""Faults of records: a send that is too large for its topic, one anomaly that is, and poison. Event-loop only."""

import asyncio
from itertools import islice

from chaos.crew import Life
from chaos.kafka_stage import KafkaStage
from cutbank.records import Message
from cutbank.testing.bad_records import bad_records

BATCH_BYTES = 1_000
"""max.message.bytes by which a batch of anomalies is too large and one anomaly is not."""

ANOMALY_BYTES = 200
"""max.message.bytes by which each anomaly is too large."""

POISON_RECORDS = 400
"""Odd records, among good ones, each time."""

PUBLISH_BYTES_MAX = 1 << 20


async def too_large(stage: KafkaStage, times: int) -> None:
    """The anomalies' topic takes less at a time; then not even one, until somebody mends it."""
    world, crew = stage.world, stage.crew
    stream = world.spec.destination
    for _ in range(times):
        before = await world.limit_messages(stream, BATCH_BYTES)
        await _says(crew.posts["scorer"], b"it is sent in parts")
        await stage.at_work("a limit below a batch of anomalies")
        stage.happened["limit of the topic below a batch of anomalies"] += 1
        stage.tell("a limit below one anomaly")
        await world.limit_messages(stream, ANOMALY_BYTES)
        scorer = crew.posts["scorer"]
        await _says(scorer, b"raise the stream's limit")
        stage.tell("mended")
        await world.limit_messages(stream, before)
        await scorer.terminated()
        stage.tell("started again")
        await crew.start("scorer")
        stage.happened["limit of the topic below one anomaly: a loud stop, then mended"] += 1
        await stage.at_work("the limit was mended")


async def _says(life: Life, what: bytes) -> None:
    """Until it has said this. Raises Trouble."""

    async def said() -> bool:
        return what in await asyncio.to_thread(life.log.read_bytes)

    await life.until_true(said, what=f"the words: {what.decode()}")


async def poison(stage: KafkaStage, times: int) -> None:
    """Records of every odd kind among the producer's."""
    world = stage.world
    seed = stage.rng.randrange(1 << 30)
    cases = islice(bad_records(world.spec, seed=seed, odd_share=1.0, large_share=0.01), POISON_RECORDS * times)
    messages: list[Message] = []
    size = 0
    for case in cases:
        messages.append(Message(world.spec.source, case.value, partition_id=str(len(messages) % world.width)))
        size += len(case.value)
        stage.happened["bad records" if case.reason is not None else "odd records that are good"] += 1
        if size > PUBLISH_BYTES_MAX or len(messages) == 50:
            await world.transport.publish(messages)
            stage.extra += len(messages)
            messages, size = [], 0
    await world.transport.publish(messages)
    stage.extra += len(messages)
    await stage.at_work("poison")
