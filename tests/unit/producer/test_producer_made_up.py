"""Made-up trades as messages: labels beside them, and turns for the event loop."""

import asyncio
import json

import pytest

from cutbank.records import Message
from cutbank_producer.made_up import TURN_RECORDS_MAX, MadeUpTrades
from cutbank_producer.settings import ProducerSettings
from cutbank_producer.trades import FIRST_ID, PRICE_MAX


def trades(**given: object) -> MadeUpTrades:
    settings = ProducerSettings.load({}, **given)
    return MadeUpTrades(settings, stream="s", partition_ids=("0", "1", "2"), first_id=FIRST_ID)


async def test_a_portion_holds_the_records_then_the_labels_of_its_anomalies() -> None:
    portion = await trades(labels_stream="l", anomaly_share=0.3).next(50)
    records, labels = portion.messages[:50], portion.messages[50:]
    assert (portion.records, portion.labels, portion.offset_s) == (50, len(labels), None)
    assert all(message.stream == "s" and message.partition_id is None for message in records)
    anomalous = [json.loads(m.value)["id"] for m in records if json.loads(m.value)["price"] > PRICE_MAX]
    assert len(anomalous) > 5
    assert list(labels) == [Message("l", b'{"id": %d}' % trade_id) for trade_id in anomalous]


async def test_without_a_labels_stream_there_are_none() -> None:
    portion = await trades(anomaly_share=1.0).next(10)
    assert (portion.labels, len(portion.messages)) == (0, 10)


async def test_no_record_says_whether_it_is_an_anomaly() -> None:
    portion = await trades(anomaly_share=0.5).next(200)
    assert {tuple(json.loads(message.value)) for message in portion.messages} == {
        ("tickerSymbol", "tradeType", "price", "quantity", "id")
    }


async def test_in_turn_goes_on_from_portion_to_portion() -> None:
    source = trades(partition_by="round-robin")
    given = [message.partition_id for _ in range(3) for message in (await source.next(2)).messages]
    assert given == ["0", "1", "2", "0", "1", "2"]


@pytest.mark.parametrize("records", [1, TURN_RECORDS_MAX, 3 * TURN_RECORDS_MAX + 1])
async def test_a_large_batch_leaves_the_event_loop_its_turns(records: int) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    portion = await trades().next(records)
    task.cancel()
    assert portion.records == len(portion.messages) == records
    assert turns == (records - 1) // TURN_RECORDS_MAX
