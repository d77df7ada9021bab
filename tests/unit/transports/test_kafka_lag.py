"""What a lease asks to say how much is unread, and what it makes of the answer."""

from types import SimpleNamespace
from typing import Any

from cutbank.records import Partition, Position
from cutbank.transports.kafka.reading import EARLIEST
from kafka_answers import Answers, batch, cluster_of, fetched, lease_of


async def test_lag_is_one_question_once_it_is_known_where_reading_stands() -> None:
    answers = Answers("s")

    def offset(request: Any) -> Any:
        ((_, ((_, timestamp),)),) = request._topics
        return SimpleNamespace(topics=[("s", [(0, 0, -1, 3 if timestamp == EARLIEST else 20)])])

    answers.set("Offset", offset)
    answers.set("FetchByName", lambda _: fetched(batch(5, [b"a", b"b", b"c"]), end=8))
    lease = lease_of(cluster_of(answers), Partition("s", "0"))
    assert await lease.lag() == 17, "all that is retained"
    assert answers.asked.count("Offset") == 2
    lease.seek(Position(5))
    assert await lease.lag() == 15
    assert len(await lease.receive(records_max=1, bytes_max=100, wait_s=0.0)) == 1
    assert await lease.lag() == 14, "two lie here, twelve behind them"
    assert answers.asked.count("Offset") == 4
    await lease.release()
