"""Faults of brokers: one restarted in the middle of a transaction, a leader killed. Event-loop only."""

from collections.abc import Awaitable, Callable

from brokers.wire import Api, Fault
from chaos.kafka_kills import HOLDS
from chaos.kafka_stage import KafkaStage

RESTARTS = (
    ("scorer", Api.PRODUCE, Fault.HOLD_REPLY, True),
    ("scorer", Api.END_TXN, Fault.HOLD_REQUEST, False),
    ("scorer", Api.END_TXN, Fault.HOLD_REPLY, True),
    ("sink", Api.END_TXN, Fault.HOLD_REPLY, False),
    ("scorer", Api.TXN_OFFSET_COMMIT, Fault.HOLD_REPLY, True),
    ("producer", Api.PRODUCE, Fault.HOLD_REPLY, False),
    ("scorer", Api.PRODUCE, Fault.HOLD_REQUEST, True),
    ("sink", Api.TXN_OFFSET_COMMIT, Fault.HOLD_REPLY, True),
)
"""Whose transaction, at which request, and whether the broker is killed or stopped; the more telling ones first."""


async def restarts(stage: KafkaStage, times: int) -> None:
    """The only broker goes while a transaction is half done, and comes back."""
    (server,) = stage.kafka.servers
    for role, api, hold, kill in RESTARTS[:times]:
        stage.tell(f"broker {'killed' if kill else 'stopped'}: {api.name} of the {role} {HOLDS[hold]}")
        held = await stage.hunted(api, hold, role=role)
        await stage.broker_ends(server, kill=kill)
        held.release()
        await stage.broker_comes_back(server)
        what = f"broker {'killed' if kill else 'stopped'} and restarted in a transaction"
        stage.happened[what] += 1
        await stage.at_work(f"{what}, {api.name} of the {role} {HOLDS[hold]}")


async def leaders(stage: KafkaStage, times: int) -> None:
    """Of three brokers, who leads or coordinates is killed in the middle of a transaction; the others go on."""
    world = stage.world
    first = f"{world.spec.source}/0"
    # Asked right before each kill: the one before has moved them.
    victims: dict[str, Callable[[], Awaitable[int]]] = {
        "the source partition's leader": lambda: world.leader(world.spec.source, 0),
        "a transaction coordinator (__transaction_state)": lambda: world.coordinator("scorer", first),
        "the scorers' coordinator (__consumer_offsets)": lambda: world.coordinator("scorer"),
        "the anomalies' leader": lambda: world.leader(world.spec.destination, 0),
        "the sinks' coordinator (__consumer_offsets)": lambda: world.coordinator("sink"),
    }
    chosen = list(victims) * (times // len(victims)) + list(victims)[: times % len(victims)]
    for what in chosen:
        server = stage.kafka.server(await victims[what]())
        stage.tell(f"{what} killed: broker {server.address.node}")
        held = await stage.hunted(Api.END_TXN, Fault.HOLD_REPLY, role="scorer", partition=first)
        await stage.broker_ends(server, kill=True)
        held.release()
        await stage.at_work(f"{what} was killed, and is gone")
        await stage.broker_comes_back(server)
        await stage.at_work(f"{what} was killed, and is back")
        stage.happened[f"{what} killed"] += 1
