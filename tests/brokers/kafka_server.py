"""Apache Kafka brokers as processes of the tests: started, stopped, killed, frozen. Owns their processes and folders.

Invariant: no broker outlives the thread that started it, whatever ends that; a broker keeps its ports and its data over
restarts. `start`, `stop` and `close` block, the others don't; for one thread (the main one) alone.
"""

import asyncio
import base64
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from brokers.children import ends_with_us
from brokers.jars import java, kafka_jars
from brokers.ports import free_ports

READY_S = 120.0
"""Within this a started broker answers, also on a busy machine; it takes 6 s on a quiet one."""
STOP_S = 60.0
"""A broker told to end has this long before it is killed."""
_ASK_S = 5.0
_PAUSE_S = 0.1
_HEAP = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC")
_PROTOCOLS = "listener.security.protocol.map"
_PROPERTIES: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "CLIENT",
    _PROTOCOLS: "CLIENT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "delete.topic.enable": "true",
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "log.retention.check.interval.ms": "1000",
    "log.initial.task.delay.ms": "500",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "num.network.threads": "2",
    "num.io.threads": "4",
}
"""What differs from Kafka's own defaults is smaller, or sooner: fewer partitions, a shorter least session time-out,
transactions past their time-out aborted and old segments deleted within seconds; a killed broker is missed after 4 s
instead of 9, and only then may it come back."""


@dataclass(frozen=True)
class Address:
    """Where one broker is."""

    node: int
    client_port: int
    """For clients that talk to it directly."""
    proxied_port: int
    """Where it listens for a proxy; on this one it says that it is at `advertised_port`."""
    advertised_port: int
    """Where the proxy is to listen; nobody does unless a test starts one (brokers.proxy)."""
    controller_port: int
    other_ports: Mapping[str, int] = field(default_factory=dict)
    """Where each listener is that a test has added, by its name."""


class KafkaServer:
    """One broker, which is a controller too."""

    def __init__(
        self, address: Address, folder: Path, properties: Mapping[str, str], *, version: str | None = None
    ) -> None:
        self.address = address
        self._version = version
        self._folder = folder
        self._properties = folder / "server.properties"
        folder.mkdir(parents=True)
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in properties.items()), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._formatted = False

    @property
    def output(self) -> Path:
        """What it printed, over all its starts."""
        return self._folder / "output.txt"

    @property
    def process_id(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def format(self, cluster_id: str, options: Sequence[str] = ()) -> None:
        """Make its data folder, once."""
        if not self._formatted:
            tool = ("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self._properties), *options)
            with self.output.open("ab") as output:
                done = subprocess.run(self._command(*tool), stdout=output, stderr=output, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"broker {self.address.node} has no data folder:\n{self._last_words()}")
            self._formatted = True

    def start(self) -> None:
        """Run it; it answers later. Call it from a thread that lives as long as the broker is to."""
        assert self.process_id is None, "started twice"
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(self._properties)), stdout=output, stderr=output
            )

    def stop(self) -> None:
        """Tell it to end and wait for that: it hands its partitions over. No effect while it does not run."""
        if self.process_id is not None:
            self._process_of().terminate()
            self.join()

    def terminate(self) -> None:
        """Tell it to end; `process_id` is None when it has. For who may not block."""
        self._process_of().terminate()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. No effect while it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        self._process_of().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process_of().send_signal(signal.SIGCONT)

    def join(self) -> None:
        """Wait until it has ended by itself, killed after STOP_S."""
        try:
            self._process_of().wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def check(self) -> None:
        """Raises RuntimeError with its last words if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(
                f"broker {self.address.node} ended with {self._process.returncode}:\n{self._last_words()}"
            )

    def _last_words(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")[-3000:]

    def _process_of(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "never started"
        return self._process

    def _command(self, *arguments: str) -> list[str]:
        jvm = (java(), *_HEAP, "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.showDateTime=true")
        return ends_with_us(*jvm, "-cp", f"{kafka_jars(self._version)}/*", *arguments)


class KafkaCluster:
    """One broker or several, each a controller too; a context manager that runs them."""

    def __init__(
        self,
        folder: Path,
        *,
        brokers: int = 1,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        format_options: Sequence[str] = (),
        version: str | None = None,
    ) -> None:
        """Data below `folder`, which must not hold any yet. `properties` come over ours, on every broker.

        `listeners`: others besides ours, name to security protocol. `format_options`: for the storage tool.
        `version`: of Kafka, another than the pom's.
        """
        self._cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
        self._format_options = tuple(format_options)
        others = dict(listeners or {})
        each = 4 + len(others)
        ports = free_ports(each * brokers)
        addresses = [
            Address(node, client, proxied, advertised, controller, dict(zip(others, added, strict=True)))
            for node, (client, proxied, advertised, controller, *added) in enumerate(
                (ports[at : at + each] for at in range(0, len(ports), each)), start=1
            )
        ]
        if others:
            protocols = [_PROPERTIES[_PROTOCOLS], *(f"{name}:{protocol}" for name, protocol in others.items())]
            properties = {_PROTOCOLS: ",".join(protocols), **(properties or {})}
        self.servers = tuple(
            KafkaServer(
                address,
                folder / f"broker-{address.node}",
                self._settings(address, addresses, folder, properties),
                version=version,
            )
            for address in addresses
        )

    @property
    def bootstrap_servers(self) -> str:
        """Every broker as host:port, with commas."""
        return ",".join(f"127.0.0.1:{server.address.client_port}" for server in self.servers)

    @property
    def proxied_bootstrap_servers(self) -> str:
        """The same through proxies, for a test that has started them."""
        return ",".join(f"127.0.0.1:{server.address.advertised_port}" for server in self.servers)

    def servers_of(self, listener: str) -> str:
        """Every broker's port of an added listener as host:port, with commas."""
        return ",".join(f"127.0.0.1:{server.address.other_ports[listener]}" for server in self.servers)

    def server(self, node: int) -> KafkaServer:
        """The broker with this id, from 1 on."""
        return self.servers[node - 1]

    def start(self) -> None:
        """Run every broker; `ready` says when they answer."""
        for server in self.servers:
            server.format(self._cluster_id, self._format_options)
        for server in self.servers:
            server.start()

    async def ready(self, *, brokers: int | None = None) -> None:
        """Wait until a client is told of `brokers` brokers (None: of those that run). Raises RuntimeError."""
        end = time.monotonic() + READY_S
        while True:
            running = [server for server in self.servers if server.process_id is not None]
            for server in self.servers:
                server.check()
            expected = len(running) if brokers is None else brokers
            if running and all([await _brokers_seen(s.address.client_port) == expected for s in running]):
                return
            if time.monotonic() > end:
                raise RuntimeError(f"{expected} brokers did not answer within {READY_S:g} s: {self.servers[0].output}")
            await asyncio.sleep(_PAUSE_S)

    def start_and_wait(self) -> None:
        """`start`, then `ready`, where no event loop runs."""
        self.start()
        asyncio.run(self.ready())

    def close(self) -> None:
        """Kill whatever runs: nobody reads the data again."""
        for server in self.servers:
            server.kill()

    def __enter__(self) -> Self:
        try:
            self.start_and_wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @staticmethod
    def _settings(
        address: Address, all_addresses: list[Address], folder: Path, overrides: Mapping[str, str] | None
    ) -> dict[str, str]:
        copies = str(min(3, len(all_addresses)))
        in_sync = str(min(2, len(all_addresses)))
        added = "".join(f",{name}://127.0.0.1:{port}" for name, port in address.other_ports.items())
        voters = ",".join(f"{other.node}@127.0.0.1:{other.controller_port}" for other in all_addresses)
        return {
            **_PROPERTIES,
            "node.id": str(address.node),
            "controller.quorum.voters": voters,
            "listeners": f"CLIENT://127.0.0.1:{address.client_port},PROXIED://127.0.0.1:{address.proxied_port},"
            f"CONTROLLER://127.0.0.1:{address.controller_port}{added}",
            "advertised.listeners": f"CLIENT://127.0.0.1:{address.client_port},"
            f"PROXIED://127.0.0.1:{address.advertised_port}{added}",
            "log.dirs": str(folder / f"broker-{address.node}" / "data"),
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": in_sync,
            "default.replication.factor": copies,
            "min.insync.replicas": in_sync,
            **(overrides or {}),
        }


async def _brokers_seen(port: int) -> int:
    """Of how many brokers the one on this port tells a client; 0 while it does not answer."""
    try:  # first a bare connection: the client's own log would be full of refused ones
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), _ASK_S)
    except (OSError, TimeoutError):
        return 0
    writer.close()
    client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{port}", request_timeout_ms=round(_ASK_S * 1000))
    try:
        await client.bootstrap()
        return len(client.cluster.brokers())
    except KafkaError:
        return 0
    finally:
        await client.close()
