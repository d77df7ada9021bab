"""Where a kill is said to have fallen."""

import pytest

from chaos.flight import Event, Kind, Step
from chaos.points import Point, partition_of, point_of
from cutbank.pipeline.sinking.claims import ChainId, Layout
from cutbank.pipeline.sinking.layout import object_key
from cutbank.records import Position

CHAIN = ChainId("a-pipeline", "anomalies", "0")
CLAIM = CHAIN.claim_key(Position(7))
OBJECT = object_key(CHAIN, Layout(), start=Position(7), minute_ms=60_000, ordinal=0)
OTHER_CLAIM = ChainId("a-pipeline", "anomalies", "1").claim_key(Position(9))

RECEIVE = (Step.RECEIVE, "anomalies/0")
CLAIMING = (Step.CLAIM, CLAIM)
PUTTING = (Step.OBJECT, OBJECT)
COMMITTING = (Step.COMMIT, "anomalies/0")


async def point(role: str, *steps: tuple[tuple[str, str], str], there: tuple[str, ...] = ()) -> Point:
    """`steps`: a call, and how it ended: `done`, `open`, or an error's name. `there`: the objects in the store."""
    events: list[Event] = []
    under_way: list[Event] = []
    for number, ((step, subject), end) in enumerate(steps, start=1):
        begun = Event(2 * number, number, Kind.BEGUN, step, subject, "")
        events.append(begun)
        if end == "open":
            under_way.append(begun)
        else:
            kind = Kind.DONE if end == "done" else Kind.FAILED
            events.append(Event(2 * number + 1, number, kind, step, subject, "" if end == "done" else end))

    async def exists(key: str) -> bool:
        return key in there

    return await point_of(role, events, under_way, exists)


@pytest.mark.parametrize(
    ("steps", "there", "expected"),
    [
        pytest.param([(CLAIMING, "open")], (), Point.OTHER_WRITE, id="in the claim's create, before its effect"),
        pytest.param([(CLAIMING, "open")], (CLAIM,), Point.CLAIM_OBJECT, id="in the claim's create, after its effect"),
        pytest.param([(CLAIMING, "done")], (CLAIM,), Point.CLAIM_OBJECT, id="the claim has returned"),
        pytest.param([(CLAIMING, "AlreadyExists")], (CLAIM,), Point.CLAIM_OBJECT, id="the claim was adopted"),
        pytest.param([(CLAIMING, "StoreUnavailable")], (), Point.ELSEWHERE, id="the claim has failed"),
        pytest.param(
            [(CLAIMING, "done"), (PUTTING, "open")], (CLAIM,), Point.CLAIM_OBJECT, id="in the object's create, before"
        ),
        pytest.param(
            [(CLAIMING, "done"), (PUTTING, "open")],
            (CLAIM, OBJECT),
            Point.OBJECT_COMMIT,
            id="in the object's create, after",
        ),
        pytest.param([(PUTTING, "open")], (CLAIM,), Point.CLAIM_OBJECT, id="finishing another's claim"),
        pytest.param(
            [(CLAIMING, "done"), (PUTTING, "done")], (CLAIM, OBJECT), Point.OBJECT_COMMIT, id="the object has returned"
        ),
        pytest.param(
            [(CLAIMING, "done"), (PUTTING, "done"), (COMMITTING, "open")],
            (CLAIM, OBJECT),
            Point.OBJECT_COMMIT,
            id="in the commit",
        ),
        pytest.param(
            [(CLAIMING, "done"), (PUTTING, "done"), (COMMITTING, "done")],
            (CLAIM, OBJECT),
            Point.ELSEWHERE,
            id="after the commit",
        ),
        pytest.param(
            [(CLAIMING, "done"), (PUTTING, "done"), (COMMITTING, "done"), ((Step.CLAIM, OTHER_CLAIM), "done")],
            (CLAIM, OBJECT, OTHER_CLAIM),
            Point.CLAIM_OBJECT,
            id="another partition's claim",
        ),
        pytest.param([(RECEIVE, "open")], (), Point.READ, id="waiting for records"),
        pytest.param([(("next_event", "g"), "open")], (), Point.ELSEWHERE, id="a consumer's events are no call"),
    ],
)
async def test_where_a_sink_was(
    steps: list[tuple[tuple[str, str], str]], there: tuple[str, ...], expected: Point
) -> None:
    assert await point("sink", (RECEIVE, "done"), *steps, there=there) is expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([((Step.PUBLISH_AND_COMMIT, "trades/0"), "open")], Point.PUBLISH_COMMIT),
        ([((Step.PUBLISH_AND_COMMIT, "trades/0"), "done")], Point.ELSEWHERE),
        ([((Step.SNAPSHOT, "k"), "open"), ((Step.PUBLISH_AND_COMMIT, "trades/0"), "open")], Point.SNAPSHOT),
        ([((Step.SNAPSHOT, "k"), "done"), ((Step.RECEIVE, "trades/0"), "open")], Point.READ),
        ([((Step.COMMIT, "trades/0"), "open")], Point.OTHER_WRITE),
    ],
)
async def test_where_a_scorer_was(steps: list[tuple[tuple[str, str], str]], expected: Point) -> None:
    assert await point("scorer", ((Step.RECEIVE, "trades/0"), "done"), *steps) is expected


async def test_of_an_exact_kill_only_the_call_that_it_hit_counts() -> None:
    begun = [
        Event(1, 1, Kind.BEGUN, Step.SNAPSHOT, "a/trades/1/00000001/x", ""),
        Event(2, 2, Kind.BEGUN, Step.PUBLISH_AND_COMMIT, "trades/0", ""),
    ]
    hit = Event(3, 2, Kind.AIMED, Step.PUBLISH_AND_COMMIT, "trades/0", "KILL")

    async def exists(_: str) -> bool:
        return False

    assert await point_of("scorer", begun, begun, exists) is Point.SNAPSHOT
    assert await point_of("scorer", [*begun, hit], begun, exists) is Point.PUBLISH_COMMIT


async def test_what_dies_before_its_first_record_is_counted_apart() -> None:
    assert await point("producer") is Point.START
    assert await point("scorer", (("fence", "trades/0"), "open")) is Point.START
    assert await point("producer", ((Step.PUBLISH, "trades"), "open")) is Point.PUBLISH


def test_partitions_are_told_from_every_kind_of_name() -> None:
    strange = ChainId("a-b", "c-d", "shardId-000")
    key = object_key(strange, Layout(), start=Position(1 << 70), minute_ms=0, ordinal=0)
    assert partition_of("anomalies/0") == partition_of(CLAIM) == partition_of(OBJECT) == "0"
    assert partition_of(key) == "shardId%2D000"
