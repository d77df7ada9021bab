"""Where a stretch ends and what it keeps: marks, minutes that never go back, broker time, limits. Pure."""

import sys
import tracemalloc
from collections.abc import Sequence
from typing import Literal

import pytest

from cutbank.pipeline.sinking import stretch as stretches
from cutbank.pipeline.sinking.claims import ChainId, Claim, Layout, Mark
from cutbank.pipeline.sinking.lines import Source
from cutbank.pipeline.sinking.stretch import RECORD_OVERHEAD_BYTES, Marks, Stretch
from cutbank.records import Batch, Partition, Position
from sinking_world import FIRST_MINUTE_MS as MINUTE
from sinking_world import anomaly, ids

GRACE_MS = 2000
CHAIN = ChainId("p", "anomalies", "0")


def batch(start: int, values: Sequence[bytes], arrivals_ms: Sequence[int], *, end: int | None = None) -> Batch:
    return Batch(
        partition=Partition("anomalies", "0"),
        start=Position(start),
        end=Position(start + len(values) if end is None else end),
        positions=[Position(start + n) for n in range(len(values))],
        arrivals_ms=arrivals_ms,
        keys=[None] * len(values),
        values=values,
    )


def new(
    *, start: int = 0, marks: tuple[Mark, ...] = (), minute_ms: int = 0, bytes_max: int = 1 << 20, records_max: int = 99
) -> Stretch:
    return Stretch(
        pipeline=CHAIN.pipeline,
        layout=Layout(),
        start=Position(start),
        reading=Position(start),
        marks=marks,
        minute_ms=minute_ms,
        bytes_max=bytes_max,
        records_max=records_max,
    )


def claimed(stretch: Stretch) -> tuple[Claim, list[int]]:
    claim, (body,) = stretch.claim(CHAIN, spec_hash=None)
    return claim, ids(body.split(b"\n")[:-1])


def mark(position: int, *, run: int = 1, ordinal: int = 0, partition: str = "0") -> Mark:
    return Mark(partition=f"trades@00000000/{partition}", run=run, position=Position(position), ordinal=ordinal)


def test_a_record_of_the_next_minute_ends_the_stretch_before_itself() -> None:
    stretch = new()
    values = [anomaly(1), anomaly(2), anomaly(3)]
    assert stretch.take(batch(0, values, [MINUTE, MINUTE + 59_999, MINUTE + 60_000]), broker_ms=MINUTE) == 2
    claim, kept = claimed(stretch)
    assert (claim.start, claim.end, claim.minute_ms, kept) == (0, 2, MINUTE, [1, 2])


def test_a_repeat_of_the_next_minute_ends_it_too() -> None:
    stretch = new()
    assert stretch.take(batch(0, [anomaly(1), anomaly(1)], [MINUTE, MINUTE + 60_000]), broker_ms=MINUTE) == 1


def test_the_minute_never_goes_back() -> None:
    stretch = new(minute_ms=MINUTE + 60_000)
    values = [anomaly(n) for n in range(4)]
    arrivals_ms = [MINUTE, MINUTE + 60_000, MINUTE + 1, MINUTE + 120_000]
    assert stretch.take(batch(0, values, arrivals_ms), broker_ms=MINUTE) == 3
    assert claimed(stretch)[0].minute_ms == MINUTE + 60_000


def test_what_is_at_or_before_the_mark_or_of_an_older_run_is_dropped() -> None:
    stretch = new(marks=(mark(10, run=2, ordinal=1),))
    sources = [(9, 2), (10, 2), (11, 1), (99, 1), (11, 2), (11, 2), (1, 3), (12, 2), (2, 3)]
    values = [anomaly(position, run=run) for position, run in sources]
    assert stretch.take(batch(0, values, [MINUTE] * len(values)), broker_ms=MINUTE) == len(values)
    claim, kept = claimed(stretch)
    assert kept == [11, 1, 2]
    assert stretch.dropped == 6
    assert claim.marks_before == (mark(10, run=2, ordinal=1),)
    assert claim.marks_after == (mark(2, run=3),)


def test_another_pipelines_anomalies_are_left_to_its_own_sink() -> None:
    stretch = new(marks=(mark(10),))
    values = [anomaly(11), anomaly(3, pipeline="staging"), anomaly(900, pipeline="staging"), anomaly(12)]
    assert stretch.take(batch(0, values, [MINUTE] * 4), broker_ms=MINUTE) == 4
    claim, kept = claimed(stretch)
    assert kept == [11, 12]
    assert (stretch.others, stretch.dropped) == (2, 0)
    assert claim.marks_after == (mark(12),), "its positions say nothing of ours"


def test_a_stream_made_again_or_another_source_is_no_repeat() -> None:
    stretch = new(marks=(mark(10, run=2),))
    again = anomaly(3).replace(b"trades@00000000", b"trades@11111111")
    other = anomaly(4).replace(b"trades@00000000", b"orders@22222222")
    stretch.take(batch(0, [anomaly(9, run=2), again, other], [MINUTE] * 3), broker_ms=MINUTE)
    assert claimed(stretch)[1] == [3, 4]
    assert stretch.dropped == 1


def test_ordinals_of_one_record_are_told_apart() -> None:
    marks = Marks([mark(10, ordinal=1)])
    seen = [marks.seen(Source("p", "trades@00000000/0", 1, Position(10), ordinal)) for ordinal in range(4)]
    assert seen == [True, True, False, False]


def test_source_partitions_have_marks_of_their_own() -> None:
    stretch = new(marks=(mark(10, partition="a"),))
    values = [anomaly(5, source="a"), anomaly(5, source="b"), anomaly(11, source="a"), anomaly(5, source="b")]
    stretch.take(batch(0, values, [MINUTE] * 4), broker_ms=MINUTE)
    claim, kept = claimed(stretch)
    assert kept == [5, 11]
    assert claim.marks_after == (mark(5, partition="b"), mark(11, partition="a")), "latest advanced last"


def test_marks_are_bounded_and_the_one_that_advanced_longest_ago_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "MARKS_MAX", 3)
    marks = Marks([mark(0, partition=name) for name in "abc"])
    marks.advance(Source("p", "trades@00000000/a", 1, Position(1), 0))
    marks.advance(Source("p", "trades@00000000/d", 1, Position(1), 0))
    assert [each.partition[-1] for each in marks.export()] == ["c", "a", "d"]


def test_the_next_stretch_goes_on_with_the_marks_of_the_claim() -> None:
    one = new()
    one.take(batch(0, [anomaly(7)], [MINUTE]), broker_ms=MINUTE)
    claim = claimed(one)[0]
    two = new(start=claim.end, marks=claim.marks_after, minute_ms=claim.minute_ms)
    two.take(batch(1, [anomaly(7), anomaly(8)], [MINUTE] * 2), broker_ms=MINUTE)
    assert claimed(two)[1] == [8]


def test_a_stretch_of_repeats_keeps_nothing_and_is_never_due() -> None:
    stretch = new(marks=(mark(10),))
    stretch.take(batch(0, [anomaly(3)], [MINUTE], end=9), broker_ms=MINUTE)
    assert (stretch.count, stretch.end) == (0, 9)
    assert not stretch.due(MINUTE + 10**9, quiet=True, grace_ms=GRACE_MS)


def test_the_end_of_a_batch_counts_though_no_record_lies_there() -> None:
    """Kafka: transaction markers; Kinesis: positions are never contiguous."""
    stretch = new()
    stretch.take(batch(0, [anomaly(1)], [MINUTE], end=500), broker_ms=MINUTE)
    stretch.take(batch(500, [], [], end=777), broker_ms=MINUTE)
    assert claimed(stretch)[0].end == 777


def test_records_limit() -> None:
    stretch = new(records_max=2)
    values = [anomaly(n) for n in range(3)]
    assert stretch.take(batch(0, values, [MINUTE] * 3), broker_ms=MINUTE) == 2
    assert stretch.take(batch(2, values[2:], [MINUTE]), broker_ms=MINUTE) == 0, "it stays full"


def test_bytes_limit_counts_lines_and_their_ends() -> None:
    values = [anomaly(n) for n in range(3)]
    assert new(bytes_max=3 * len(values[0]) + 3).take(batch(0, values, [MINUTE] * 3), broker_ms=MINUTE) == 3
    assert new(bytes_max=3 * len(values[0]) + 2).take(batch(0, values, [MINUTE] * 3), broker_ms=MINUTE) == 2
    assert new(bytes_max=1).take(batch(0, values, [MINUTE] * 3), broker_ms=MINUTE) == 1


def test_held_bytes_count_lines_twice_and_overhead() -> None:
    stretch = new()
    stretch.take(batch(0, [anomaly(1), anomaly(2)], [MINUTE] * 2), broker_ms=MINUTE)
    lines = len(anomaly(1)) + len(anomaly(2)) + 2
    assert stretch.held_bytes == 2 * lines + 2 * RECORD_OVERHEAD_BYTES


@pytest.mark.parametrize("padding", [0, 1000])
def test_held_bytes_are_what_a_stretch_and_its_body_really_take(padding: int) -> None:
    values = [anomaly(n) + b" " * padding for n in range(20_000)]
    own_bytes = sum(map(sys.getsizeof, values))
    tracemalloc.start()
    try:
        stretch = new(bytes_max=1 << 30, records_max=len(values))
        stretch.take(batch(0, values, [MINUTE] * len(values)), broker_ms=MINUTE)
        claim = stretch.claim(CHAIN, spec_hash=None)
        peak_bytes = tracemalloc.get_traced_memory()[1] + own_bytes
    finally:
        tracemalloc.stop()
    assert claim[0].records == len(values)
    assert 0.8 * stretch.held_bytes < peak_bytes <= stretch.held_bytes


@pytest.mark.parametrize(
    ("broker_ms", "quiet", "due"),
    [
        (MINUTE + 60_000 + GRACE_MS - 1, True, False),
        (MINUTE + 60_000 + GRACE_MS, True, True),
        (MINUTE + 60_000 + GRACE_MS, False, False),
        (MINUTE + 10**9, False, False),
    ],
)
def test_a_stretch_is_due_when_minute_and_grace_are_over_and_all_is_quiet(
    *, broker_ms: int, quiet: bool, due: bool
) -> None:
    stretch = new()
    stretch.take(batch(0, [anomaly(1)], [MINUTE + 30_000]), broker_ms=MINUTE + 30_000)
    assert stretch.due(broker_ms, quiet=quiet, grace_ms=GRACE_MS) == due


def test_after_the_brokers_clock_went_back_an_object_comes_about_every_minute_all_the_same() -> None:
    """The minute stays; a busy partition would never be quiet, and its records never reach a later minute."""
    stretch = new(minute_ms=MINUTE)
    hour_ago_ms, now_ms = MINUTE - 3_600_000, MINUTE + 61_000
    stretch.take(batch(0, [anomaly(1)], [hour_ago_ms]), broker_ms=now_ms)
    assert not stretch.due(now_ms + 60_000 + GRACE_MS - 1, quiet=True, grace_ms=GRACE_MS), "not one object a record"
    assert stretch.due(now_ms + 60_000 + GRACE_MS, quiet=False, grace_ms=GRACE_MS), "but not for ever either"
    assert claimed(stretch)[0].minute_ms == MINUTE


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_a_stretch_without_records_holds_nothing_so_that_a_large_claim_is_let_in_alone(
    packed: Literal["gzip", "zstd"],
) -> None:
    stretch = Stretch(
        pipeline=CHAIN.pipeline,
        layout=Layout(compression=packed),
        start=Position(0),
        reading=Position(0),
        marks=(),
        minute_ms=0,
        bytes_max=1 << 20,
        records_max=99,
    )
    stretch.take(batch(0, [], []), broker_ms=MINUTE)
    assert stretch.held_bytes == 0
    stretch.take(batch(0, [anomaly(1)], [MINUTE]), broker_ms=MINUTE)
    assert stretch.held_bytes > len(anomaly(1))
