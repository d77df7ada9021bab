"""What a fault on Kafka works with beside the processes: the brokers, and the wire between them. Event-loop only."""

import asyncio
import time
from dataclasses import dataclass

from brokers.kafka_server import KafkaCluster, KafkaServer
from brokers.wire import Ambush, Api, Fault, Wire
from chaos.crew import POLL_S, WAIT_S_MAX, Trouble
from chaos.kafka_world import KafkaWorld
from chaos.stage import Stage


@dataclass
class KafkaStage(Stage):
    """One fault's."""

    world: KafkaWorld
    wire: Wire
    kafka: KafkaCluster

    async def hunted(self, api: Api, fault: Fault, *, role: str, partition: str = "") -> Ambush:
        """The next such request of an owner, or of any of the role, with the fault done to it. Raises Trouble."""
        holding = self.world.transactional_id(role, partition).encode()
        ambush = self.wire.ambush(api, fault, holding=holding)
        await self.in_time(ambush.met, f"{api.name} of {role} {partition}")
        return ambush

    async def broker_ends(self, server: KafkaServer, *, kill: bool) -> None:
        """It is killed, or told to stop; returns when it is gone."""
        if kill:
            server.kill()
            return
        server.terminate()
        deadline_s = time.monotonic() + WAIT_S_MAX
        while server.process_id is not None:
            if time.monotonic() > deadline_s:
                raise Trouble(f"broker {server.address.node} did not stop: {server.output}")
            await asyncio.sleep(POLL_S)

    async def broker_comes_back(self, server: KafkaServer) -> None:
        """Start it again, and wait until it answers."""
        server.start()
        await self.kafka.ready(brokers=len(self.kafka.servers))
