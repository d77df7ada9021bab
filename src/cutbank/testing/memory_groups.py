"""The groups of a log in memory: members, who owns which partition in which epoch, committed positions.

Plain calls without I/O: each is one atomic step, because nothing else runs on the event loop meanwhile. Invariants:
- a partition of a group has one owner at most, and each taking raises its epoch, which never goes back;
- whoever removes a member takes its partitions away in the same step.
The broker's clock measures how long a member has been silent; the dead are removed when another member looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

from cutbank.clock import Clock
from cutbank.errors import Fenced
from cutbank.records import Partition, Position
from cutbank.transports.local.streams import missing
from cutbank.transports.shares import fair_shares

Place = NewType("Place", int)
"""A partition of one stream's life: a stream made again under its name has other places."""


@dataclass(slots=True)
class Member:
    """Who takes part in a group."""

    id: str
    streams: tuple[str, ...]
    takes: bool
    beat_s: float
    """When it last showed life, on the broker's monotonic clock."""


@dataclass(slots=True)
class Cursor:
    """A group's view of one partition."""

    owner: str | None = None
    epoch: int = 0
    committed: Position | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What a member knows after a look."""

    member_id: str
    """Another one than before if it was taken for dead and has joined again."""
    owned: dict[Place, int]
    """Epochs of the partitions that are this member's."""
    meant: frozenset[Place]
    """The partitions that this member should have."""
    missing: str | None
    """A stream of this member that does not exist (any more)."""


@dataclass(slots=True)
class Group:
    """One group."""

    name: str
    clock: Clock
    session_timeout_s: float
    members: dict[str, Member] = field(default_factory=dict)
    cursors: dict[Place, Cursor] = field(default_factory=dict)
    joined: int = 0

    def join(self, client_id: str, streams: tuple[str, ...], *, takes: bool) -> str:
        """Become a member; returns its id."""
        self.joined += 1
        id_ = f"{client_id}-{self.joined}"
        self.members[id_] = Member(id_, streams, takes, self.clock.monotonic_s())
        return id_

    def leave(self, member_id: str) -> None:
        """Stop being a member; everything owned is free at once. Also how others remove a dead member."""
        self.members.pop(member_id, None)
        for cursor in self.cursors.values():
            if cursor.owner == member_id:
                cursor.owner = None

    def owns(self, member_id: str, place: Place, epoch: int) -> bool:
        """Whether this lease is the newest of its partition."""
        cursor = self.cursors.get(place)
        return cursor is not None and cursor.owner == member_id and cursor.epoch == epoch

    def give_back(self, member_id: str, place: Place, epoch: int) -> None:
        """Release one lease, if it is still the newest."""
        if self.owns(member_id, place, epoch):
            self.cursors[place].owner = None

    def cursor_of(self, member_id: str, place: Place, epoch: int, partition: Partition) -> Cursor:
        """The cursor that this lease may change. Raises Fenced, StreamMissing."""
        if place not in self.cursors:
            raise missing(partition.stream)
        if not self.owns(member_id, place, epoch):
            raise Fenced(
                f"{partition}: the right of {member_id} (epoch {epoch}) in group {self.name} "
                "has passed to somebody else"
            )
        return self.cursors[place]

    def look(
        self, member_id: str, *, client_id: str, streams: tuple[str, ...], takes: bool, there: Mapping[Place, Partition]
    ) -> View:
        """Show life, remove the dead, take what is free and meant for this member.

        `there`: all partitions of all streams. A member that was itself removed joins again under another id.
        """
        if member_id not in self.members:
            member_id = self.join(client_id, streams, takes=takes)
        me = self.members[member_id]
        me.takes, me.beat_s = takes, self.clock.monotonic_s()
        for other in list(self.members.values()):
            if me.beat_s - other.beat_s >= self.session_timeout_s:
                self.leave(other.id)
        meant = self._meant_for(member_id, there)
        for place in meant:
            cursor = self.cursors.setdefault(place, Cursor())
            if cursor.owner is None:
                cursor.owner = member_id
                cursor.epoch += 1
        names = {partition.stream for partition in there.values()}
        return View(
            member_id=member_id,
            owned={place: cursor.epoch for place, cursor in self.cursors.items() if cursor.owner == member_id},
            meant=frozenset(meant),
            missing=next((stream for stream in streams if stream not in names), None),
        )

    def _meant_for(self, member_id: str, there: Mapping[Place, Partition]) -> list[Place]:
        """The places that a member should have, in order; the rule is the embedded log's."""
        read = {stream for member in self.members.values() for stream in member.streams}
        places = [place for place, partition in there.items() if partition.stream in read]
        shares = fair_shares(
            places,
            readers={
                place: [member.id for member in self.members.values() if there[place].stream in member.streams]
                for place in places
            },
            owners={
                place: cursor.owner
                for place, cursor in self.cursors.items()
                if cursor.owner is not None and place in there
            },
            takers=frozenset(member.id for member in self.members.values() if member.takes),
        )
        return [place for place in places if shares.get(place) == member_id]
