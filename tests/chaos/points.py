"""Where a kill fell: the four points that the design's promises hang on, and the rest.

Pure: from a dead process's events and what is in the store. A create that was begun and not returned counts by its
effect: whether the object is there.
"""

from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum

from chaos.flight import Event, Kind, Step
from cutbank.pipeline.sinking.claims import CLAIMS_ROOT


class Point(StrEnum):
    """Where a process was when it died."""

    PUBLISH_COMMIT = "between publish and commit"
    """Of the scorer: inside `publish_and_commit`, begun and not returned. On the embedded log both are one transaction:
    there is no moment with one and without the other, only this one call."""
    CLAIM_OBJECT = "between claim and object"
    """Of the sink: the claim is there, its object is not."""
    OBJECT_COMMIT = "between object and commit"
    """Of the sink: the object is there, the commit of its claim's end had not returned."""
    SNAPSHOT = "during a snapshot"
    """Of the scorer: a snapshot's create, begun and not returned."""
    PUBLISH = "inside the producer's publish"
    OTHER_WRITE = "inside another write"
    READ = "inside a read"
    """Waiting for records included."""
    START = "before its first receive or publish"
    ELSEWHERE = "between calls"


NEEDED = (Point.PUBLISH_COMMIT, Point.CLAIM_OBJECT, Point.OBJECT_COMMIT, Point.SNAPSHOT)
"""A run in which no kill fell on one of these has not tested it."""

_OPEN = {
    Step.SNAPSHOT: Point.SNAPSHOT,
    Step.PUBLISH_AND_COMMIT: Point.PUBLISH_COMMIT,
    Step.PUBLISH: Point.PUBLISH,
}
"""Points that a call under way shows, the rarer ones first."""

_WAITING = "next_event"
"""Under way for as long as a consumer lives."""

_READS = frozenset(
    {Step.RECEIVE, "read", "stream_read", "lease_committed", "committed", "describe", "exists", "list", "lag"}
)
_CREATES = frozenset({Step.CLAIM, Step.OBJECT})

Exists = Callable[[str], Awaitable[bool]]


async def point_of(role: str, events: Iterable[Event], open_calls: Iterable[Event], exists: Exists) -> Point:
    """Where a process of this role died. `exists`: whether an object is in the sink's store now.

    Of one that killed itself in a call, only this call and its partition count, whatever its others were doing.
    """
    events, open_calls = list(events), list(open_calls)
    started = any(event.step in (Step.RECEIVE, Step.PUBLISH) for event in events)
    if events and (hit := events[-1]).kind is Kind.AIMED:
        open_calls = [event for event in open_calls if event.call == hit.call]
        events = [event for event in events if partition_of(event.subject) == partition_of(hit.subject)]
    steps = {event.step for event in open_calls} - {_WAITING}
    for step, point in _OPEN.items():
        if step in steps:
            return point
    if role == "sink" and (flushing := await _in_a_flush(events, open_calls, exists)) is not None:
        return flushing
    if not started:
        return Point.START
    if steps - _READS:
        return Point.OTHER_WRITE
    return Point.READ if steps else Point.ELSEWHERE


async def _in_a_flush(events: list[Event], open_calls: list[Event], exists: Exists) -> Point | None:
    """The point, if a partition was between its claim and the commit of its end. The earlier of two partitions' counts.

    A partition's stage is told by its own claims and commits; an object's create follows its claim at once.
    """
    found: set[Point] = set()
    claimed = _stages(events)
    for event in open_calls:
        if event.step in _CREATES and await exists(event.subject):
            found.add(Point.CLAIM_OBJECT if event.step == Step.CLAIM else Point.OBJECT_COMMIT)
        elif event.step == Step.OBJECT:
            found.add(Point.CLAIM_OBJECT)
    busy = {partition_of(event.subject) for event in open_calls if event.step in _CREATES}
    found |= {point for partition, point in claimed.items() if partition not in busy}
    return min(found, key=list(Point).index, default=None)


def _stages(events: list[Event]) -> dict[str, Point]:
    """By partition: what its last finished step of a flush leaves it at; none after the commit."""
    stages: dict[str, Point] = {}
    for event in events:
        partition = partition_of(event.subject)
        there = event.kind is Kind.DONE or (event.kind is Kind.FAILED and event.note == "AlreadyExists")
        if not there:
            continue
        if event.step == Step.CLAIM:
            stages[partition] = Point.CLAIM_OBJECT
        elif event.step == Step.OBJECT:
            stages[partition] = Point.OBJECT_COMMIT
        elif event.step == Step.COMMIT:
            stages.pop(partition, None)
    return stages


def partition_of(subject: str) -> str:
    """The id of the partition that a lease's call, a claim or an object is about."""
    folder, _, name = subject.rpartition("/")
    if subject.startswith(CLAIMS_ROOT):
        return folder.rpartition("/")[2]
    parts = name.split("-")  # of an object: …-<partition>-<start>-<ordinal>.json
    return parts[-3] if len(parts) > 3 else name
