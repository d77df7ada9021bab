"""Storage that is slow, refuses or is silent, for a while or for minutes; and answers that get lost all the time.

While it refuses everything, no position moves past what is durable, and the sinks' memory stays bounded; when it is
well again, they go on by themselves and the lag is made up. Event-loop only.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from chaos.crew import POLL_S, WAIT_S_MAX, Life, Trouble
from chaos.s3_stage import S3Stage
from chaos.s3_world import HELD_BYTES_MAX
from object_servers.requests import (
    CONFLICT,
    EXPIRED,
    INTERNAL,
    REQUEST_TIMEOUT,
    SLOW_DOWN,
    UNAVAILABLE,
    Action,
    Fault,
    What,
)

OUTAGES: tuple[Fault, ...] = (
    Fault.answer(SLOW_DOWN),
    Fault.HANG,
    Fault.answer(EXPIRED),
    Fault.RESET,
    Fault.answer(INTERNAL),
    Fault.HANG_AFTER,
)
"""Everything meets this, for as long as it lasts."""

SHORT_S, LONG_S = 3.0, 75.0
"""An outage of the short form, and those of the long form that last."""

SHORT_ONES = 4
"""Of `OUTAGES`, so many from the first on are in the short form."""

LONG_ONES = 3
"""Of `OUTAGES`, so many from the first on last `LONG_S` in the long form."""

SPARE_BYTES = 32 << 20
"""What a sink may need beside what it may hold, bytes."""

_PAGE_BYTES = 4096
_LOOK_S = 0.2


async def outages(stage: S3Stage, times: int) -> None:
    """Each of `OUTAGES`; `times` above 1 is the long form."""
    for number, fault in enumerate(OUTAGES if times > 1 else OUTAGES[:SHORT_ONES]):
        seconds = LONG_S if times > 1 and number < LONG_ONES else SHORT_S
        stage.tell(f"{fault} for {seconds:g} s")
        await _outage(stage, fault, seconds)
        stage.happened[f"everything meets: {fault}, {seconds:g} s"] += 1


async def _outage(stage: S3Stage, fault: Fault, seconds: float) -> None:
    lives = list(stage.sinks.values())
    idle = {life: resident_bytes(life) for life in lives}
    rule = stage.rule(fault, times=None)
    await lives[0].until(rule.met.is_set, what="a request")
    peak = dict(idle)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        stage.check_alive()
        for life in lives:
            peak[life] = max(peak[life], resident_bytes(life))
        await asyncio.sleep(_LOOK_S)
    await stage.look(f"{fault}, still on")
    stage.happened["requests that met an outage"] += rule.struck
    stage.proxy.remove(rule)
    stage.findings += [
        f"{life.name} grew by {(peak[life] - idle[life]) >> 20} MiB while everything met: {fault}"
        for life in lives
        if peak[life] - idle[life] > HELD_BYTES_MAX + SPARE_BYTES
    ]
    stage.happened["MiB that a sink grew by at most"] = max(
        [stage.happened["MiB that a sink grew by at most"], *((peak[life] - idle[life]) >> 20 for life in lives)]
    )
    await caught_up(stage, f"{fault} was over")
    await stage.at_work(f"{fault} was over", roles=("producer", "scorer"))
    await stage.sinks_at_work(f"{fault} was over")


async def caught_up(stage: S3Stage, what: str) -> None:
    """Until the sinks' lag is what an undisturbed minute leaves. Raises Trouble without progress for `WAIT_S_MAX`."""
    world = stage.world
    usual = 3 * world.stretch_records_max * world.width
    least, deadline_s = 1 << 60, time.monotonic() + WAIT_S_MAX
    while (lag := sum([await world.lag("sink", stream) for stream in world.sunk])) > usual:
        stage.check_alive()
        if lag < least:
            least, deadline_s = lag, time.monotonic() + WAIT_S_MAX
        if time.monotonic() > deadline_s:
            raise Trouble(f"the sinks' lag is {lag} and does not fall after {what}")
        await asyncio.sleep(POLL_S)


WEATHER: tuple[tuple[Fault, float, Action | None], ...] = (
    (Fault.RESET_AFTER, 0.1, Action.CREATE),
    (Fault.HANG_AFTER, 0.03, Action.CREATE),
    (Fault.answer_after(INTERNAL), 0.05, Action.CREATE),
    (Fault.answer(CONFLICT), 0.1, Action.CREATE),
    (Fault.answer(SLOW_DOWN), 0.1, None),
    (Fault.answer(UNAVAILABLE), 0.05, None),
    (Fault.answer(REQUEST_TIMEOUT), 0.03, Action.CREATE),
    (Fault.RESET, 0.05, None),
    (Fault.CUT_BODY, 0.2, Action.READ),
    (Fault.CUT_BODY, 0.1, Action.LIST),
    (Fault.trickle(0.02), 0.2, Action.READ),
    (Fault.delay(0.4), 0.05, None),
    (Fault.delay_reply(0.4), 0.05, None),
)
"""All of it at once, by chance: the first that strikes counts."""

WEATHER_S = 12.0


async def weather(stage: S3Stage, times: int) -> None:
    """So many spells; in each a sink ends in order and another is killed, so that what is there is read back."""
    for _ in range(times):
        rules = [stage.rule(fault, action=action, times=None, share=share) for fault, share, action in WEATHER]
        await asyncio.sleep(WEATHER_S / 2)  # at some time: nothing is waited for here
        await stage.killed(stage.sinks[0])
        await stage.sink(0)
        await asyncio.sleep(WEATHER_S / 2)
        await _ends(stage, stage.sinks[1])
        await stage.sink(1)
        for rule in rules:
            stage.happened[f"{rule.action or 'any request'}: {rule.fault}"] += rule.struck
            stage.proxy.remove(rule)
        for life in stage.sinks.values():
            await life.until_live()
        await caught_up(stage, "bad weather")
    await stage.at_work("bad weather", roles=("producer", "scorer"))
    await stage.sinks_at_work("bad weather")


async def _ends(stage: S3Stage, life: Life) -> None:
    """SIGTERM in bad weather: within its grace period, with exit code 0."""
    await life.until_live()
    await life.terminated()
    life.flight.close()
    stage.happened["sinks that ended in order meanwhile"] += 1


async def lost_replies(stage: S3Stage, times: int) -> None:
    """The reply of each sort of put is lost in each way, one after another; so is the conflict of one."""
    ways = (Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.answer_after(INTERNAL), Fault.answer_after(CONFLICT))
    sorts: tuple[tuple[What, Callable[[Life], bool]], ...] = (
        (What.CLAIM, lambda life: life.role == "sink"),
        (What.OBJECT, lambda life: life.role == "sink"),
        (What.SNAPSHOT, lambda life: life.role == "scorer"),
    )
    for _ in range(times):
        for what, whose in sorts:
            lives = [life for life in (*stage.sinks.values(), stage.crew.posts["scorer"]) if whose(life)]
            for fault in (*ways, Fault.answer(CONFLICT)):
                rule = stage.rule(fault, action=Action.CREATE, what=what)
                await lives[0].until(rule.met.is_set, what=f"a put of a {what}")
                stage.happened[f"{what}: {fault}"] += 1
                stage.proxy.remove(rule)
    await stage.at_work("lost replies", roles=("producer", "scorer"))
    await stage.sinks_at_work("lost replies")


def resident_bytes(life: Life) -> int:
    """Of its process, now; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{life.process.pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0
