"""Faults of the way between services and broker: cut, delayed, silent; the end of a transaction lost or late.

Event-loop only.
"""

import asyncio

from brokers.wire import Api, Fault
from chaos.kafka_kills import ASLEEP_S, STEPS
from chaos.kafka_stage import KafkaStage
from chaos.kafka_world import COMMIT_MS

DELAY_S = 0.1
"""Added each way to everything, seconds."""

DELAYED_S = 3.0
"""How long everything is late."""

LATE_S = 1.2 * COMMIT_MS / 1000
"""How long an answer is held that is to be later than its deadline, seconds."""

CUT_S_MAX = 1.0
"""Between two cuts at most, seconds."""


async def links(stage: KafkaStage, times: int) -> None:
    """All connections: cut at random times, delayed, silent past the session time-out."""
    wire, rng = stage.wire, stage.rng
    for number in range(3 * times):
        await asyncio.sleep(rng.uniform(0.0, CUT_S_MAX))  # at a random time: nothing is waited for here
        if number % 3 == 2:
            wire.cut_clients()
            stage.happened["clients' ends cut, requests still arrive"] += 1
        else:
            wire.cut()
            stage.happened["all connections cut"] += 1
    await stage.at_work("cuts")
    for _ in range(times):
        wire.delay_s = DELAY_S
        await asyncio.sleep(DELAYED_S)
        wire.delay_s = 0.0
        stage.happened[f"{2 * DELAY_S * 1000:g} ms added to every request for {DELAYED_S:g} s"] += 1
        await stage.at_work("a delay")
        wire.stall()
        await asyncio.sleep(ASLEEP_S)
        wire.flow()
        stage.happened["nothing passes for longer than session and transaction last"] += 1
        await stage.at_work("silence")


async def ends(stage: KafkaStage, times: int) -> None:
    """EndTxn of each role: request lost, reply lost, held past its deadline, late into the next transaction."""
    for _ in range(times):
        for role in STEPS:
            for fault, what in (
                (Fault.CUT_BEFORE, "request lost"),
                (Fault.CUT_AFTER, "reply lost"),
                (Fault.HOLD_REPLY, "reply later than its deadline"),
            ):
                held = await stage.hunted(Api.END_TXN, fault, role=role)
                if fault is Fault.HOLD_REPLY:
                    await asyncio.sleep(LATE_S)  # whoever waits for it gives up at his own deadline, and goes on
                await stage.at_work(f"EndTxn of the {role}: {what}")
                held.release()
                stage.happened[f"EndTxn: {what}"] += 1
        for role in ("scorer", "sink", "scorer", "scorer"):
            await _late(stage, role)


async def _late(stage: KafkaStage, role: str) -> None:
    """Its client's end is cut, so whoever asks again does so at once; it arrives in the middle of what comes next.

    Of a scorer's next transaction the broker has the position and not the records then. On a machine so slow that an
    owner's deadline passes meanwhile, it has begun anew, and this is one more late EndTxn of an old epoch.
    """
    place = stage.world.spec.source if role == "scorer" else stage.world.spec.destination
    owner = f"{place}/0"
    late = await stage.hunted(Api.END_TXN, Fault.HOLD_REQUEST, role=role, partition=owner)
    stage.wire.cut_clients()
    holding = stage.world.transactional_id(role, owner).encode()
    position = stage.wire.ambush(Api.TXN_OFFSET_COMMIT, Fault.HOLD_REPLY, holding=holding)
    if role == "scorer":
        records = await stage.hunted(Api.PRODUCE, Fault.HOLD_REQUEST, role=role, partition=owner)
    await stage.in_time(position.met, f"a position of the {role}")
    late.release()
    await stage.in_time(late.answered, "the late EndTxn's answer")
    position.release()
    if role == "scorer":
        records.release()
    stage.happened["EndTxn: late, in the middle of the next transaction"] += 1
    await stage.at_work(f"a late EndTxn of the {role}")
