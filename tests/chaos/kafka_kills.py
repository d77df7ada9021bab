"""Faults of processes on Kafka: killed, also inside a transaction; asleep past every time-out; coming and going.

What an owner is doing to its transaction is seen on the wire: a request is held there, before the broker has it or
before the owner has the answer, while something is done to the owner. Event-loop only.
"""

import asyncio
import re
import signal
import time
from collections.abc import Mapping

from brokers.wire import Api, Fault
from chaos.crew import Life, Trouble
from chaos.flight import Kind, Step
from chaos.freezes import freeze_and_wake
from chaos.kafka_stage import KafkaStage
from chaos.kafka_world import SESSION_MS, TRANSACTION_MS
from chaos.kills import carry_out, plan
from chaos.stage import COMPLETE, stopped
from chaos.stops import STOPS, stop_in_the_middle

ASLEEP_S = 1.5 * max(SESSION_MS, TRANSACTION_MS) / 1000
"""How long a zombie sleeps at least: past its session's time-out and its transaction's."""

MEMBERS_MAX = 3
"""Of one role in a storm."""

STAY_S = (0.5, 2.5)
"""Between two comings or goings of a role in a storm, seconds."""

STEPS = {
    "producer": (Api.PRODUCE, Api.END_TXN),
    "scorer": (Api.PRODUCE, Api.TXN_OFFSET_COMMIT, Api.END_TXN),
    "sink": (Api.TXN_OFFSET_COMMIT, Api.END_TXN),
}
"""The requests of a role's transaction at which it is hunted."""

KILLED = "kill -9 at random and at chosen calls"
_KILLED = re.compile(rf"(producer|scorer|sink) (killed|left by kill -9)|{KILLED}")

HOLDS = {Fault.HOLD_REQUEST: "on its way", Fault.HOLD_REPLY: "done, the answer on its way"}


async def kills(stage: KafkaStage, times: int) -> None:
    """Kills at random, `times` of them, and aimed ones."""
    aimed = max(12, times // 4)
    await carry_out(stage.crew, plan(times, aimed, seed=stage.rng.randrange(1 << 30)), stage.tally)
    stage.happened[KILLED] += stage.tally.kills.total()


async def stops(stage: KafkaStage, times: int) -> None:
    """SIGTERM in the middle of a write, and zombies that sleep before a write."""

    async def of(role: str) -> None:
        stopped = await stop_in_the_middle(stage.crew, role, stage.ahead)
        stage.happened["SIGTERM in the middle of a write"] += stopped
        await freeze_and_wake(stage.crew, role, stage.zombies)

    for _ in range(times):
        async with asyncio.TaskGroup() as group:
            for role in STOPS:
                group.create_task(of(role))
    stage.happened["SIGSTOP before a write, while another takes over"] += stage.zombies.zombies


async def killed_in_a_transaction(stage: KafkaStage, times: int) -> None:
    """Each role, at each step of its transaction, before the broker has the request and after it has done it."""

    async def of(role: str) -> None:
        hunts = [(api, hold) for api in STEPS[role] for hold in HOLDS] * times
        stage.rng.shuffle(hunts)
        for api, hold in hunts:
            life = stage.crew.posts[role]
            await life.until_live()
            held = await stage.hunted(api, hold, role=role)
            life.send(signal.SIGKILL)
            if (code := await life.ended()) != -signal.SIGKILL:
                raise Trouble(f"{life.name} ended with {code}, and was to be killed\n{life.last_words()}")
            held.release()
            stage.happened[f"{role} killed, {api.name} {HOLDS[hold]}"] += 1
            await stage.look(f"{life.name}, {api.name} {HOLDS[hold]}")
            await stage.crew.start(role)
        await stage.crew.posts[role].until_live()

    async with asyncio.TaskGroup() as group:
        for role in STEPS:
            group.create_task(of(role))


async def asleep_in_a_transaction(stage: KafkaStage, times: int) -> None:
    """Zombies: past session and transaction time-out, with another that takes over, and with nobody."""
    for _ in range(times):
        for role, api, hold in (
            ("scorer", Api.PRODUCE, Fault.HOLD_REPLY),
            ("scorer", Api.END_TXN, Fault.HOLD_REQUEST),
            ("sink", Api.END_TXN, Fault.HOLD_REQUEST),
        ):
            await _asleep_beside_an_heir(stage, role, api, hold)
        for role in ("scorer", "sink"):
            await _asleep_alone(stage, role)


async def _asleep_beside_an_heir(stage: KafkaStage, role: str, api: Api, hold: Fault) -> None:
    crew = stage.crew
    zombie = crew.posts[role]
    await zombie.until_live()
    heir = await crew.start(role)
    await heir.until_live()
    write = await zombie.until_event(
        lambda event: event.kind is Kind.BEGUN and event.step in COMPLETE[role],
        after=zombie.flight.last,
        what="a write",
    )
    partition, mark = write.subject, heir.flight.last
    held = await stage.hunted(api, hold, role=role, partition=partition)
    began_s = time.monotonic()
    await stopped(zombie)
    zombie.flight.follow()
    asleep = zombie.flight.last
    await heir.until(
        lambda: (
            heir.done(Step.FENCE, partition, after=mark)
            and any(heir.done(step, partition, after=mark) for step in COMPLETE[role])
        ),
        what=f"taking over {partition}",
    )
    await asyncio.sleep(max(0.0, began_s + ASLEEP_S - time.monotonic()))
    held.release()
    zombie.send(signal.SIGCONT)
    await _is_refused(stage, zombie, asleep, partition)
    stage.happened[f"{role} asleep, {api.name} {HOLDS[hold]}; another took over"] += 1
    await heir.terminated()
    heir.flight.close()
    crew.posts[role] = zombie
    await stage.at_work(f"{zombie.name} woke up", roles=(role,))


async def _asleep_alone(stage: KafkaStage, role: str) -> None:
    """Nobody takes over: the broker aborts its transaction, and gives its partitions to nobody."""
    zombie = stage.crew.posts[role]
    held = await stage.hunted(Api.TXN_OFFSET_COMMIT, Fault.HOLD_REPLY, role=role)
    await stopped(zombie)
    zombie.flight.follow()
    asleep = zombie.flight.last
    await asyncio.sleep(ASLEEP_S)
    held.release()
    zombie.send(signal.SIGCONT)
    await _is_refused(stage, zombie, asleep, "")
    stage.happened[f"{role} asleep in a transaction, alone"] += 1
    await stage.at_work(f"{zombie.name} woke up", roles=(role,))


async def _is_refused(stage: KafkaStage, zombie: Life, asleep: int, partition: str) -> None:
    """Until the write that it slept in has ended, which must not be well; `partition` empty: that of any."""
    open_writes = {
        event.call
        for event in zombie.flight.open.values()
        if event.step in COMPLETE[zombie.role] and partition in ("", event.subject)
    }
    end = await zombie.until_event(
        lambda event: event.call in open_writes and event.kind in (Kind.DONE, Kind.FAILED),
        after=asleep,
        what="the end of the write that it slept in",
    )
    if end.kind is Kind.DONE and partition:
        stage.findings.append(f"zombie {zombie.name}: its {end.step} of {end.subject} was taken")


async def storm(stage: KafkaStage, times: int) -> None:
    """Scorers and sinks come and go, by SIGTERM and kill -9, each role `times` times."""

    async def of(role: str) -> None:
        members = [stage.crew.posts[role]]
        for _ in range(times):
            await asyncio.sleep(stage.rng.uniform(*STAY_S))  # at a random time: nothing is waited for here
            if len(members) < 2 or (len(members) < MEMBERS_MAX and stage.rng.random() < 0.5):
                members.append(await stage.crew.start(role))
                stage.happened[f"{role} joined"] += 1
            else:
                await _goes(stage, members.pop(stage.rng.randrange(len(members))))
        while len(members) > 1:
            await _goes(stage, members.pop(0))
        await members[0].until_live()
        stage.crew.posts[role] = members[0]

    async with asyncio.TaskGroup() as group:
        for role in ("scorer", "sink"):
            group.create_task(of(role))
    await stage.at_work("a storm")


async def _goes(stage: KafkaStage, life: Life) -> None:
    """In order, or not; before it is at work there is no order."""
    if life.over:
        raise Trouble(f"{life.name} ended by itself: {life.process.returncode}\n{life.last_words()}")
    live = bool(life.flight.counts[Step.RECEIVE, Kind.BEGUN])
    if live and stage.rng.random() < 0.5:
        await life.terminated()
        stage.happened[f"{life.role} left by SIGTERM"] += 1
    else:
        life.send(signal.SIGKILL)
        await life.ended()
        stage.happened[f"{life.role} left by kill -9"] += 1
    await stage.look(f"{life.name} left")


def kills_in(happened: Mapping[str, int]) -> int:
    """How many of what happened were kills of a service."""
    return sum(count for what, count in happened.items() if _KILLED.match(what))
