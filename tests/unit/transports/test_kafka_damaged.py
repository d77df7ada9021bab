"""A batch whose check sum is wrong: refused each time it is asked for, whatever was received before it."""

import pytest

from cutbank.errors import LogDamaged
from cutbank.records import Partition, Position
from cutbank.transports.kafka.batches import Columns, Contents
from kafka_answers import Answers, batch, cluster_of, damaged, fetched, lease_of

P0 = Partition("s", "0")
BEFORE, BAD, BEHIND = ([b"%d" % number for number in range(first, first + 5)] for first in (0, 5, 10))


def log(*, mended: bool = False, codec: int = 0) -> bytes:
    bad = batch(5, BAD, codec=codec)
    return b"".join([batch(0, BEFORE, codec=codec), bad if mended else damaged(bad), batch(10, BEHIND, codec=codec)])


@pytest.mark.parametrize("codec", [0, 3])
def test_what_was_taken_apart_says_so_again(codec: int) -> None:
    contents, found = Contents(P0, log(codec=codec), start=0, aborted=None), Columns([], [], [], [])
    assert contents.more(found)
    for _ in range(3):
        with pytest.raises(LogDamaged, match="the batch at 5 has a wrong check sum"):
            contents.more(found)
    assert found.values == BEFORE


@pytest.mark.parametrize("records_max", [1, 4, 8, 4096])
async def test_a_lease_never_passes_it(records_max: int) -> None:
    answers = Answers("s")
    answers.set("FetchByName", lambda _: fetched(log(), end=15))
    lease = lease_of(cluster_of(answers), P0)
    lease.seek(Position(0))
    received: list[bytes] = []
    refused = 0
    while refused < 3:
        try:
            part = await lease.receive(records_max=records_max, bytes_max=1 << 20, wait_s=0.0)
        except LogDamaged:
            refused += 1
        else:
            assert not refused, "a call that raises does not move it"
            received += part.values
            assert part.end <= 5
    assert received == BEFORE[: len(received)]
    await lease.release()


async def test_damage_on_the_way_is_healed_by_the_next_fetch() -> None:
    answers = Answers("s")
    bodies = [log(), log(mended=True)]
    answers.set("FetchByName", lambda _: fetched(bodies.pop(0), end=15))
    lease = lease_of(cluster_of(answers), P0)
    lease.seek(Position(0))
    with pytest.raises(LogDamaged):
        await lease.receive(records_max=8, bytes_max=1 << 20, wait_s=0.0)
    part = await lease.receive(records_max=4096, bytes_max=1 << 20, wait_s=0.0)
    assert (part.start, part.end, list(part.values)) == (0, 15, [*BEFORE, *BAD, *BEHIND])
    await lease.release()
