"""Made-up trades as messages: keyed by ticker or dealt to the partitions in turn, with their labels.

A label is {"id": …} on a stream of its own, in the same portion as its trade: what was published is labelled, and
nothing else. Event-loop only.
"""

import asyncio
from collections.abc import Sequence

from cutbank.records import Message
from cutbank_producer.portions import Portion, round_robin
from cutbank_producer.settings import PARTITION_ROUND_ROBIN, ProducerSettings
from cutbank_producer.trades import AnomalyRule, Trade, TradeGenerator

TURN_RECORDS_MAX = 500
"""Trades made before the event loop gets a turn: 1 to 2 ms."""


class MadeUpTrades:
    """A `Source` without end."""

    name = "made-up trades"

    def __init__(self, settings: ProducerSettings, *, stream: str, partition_ids: Sequence[str], first_id: int) -> None:
        self._stream = stream
        self._labels_stream = settings.labels_stream
        self._turns = round_robin(partition_ids) if settings.partition_by == PARTITION_ROUND_ROBIN else None
        self._generator = TradeGenerator(
            seed=settings.seed,
            first_id=first_id,
            anomalies=AnomalyRule(
                share=settings.anomaly_share,
                multiplier_min=settings.anomaly_multiplier_min,
                multiplier_max=settings.anomaly_multiplier_max,
            ),
        )

    async def next(self, records_max: int) -> Portion:
        """The next `records_max` trades."""
        messages: list[Message] = []
        labels: list[Message] = []
        for made in range(0, records_max, TURN_RECORDS_MAX):
            if made:
                await asyncio.sleep(0)
            for trade in self._generator.batch(min(TURN_RECORDS_MAX, records_max - made)):
                messages.append(self._message(trade))
                if trade.anomalous and self._labels_stream is not None:
                    labels.append(Message(self._labels_stream, b'{"id": %d}' % trade.id))
        return Portion(messages=messages + labels, records=records_max, labels=len(labels))

    def _message(self, trade: Trade) -> Message:
        if self._turns is not None:
            return Message(self._stream, trade.value, partition_id=next(self._turns))
        return Message(self._stream, trade.value, trade.ticker)
