"""A full disk under the objects and snapshots, then under the log: services hold and try again, and go on by themselves
once there is room; nothing is lost or torn.

The disk is a tmpfs of a few MiB where this user may mount one; a file of ours fills it up. Else every write fails as on
a full disk by the recorder in the children, and the report says so. Event-loop only; unmounts what it mounted.
"""

import asyncio
import errno
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chaos.checks import positions_ahead
from chaos.crew import Crew, Life
from chaos.flight import Action, Aim, Kind, Step, When
from chaos.freezes import Zombies, stop_before

DISK_MIB = 128
"""Of each small file system: several minutes of load, so that it is full when we say so, on a slow machine too."""

FAILURES_MIN = 3
"""So many refused writes of each service show that it holds and tries again."""

REFILL_S = 0.01
"""Between two looks for room that somebody has freed, seconds."""

SINK_LAG_MIN, SCORER_LAG_MIN = 400, 3000
"""Records that sink and scorer are held back by before the log's disk is filled: several stretches, several batches."""

_LEASE_WRITES = (Step.PUBLISH_AND_COMMIT, Step.COMMIT, Step.FENCE)
_NO_ROOM = ("StoreUnavailable", "StreamUnavailable", "OutcomeUnknown")
"""Errors that a write without room ends with; a zombie's refusal or a cancelled call is none."""
_SLACK_BYTES = 4096

TMPFS = "a full tmpfs"
FAULTY = "a faulty store and log, since no small file system was mounted"


@dataclass
class Fullness:
    """What a full disk came to."""

    how: str = ""
    refused: dict[str, int] = field(default_factory=dict)
    """By what was full and who wrote: writes refused."""
    findings: list[str] = field(default_factory=list)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system there for as long; whether it could be."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={DISK_MIB}m", "cutbank-chaos", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], check=False, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


async def fill_and_free(crew: Crew, fullness: Fullness) -> None:
    """First the objects' disk, then the log's; after each everybody is to go on. Raises Trouble."""
    await _fill_objects(crew, fullness)
    crew.check_alive()
    await _fill_log(crew, fullness)
    crew.check_alive()


async def _fill_objects(crew: Crew, fullness: Fullness) -> None:
    """The sink holds; the scorer goes on without snapshots."""
    sink, scorer = crew.posts["sink"], crew.posts["scorer"]
    async with _full(crew, crew.world.objects_folder, Step.STORE, (sink, scorer), fullness):
        await _refused(sink, (Step.CLAIM, Step.OBJECT))
        await _refused(scorer, (Step.SNAPSHOT,))
        await _written(scorer, (Step.PUBLISH_AND_COMMIT,))
    await _written(sink, (Step.OBJECT,))
    await _written(scorer, (Step.SNAPSHOT,))
    fullness.refused["objects: sink"] = _without_room(sink, (Step.CLAIM, Step.OBJECT))
    fullness.refused["snapshots: scorer"] = _without_room(scorer, (Step.SNAPSHOT,))


async def _fill_log(crew: Crew, fullness: Fullness) -> None:
    """Nobody can write. Sink and scorer are held back first, so that they have something to write."""
    world, (sink, scorer, producer) = crew.world, (crew.posts[role] for role in ("sink", "scorer", "producer"))
    held = Zombies()
    await stop_before(crew, sink, Step.RECEIVE, held)
    await sink.until_true(lambda: _lags(world.lag("sink", world.spec.destination), SINK_LAG_MIN), what="a lag")
    await stop_before(crew, scorer, Step.RECEIVE, held)
    await scorer.until_true(lambda: _lags(world.lag("scorer", world.spec.source), SCORER_LAG_MIN), what="a lag")
    for life in (sink, scorer):
        life.flight.disarm()
    writes = {producer: (Step.PUBLISH,), scorer: _LEASE_WRITES, sink: _LEASE_WRITES}
    async with _full(crew, world.log_folder, Step.LOG, tuple(writes), fullness):
        # The log goes on inside the space that its files have. The producer uses that up first.
        await _refused(producer, writes[producer])
        before = {life: _without_room(life, writes[life]) for life in (scorer, sink)}
        for life in before:
            life.send(signal.SIGCONT)
        for life, count in before.items():
            await _refused(life, writes[life], before=count)
    for life, steps in writes.items():
        await _written(life, steps)
        fullness.refused[f"log: {life.role}"] = _without_room(life, steps)


async def _lags(lag: Awaitable[int], least: int) -> bool:
    return await lag >= least


async def _refused(life: Life, steps: tuple[Step, ...], *, before: int | None = None) -> None:
    """A few of these writes have failed from now on, or since there were `before`."""
    before = _without_room(life, steps) if before is None else before
    await life.until(
        lambda: _without_room(life, steps) >= before + FAILURES_MIN,
        what=f"{FAILURES_MIN} refused writes ({', '.join(steps)}) while the disk is full",
    )


async def _written(life: Life, steps: tuple[Step, ...]) -> None:
    """One of these writes has been done from now on."""
    before = _done(life, steps)
    await life.until(lambda: _done(life, steps) > before, what=f"a write that is done ({', '.join(steps)})")


def _done(life: Life, steps: tuple[Step, ...]) -> int:
    return sum(life.flight.counts[step, Kind.DONE] for step in steps)


def _without_room(life: Life, steps: tuple[Step, ...]) -> int:
    return sum(life.flight.errors[step, error] for step in steps for error in _NO_ROOM)


@asynccontextmanager
async def _full(
    crew: Crew, folder: Path, what: Step, lives: tuple[Life, ...], fullness: Fullness
) -> AsyncIterator[None]:
    """The disk of that folder is full, or seems so to these; at the end, positions are looked at and it is freed."""
    async with _filled(folder) if fullness.how == TMPFS else _failing(what, lives):
        yield
        fullness.findings += [f"while full ({what}): {found}" for found in await positions_ahead(crew.world)]


@asynccontextmanager
async def _filled(folder: Path) -> AsyncIterator[None]:
    """The rest of the file system, taken by a file of ours; given back at the end."""
    filler = folder / "filler"

    async def keep_full() -> None:
        # What others delete meanwhile is taken as well.
        while True:
            _take_all(filler)
            await asyncio.sleep(REFILL_S)

    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(keep_full())
        try:
            yield
        finally:
            keeping.cancel()
            filler.unlink(missing_ok=True)


def _take_all(filler: Path) -> None:
    """Grow the file until nothing is left."""
    block = bytes(_SLACK_BYTES)
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        while True:
            free = os.fstatvfs(descriptor).f_bavail * os.fstatvfs(descriptor).f_bsize
            os.write(descriptor, bytes(free) if free > _SLACK_BYTES else block)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(descriptor)


@asynccontextmanager
async def _failing(what: Step, lives: tuple[Life, ...]) -> AsyncIterator[None]:
    """Every such write of these fails in their recorder."""
    for life in lives:
        life.flight.arm(Aim(what, When.BEFORE, Action.FULL))
    try:
        yield
    finally:
        for life in lives:
            life.flight.disarm()
