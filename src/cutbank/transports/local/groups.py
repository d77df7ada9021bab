"""Groups in the file: members, their counters, who owns which partition in which epoch, committed positions.

Functions over a connection inside the caller's write transaction, off the event loop.

Invariants, kept because every change is one transaction under the write lock:
- a partition of a group has one owner at most, and each taking raises its epoch, which never goes back;
- a write of a lease is done only if the row still names its member and its epoch, checked in the same transaction;
- whoever removes a member takes its partitions away in the same transaction.

A member shows life by a counter. Others count, on their own monotonic clock and only over beats that they made
themselves, how long it stands still; a file that was locked, or a machine that stood still, therefore kills nobody.
"""

import json
import sqlite3
from dataclasses import dataclass, field

from cutbank.errors import Fenced
from cutbank.records import Partition, Position
from cutbank.transports.local import streams
from cutbank.transports.shares import fair_shares


@dataclass(frozen=True, slots=True)
class Member:
    """Who takes part."""

    id: str
    group: str
    streams: tuple[str, ...]
    session_timeout_ms: int


@dataclass(slots=True)
class Silence:
    """How long the counters of the other members have stood still, as this member sees it."""

    beats: dict[str, int] = field(default_factory=dict)
    quiet_ms: dict[str, float] = field(default_factory=dict)

    def observe(self, member_id: str, beats: int, *, passed_ms: float) -> float:
        """Note a counter; returns how long it has stood still, ms."""
        if self.beats.get(member_id) != beats:
            self.beats[member_id], self.quiet_ms[member_id] = beats, 0.0
        else:
            self.quiet_ms[member_id] += passed_ms
        return self.quiet_ms[member_id]

    def keep_only(self, member_ids: set[str]) -> None:
        """Forget members that are gone."""
        for gone in self.beats.keys() - member_ids:
            del self.beats[gone], self.quiet_ms[gone]


@dataclass(frozen=True, slots=True)
class View:
    """What a member knows after a look."""

    member_id: str
    generation: int
    """The group's, after this look's own changes."""
    owned: dict[int, int]
    """Epochs of the partitions that the file says are this member's, by row id."""
    meant: frozenset[int]
    """Row ids of the partitions that this member should have."""
    partitions: dict[int, Partition]
    missing: str | None
    """A stream of this member that does not exist (any more)."""


def _changed(db: sqlite3.Connection, group: str) -> None:
    db.execute(
        "INSERT INTO groups (name, generation) VALUES (?, 1)"
        " ON CONFLICT (name) DO UPDATE SET generation = generation + 1",
        (group,),
    )


def join(db: sqlite3.Connection, me: Member, *, takes: bool) -> None:
    """Become a member. Raises StreamMissing."""
    for stream in me.streams:
        streams.layout(db, stream)
    _insert(db, me, takes=takes)


def _insert(db: sqlite3.Connection, me: Member, *, takes: bool) -> None:
    db.execute(
        "INSERT INTO members (id, group_name, session_timeout_ms, takes, streams) VALUES (?, ?, ?, ?, ?)",
        (me.id, me.group, me.session_timeout_ms, takes, json.dumps(me.streams)),
    )
    _changed(db, me.group)


def leave(db: sqlite3.Connection, group: str, member_id: str) -> None:
    """Stop being a member; everything owned is free at once. Also how others remove a dead member."""
    db.execute("DELETE FROM members WHERE id = ?", (member_id,))
    db.execute("UPDATE cursors SET owner = NULL WHERE group_name = ? AND owner = ?", (group, member_id))
    _changed(db, group)


def give_back(db: sqlite3.Connection, group: str, member_id: str, row_id: int, epoch: int) -> None:
    """Release one lease, if it is still the newest."""
    done = db.execute(
        "UPDATE cursors SET owner = NULL WHERE group_name = ? AND partition_id = ? AND owner = ? AND epoch = ?",
        (group, row_id, member_id, epoch),
    )
    if done.rowcount:
        _changed(db, group)


def look(
    db: sqlite3.Connection,
    me: Member,
    *,
    new_id: str,
    takes: bool,
    silence: Silence,
    passed_ms: float | None,
) -> View:
    """Beat (unless `passed_ms` is None), remove the dead, take what is free and meant for this member.

    `passed_ms` is the time on this member's clock since its last beat. A member that was itself removed joins again
    under `new_id`, in the same transaction.
    """
    if passed_ms is not None:
        db.execute("UPDATE members SET beats = beats + 1 WHERE id = ?", (me.id,))
    known = db.execute("SELECT takes FROM members WHERE id = ?", (me.id,)).fetchone()
    if known is None:
        me = Member(new_id, me.group, me.streams, me.session_timeout_ms)
        _insert(db, me, takes=takes)
    elif bool(known[0]) != takes:
        db.execute("UPDATE members SET takes = ? WHERE id = ?", (takes, me.id))
        _changed(db, me.group)
    members = _living(db, me, silence, passed_ms or 0.0)
    partitions = _partitions(db, {stream for _, read, _ in members for stream in read})
    cursors = {
        row_id: (owner, epoch)
        for row_id, owner, epoch in db.execute(
            "SELECT partition_id, owner, epoch FROM cursors WHERE group_name = ?", (me.group,)
        )
    }
    shares = fair_shares(
        list(partitions),
        readers={p: [id_ for id_, read, _ in members if where.stream in read] for p, where in partitions.items()},
        owners={p: owner for p, (owner, _) in cursors.items() if owner is not None},
        takers=frozenset(id_ for id_, _, able in members if able),
    )
    meant = frozenset(p for p, member_id in shares.items() if member_id == me.id)
    owned = {p: epoch for p, (owner, epoch) in cursors.items() if owner == me.id}
    taken = {p: cursors.get(p, (None, 0))[1] + 1 for p in meant if cursors.get(p, (None, 0))[0] is None}
    for row_id, epoch in taken.items():
        db.execute(
            "INSERT INTO cursors (group_name, partition_id, owner, epoch) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (group_name, partition_id) DO UPDATE SET owner = excluded.owner, epoch = excluded.epoch",
            (me.group, row_id, me.id, epoch),
        )
    if taken:
        _changed(db, me.group)
    (generation,) = db.execute("SELECT generation FROM groups WHERE name = ?", (me.group,)).fetchone()
    there = {where.stream for where in partitions.values()}
    return View(
        member_id=me.id,
        generation=generation,
        owned=owned | taken,
        meant=meant,
        partitions=partitions,
        missing=next((stream for stream in me.streams if stream not in there), None),
    )


def _living(
    db: sqlite3.Connection, me: Member, silence: Silence, passed_ms: float
) -> list[tuple[str, frozenset[str], bool]]:
    """(id, streams, takes) of the live members in the order in which they joined; the dead are removed."""
    rows = db.execute(
        "SELECT id, beats, session_timeout_ms, takes, streams FROM members WHERE group_name = ? ORDER BY joined",
        (me.group,),
    ).fetchall()
    living = []
    for member_id, beats, session_timeout_ms, takes, read in rows:
        if member_id != me.id and silence.observe(member_id, beats, passed_ms=passed_ms) >= session_timeout_ms:
            leave(db, me.group, member_id)
        else:
            living.append((member_id, frozenset(json.loads(read)), bool(takes)))
    silence.keep_only({member_id for member_id, _, _ in living})
    return living


def _partitions(db: sqlite3.Connection, names: set[str]) -> dict[int, Partition]:
    """All partitions of the streams, by row id, in the order of stream and number."""
    return {
        row_id: Partition(stream, str(number))
        for stream in sorted(names)
        for row_id, number in db.execute(
            "SELECT p.id, p.number FROM partitions p JOIN streams s ON s.id = p.stream_id"
            " WHERE s.name = ? ORDER BY p.number",
            (stream,),
        )
    }


def check_owner(
    db: sqlite3.Connection, group: str, member_id: str, *, row_id: int, epoch: int, partition: Partition
) -> Position | None:
    """The committed position, if this lease is still the newest. Raises Fenced, StreamMissing."""
    found = db.execute(
        "SELECT owner, epoch, committed FROM cursors WHERE group_name = ? AND partition_id = ?", (group, row_id)
    ).fetchone()
    if found is None or found[0] != member_id or found[1] != epoch:
        streams.place_by_row(db, row_id, partition)
        raise Fenced(
            f"{partition}: the right of {member_id} (epoch {epoch}) in group {group} has passed to somebody else"
        )
    return None if found[2] is None else Position(found[2])


def store(db: sqlite3.Connection, group: str, row_id: int, next_position: Position) -> None:
    """Store the committed position; the owner was checked in this transaction."""
    db.execute(
        "UPDATE cursors SET committed = ? WHERE group_name = ? AND partition_id = ?", (next_position, group, row_id)
    )


def committed(db: sqlite3.Connection, group: str, partition: Partition) -> Position | None:
    """A group's committed position, for onlookers. Raises StreamMissing."""
    row_id = streams.place(db, partition).row_id
    found = db.execute(
        "SELECT committed FROM cursors WHERE group_name = ? AND partition_id = ?", (group, row_id)
    ).fetchone()
    return None if found is None or found[0] is None else Position(found[0])
