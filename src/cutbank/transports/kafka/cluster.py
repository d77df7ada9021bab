"""One process's way to a Kafka cluster: connections, who leads what, who coordinates what, and when to ask again.

Owns aiokafka's client, the metadata seen last and the cache of coordinators. A broker answers the requests of one
connection in order, so whoever may wait long (a fetch, a commit) has a **line** of its own: a name for its connections.

Invariant: a request is sent again only where its caller says that twice is as good as once. Event-loop only.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError, NodeNotReadyError
from aiokafka.protocol.coordination import FindCoordinatorRequest

from cutbank.clock import Clock
from cutbank.errors import CutbankError, StreamMissing, StreamUnavailable, UsageError
from cutbank.records import Partition
from cutbank.transports.kafka import wire
from cutbank.transports.kafka.codes import (
    COORDINATOR_BUSY,
    COORDINATOR_MOVED,
    LEADER_MOVED,
    PERMISSIONS,
    Code,
    code_name,
    missing,
    raise_for,
)
from cutbank.transports.kafka.security import client_options, refusal
from cutbank.transports.kafka.settings import KafkaSettings

log = structlog.get_logger(__name__)

PLAIN = "plain"
"""The line of short requests."""

TOPIC_CHARACTERS_MAX = 249
TOPIC_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class NoAnswer(StreamUnavailable):
    """The request may have arrived; its answer did not."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the metadata has it."""

    name: str
    id: str
    """The topic's id; empty where the broker knows none."""
    leaders: tuple[int, ...]
    """Node that leads each partition; -1 for none at the moment."""


class Patience:
    """Pauses between tries, ever longer, until a deadline."""

    def __init__(self, clock: Clock, settings: KafkaSettings, *, timeout_ms: int) -> None:
        self._clock = clock
        self._delay_s = settings.retry_ms / 1000
        self._delay_s_max = settings.retry_ms_max / 1000
        self._end_s = clock.monotonic_s() + timeout_ms / 1000
        self.unanswered = False
        """A request was sent again after its answer was lost, so the first one may still arrive."""

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; 0 after it."""
        return max(0.0, self._end_s - self._clock.monotonic_s())

    async def pause(self, why: CutbankError) -> None:
        """Wait before the next try. Raises `why` when the deadline would pass."""
        self.unanswered |= isinstance(why, NoAnswer)
        if self._delay_s >= self.left_s:
            raise why
        await self._clock.sleep(self._delay_s)
        self._delay_s = min(2 * self._delay_s, self._delay_s_max)


class Cluster:
    """The brokers that a URL names, as one process sees them."""

    def __init__(self, servers: Sequence[str], settings: KafkaSettings, clock: Clock, *, client_id: str) -> None:
        self.settings = settings
        self.clock = clock
        self.client_id = client_id
        self.brokers = 0
        """How many brokers the cluster had, when last seen."""
        self.cluster_id = ""
        self._servers = list(servers)
        self._client: Any = None
        self._topics: dict[str, Topic] = {}
        self._seen: set[str] = set()
        self._coordinators: dict[tuple[int, str], int] = {}
        self._controller: int | None = None
        self._lines = 0

    async def open(self) -> None:
        """Reach one of the brokers. Raises UsageError: credentials, files, or none came within `start_wait_ms`."""
        # The client logs every failed try as an error, many a second; the errors raised here say it once.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        security = client_options(self.settings)
        patience = self.patience(self.settings.start_wait_ms)
        waiting = False
        try:
            while True:
                try:
                    await self._try_servers(security, patience)
                    break
                except StreamUnavailable as error:
                    if not waiting:
                        log.warning("waiting for Kafka", why=str(error), start_wait_ms=self.settings.start_wait_ms)
                    waiting = True
                    await patience.pause(error)
            await self.look(None, patience=patience)
        except StreamUnavailable as error:
            await self.close()
            raise UsageError(
                f"{error}; waited {self.settings.start_wait_ms / 1000:g} s (start_wait_ms): check the hosts, the port "
                "and security of the transport URL, and the brokers' advertised.listeners"
            ) from None
        except BaseException:
            await self.close()
            raise

    async def _try_servers(self, security: dict[str, Any], patience: Patience) -> None:
        options = {"client_id": self.client_id, "request_timeout_ms": self.settings.request_timeout_ms, **security}
        why: list[str] = []
        for server in self._servers:
            host, _, port = server.rpartition(":")
            try:
                # The client's own bootstrap only logs why it could not; a try beforehand tells.
                async with asyncio.timeout(patience.left_s):
                    connection = await create_conn(host.strip("[]"), int(port), **options)
                connection.close()
            except (OSError, KafkaError, TimeoutError) as error:
                if (refused := refusal(error, self.settings)) is not None:
                    raise UsageError(f"Kafka broker {server}: {refused}") from None
                why.append(f"{server}: {error or 'no answer in time'}")
                continue
            client = AIOKafkaClient(
                bootstrap_servers=[server],
                retry_backoff_ms=self.settings.retry_ms,
                **options,
            )
            try:
                async with asyncio.timeout(patience.left_s):
                    await client.bootstrap()
            except (OSError, KafkaError, TimeoutError):
                await client.close()
                why.append(f"{server}: it takes connections but answers no {self.settings.security} client")
                continue
            self._client = client
            return
        raise StreamUnavailable(f"no Kafka broker can be reached ({'; '.join(why)})")

    async def restart(self) -> None:
        """A new client that begins from the URL's servers; what is under way on the old one fails.

        Raises UsageError, StreamUnavailable: the old one stays.
        """
        if (old := self._client) is not None:
            await self._try_servers(client_options(self.settings), self.patience())
            self._topics.clear()
            self._coordinators.clear()
            await old.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def topic_name(self, stream: str) -> str:
        """The topic that carries a stream."""
        return self.settings.prefix + stream

    def new_line(self, what: str) -> str:
        """A name for connections of somebody's own; give it back with `drop`."""
        self._lines += 1
        return f"{what} {self._lines}"

    def drop(self, line: str) -> None:
        """Close a line's connections; requests that are under way on it fail. The next request opens it again."""
        if self._client is None:
            return
        # The client has no public way to close one connection.
        connections = self._client._conns  # noqa: SLF001
        for key in [key for key in connections if key[1] == line]:
            connections.pop(key).close()

    def patience(self, timeout_ms: int | None = None) -> Patience:
        """Until `call_timeout_ms`, or another deadline."""
        return Patience(self.clock, self.settings, timeout_ms=timeout_ms or self.settings.call_timeout_ms)

    async def send(self, node: int | None, request: Any, *, line: str = PLAIN, timeout_s: float | None = None) -> Any:
        """One request, once; `node` None: any broker. Raises NoAnswer, StreamUnavailable (not sent), UsageError."""
        if self._client is None:
            raise StreamUnavailable("the Kafka transport is closed")
        if node is None and (node := self._client.get_random_node()) is None:
            raise StreamUnavailable("no Kafka broker is known")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._client.send(node, request, group=line)
        except NotImplementedError as error:
            raise UsageError(f"kafka: the broker is too old: {error}") from None
        except NodeNotReadyError:
            raise StreamUnavailable(f"Kafka broker {self._named(node)} can't be reached") from None
        except TimeoutError:
            # What is late on this connection would hold up all that comes after it.
            self.drop(line)
            raise NoAnswer(f"Kafka broker {node} did not answer in time") from None
        except (KafkaError, OSError, KeyError) as error:
            # KeyError: the client looks for a connection that was dropped meanwhile.
            raise NoAnswer(f"Kafka broker {node}: {error or type(error).__name__}") from None

    def _named(self, node: int) -> str:
        """A broker with the address that the cluster tells of it."""
        broker = self._client.cluster.broker_metadata(node) if self._client is not None else None
        return f"{node} ({broker.host}:{broker.port})" if broker is not None else str(node)

    async def send_any(self, request: Any, *, patience: Patience | None = None) -> Any:
        """To any broker, again until it answers; for questions."""
        patience = patience or self.patience()
        while True:
            try:
                return await self.send(None, request, timeout_s=patience.left_s)
            except StreamUnavailable as error:
                await patience.pause(error)

    async def send_controller(self, request: Any, *, patience: Patience) -> Any:
        """To the broker that changes topics, again until it answers."""
        while True:
            try:
                return await self.send(self._controller, request, timeout_s=patience.left_s)
            except StreamUnavailable as error:
                await patience.pause(error)

    async def look(self, streams: Sequence[str] | None, *, patience: Patience | None = None) -> dict[str, Topic]:
        """Metadata of these streams, or of all, now; streams that are missing are left out."""
        names = None if streams is None else [self.topic_name(stream) for stream in streams]
        prefix = self.settings.prefix
        answer = await self.send_any(wire.TopicsRequest(names), patience=patience)
        self.brokers = len(answer.brokers)
        self.cluster_id = answer.cluster_id or ""
        self._controller = answer.controller_id if answer.controller_id >= 0 else None
        found: dict[str, Topic] = {}
        for topic in answer.topics:
            if answer.API_VERSION < wire.MetadataResponseV12.API_VERSION:
                code, name, internal, partitions = topic
                id_ = ""
            else:
                code, name, uuid, internal, partitions, *_ = topic
                id_ = "" if uuid == wire.NO_TOPIC_ID else str(uuid)
            if code in PERMISSIONS and streams is not None:
                raise_for(code, f"topic {name!r}", needs="Describe")
            if code not in {Code.NONE, Code.LEADER_NOT_AVAILABLE} or internal or not name.startswith(prefix):
                continue
            stream = name.removeprefix(prefix)
            leaders = {number: leader for _, number, leader, *_ in partitions}
            # A partition that the broker has not heard of yet is asked for again when it is needed.
            found[stream] = Topic(stream, id_, tuple(leaders.get(n, -1) for n in range(max(leaders, default=-1) + 1)))
        for stream in streams or ():
            self._topics.pop(stream, None)
        self._topics.update({stream: found[stream] for stream in streams or () if stream in found})
        return found

    async def topic(self, stream: str, *, fresh: bool = False) -> Topic:
        """A topic, from the cache unless `fresh`. Raises StreamMissing, StreamUnavailable, UsageError."""
        if not fresh and (known := self._topics.get(stream)) is not None:
            return known
        self.check_name(stream)
        patience = self.patience(None if stream in self._seen else 1)
        while (found := (await self.look([stream])).get(stream)) is None:
            await patience.pause(missing(stream))  # a broker that has just started may miss one that is there
        self._seen.add(stream)
        return found

    def check_name(self, stream: str) -> None:
        """Raises StreamMissing for a name that no topic can have."""
        name = self.topic_name(stream)
        if not stream or len(name) > TOPIC_CHARACTERS_MAX or not TOPIC_ALPHABET.issuperset(name) or name in {".", ".."}:
            raise StreamMissing(
                f"stream {stream[:60]!r} does not exist and can't on Kafka; a topic's name has 1 to "
                f"{TOPIC_CHARACTERS_MAX} of the characters a-z A-Z 0-9 . _ -"
            )

    async def number(self, partition: Partition) -> int:
        """The partition's number. Raises StreamMissing, StreamUnavailable."""
        topic = await self.topic(partition.stream)
        text = partition.id
        number = int(text) if text.isascii() and text.isdigit() and text == str(int(text)) else -1
        if number >= len(topic.leaders):
            topic = await self.topic(partition.stream, fresh=True)
        if not 0 <= number < len(topic.leaders):
            raise StreamMissing(f"stream {partition.stream!r} has no partition {partition.id!r}")
        return number

    async def ask_leader(
        self,
        stream: str,
        number: int,
        request: Any,
        *,
        code_of: Callable[[Any], int],
        patience: Patience,
        line: str = PLAIN,
        extra: frozenset[int] = frozenset(),
    ) -> tuple[Any, int]:
        """The leader's answer and its code, which is none of those that ask to come again; `extra` adds to these.

        The request is sent again after a lost answer. Raises StreamMissing, StreamUnavailable, UsageError.
        """
        fresh = False
        while True:
            topic = await self.topic(stream, fresh=fresh)
            if number >= len(topic.leaders):
                raise StreamMissing(f"stream {stream!r} has no partition '{number}'")
            leader = topic.leaders[number]
            fresh = True
            if leader == -1:
                why: CutbankError = StreamUnavailable(f"{stream}/{number} has no leader at the moment")
            else:
                try:
                    answer = await self.send(leader, request, line=line, timeout_s=patience.left_s)
                except StreamUnavailable as error:
                    why = error
                else:
                    code = code_of(answer)
                    if code not in LEADER_MOVED | extra and code != Code.UNKNOWN_TOPIC_OR_PARTITION:
                        return answer, code
                    why = StreamUnavailable(f"{stream}/{number}: the broker answers {code_name(code)}")
            await patience.pause(why)

    async def coordinator(self, kind: Literal[0, 1], key: str) -> int:
        """Node that coordinates a group (0) or a transactional id (1). Raises StreamUnavailable, UsageError."""
        if (known := self._coordinators.get((kind, key))) is not None:
            return known
        answer = await self.send(
            None, FindCoordinatorRequest(key, kind), timeout_s=self.settings.call_timeout_ms / 1000
        )
        if answer.error_code:
            raise_for(answer.error_code, f"{'transactional id' if kind else 'group'} {key!r}")
        self._coordinators[(kind, key)] = answer.coordinator_id
        return int(answer.coordinator_id)

    def forget_coordinator(self, kind: Literal[0, 1], key: str) -> None:
        """Ask again before the next request."""
        self._coordinators.pop((kind, key), None)

    async def ask_coordinator(
        self,
        kind: Literal[0, 1],
        key: str,
        request: Any,
        *,
        code_of: Callable[[Any], int],
        patience: Patience,
        line: str,
        again: bool = True,
    ) -> tuple[Any, int]:
        """The coordinator's answer and its code, which is none of those that ask to come again.

        `again`: the request may be sent again after a lost answer; else that raises NoAnswer. Raises StreamUnavailable
        (nothing done), UsageError.
        """
        while True:
            try:
                node = await self.coordinator(kind, key)
                answer = await self.send(node, request, line=line, timeout_s=patience.left_s)
            except NoAnswer as error:
                self.forget_coordinator(kind, key)
                if not again:
                    raise
                why: CutbankError = error
            except StreamUnavailable as error:
                self.forget_coordinator(kind, key)
                why = error
            else:
                code = code_of(answer)
                if code in COORDINATOR_MOVED:
                    self.forget_coordinator(kind, key)
                elif code not in COORDINATOR_BUSY:
                    return answer, code
                why = StreamUnavailable(f"coordinator of {key!r}: {code_name(code)}")
            await patience.pause(why)


async def quietly(call: Awaitable[object]) -> None:
    """Await what may fail, where nobody is helped by hearing of it."""
    with suppress(CutbankError):
        await call
