"""One process's connections to a Kafka cluster: reached, sent on, dropped, begun anew. Owns aiokafka's client.

A broker answers the requests of one connection in order, so whoever may wait long (a fetch, a commit) has a **line** of
its own: a name for its connections.

Invariant: a request is sent once; who sends it again says that twice is as good as once. Event-loop only.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import structlog
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError, NodeNotReadyError, SaslAuthenticationFailed
from aiokafka.protocol.admin import ApiVersionRequest

from cutbank.clock import Clock
from cutbank.errors import CutbankError, StreamUnavailable, UsageError
from cutbank.transports.kafka.codes import code_name
from cutbank.transports.kafka.msk import MSK_IAM
from cutbank.transports.kafka.security import client_options, refusal
from cutbank.transports.kafka.settings import KafkaSettings

log = structlog.get_logger(__name__)

PLAIN = "plain"
"""The line of short requests."""

REFUSAL_S = 1.0
"""Pause between two tries that find out why a broker can't be reached, and how long one may take, s."""


class NoAnswer(StreamUnavailable):
    """The request may have arrived; its answer did not."""


class Patience:
    """The deadline of a whole call: how long each of its tries may take, and pauses between them, ever longer."""

    def __init__(self, clock: Clock, settings: KafkaSettings, *, timeout_ms: int) -> None:
        self._clock = clock
        self._delay_s = settings.retry_ms / 1000
        self._delay_s_max = settings.retry_ms_max / 1000
        self._try_s = settings.try_timeout_ms / 1000
        self._end_s = clock.monotonic_s() + timeout_ms / 1000
        self.unanswered = False
        """A request was sent again after its answer was lost, so the first one may still arrive."""

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; 0 after it."""
        return max(0.0, self._end_s - self._clock.monotonic_s())

    def try_s(self, *, held_s: float = 0.0) -> float:
        """How long the next try may take: `try_timeout_ms`, and what the broker may hold its answer back for.

        Twice as long after each lost answer: a broker may be slow.
        """
        return min(self.left_s, self._try_s + held_s)

    async def pause(self, why: CutbankError) -> None:
        """Wait before the next try. Raises `why` when the deadline would pass."""
        if isinstance(why, NoAnswer):
            self.unanswered = True
            self._try_s *= 2
        if self._delay_s >= self.left_s:
            raise why
        await self._clock.sleep(self._delay_s)
        self._delay_s = min(2 * self._delay_s, self._delay_s_max)


class _Client(AIOKafkaClient):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's client, in which one broker that hangs holds up no connection to another.

    Its own opens one connection after another, and asks for metadata of its own accord, of hung brokers too.
    """

    _locks: WeakValueDictionary[tuple[Any, Any], asyncio.Lock]

    async def _get_conn(self, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, no_hint: bool = False) -> Any:
        if not hasattr(self, "_locks"):
            self._locks = WeakValueDictionary()
        lock = self._locks.setdefault((node_id, group), asyncio.Lock())
        # Taken by what follows before anybody else can run.
        self._get_conn_lock_value = lock
        return await super()._get_conn(node_id, group=group, no_hint=no_hint)


class Connections:
    """The brokers that a URL names, as one process reaches them."""

    def __init__(self, servers: Sequence[str], settings: KafkaSettings, clock: Clock, *, client_id: str) -> None:
        self.settings = settings
        self.clock = clock
        self.client_id = settings.client_id or client_id
        self._servers = list(servers)
        self._client: Any = None
        self._lines = 0
        self._options: dict[str, Any] = {}
        self._refused: dict[int, str] = {}
        self._silent: set[int] = set()
        """Nodes whose last answer did not come in time: what any broker can answer is asked of others."""
        self._asked_why_s = float("-inf")

    async def connect(self, patience: Patience) -> None:
        """Reach one of the brokers. Raises UsageError (credentials, files), StreamUnavailable (none came in time)."""
        # The client logs every failed try as an error, many a second; the errors raised here say it once.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        security = await client_options(self.settings, self._servers, self.clock)
        waiting = False
        while True:
            try:
                await self._try_servers(security, patience)
                return
            except StreamUnavailable as error:
                if not waiting:
                    log.warning("waiting for Kafka", why=str(error), start_wait_ms=self.settings.start_wait_ms)
                waiting = True
                await patience.pause(error)

    async def _try_servers(self, security: dict[str, Any], patience: Patience) -> None:
        """One try with each server until one answers, each with an equal part of the time that is left."""
        options = {"client_id": self.client_id, "request_timeout_ms": self.settings.request_timeout_ms, **security}
        why: list[str] = []
        late = False
        for tried, server in enumerate(self._servers):
            part_s = patience.left_s / (len(self._servers) - tried)
            try:
                async with asyncio.timeout(min(part_s, patience.try_s())):
                    client = await self._reach(server, options)
            except (OSError, KafkaError, TimeoutError) as error:
                if (refused := refusal(error, self.settings)) is not None:
                    raise UsageError(f"Kafka broker {server}: {refused}") from None
                late |= isinstance(error, TimeoutError)
                why.append(f"{server}: {str(error) or 'no answer in time'}")
                continue
            self._client, self._options = client, options
            self._refused.clear()
            self._silent.clear()
            return
        raise (NoAnswer if late else StreamUnavailable)(f"no Kafka broker can be reached ({'; '.join(why)})")

    async def _reach(self, server: str, options: dict[str, Any]) -> AIOKafkaClient:
        """A client that begins at this server. Raises what keeps it away."""
        host, _, port = server.rpartition(":")
        # The client's own bootstrap only logs why it could not; a try beforehand tells.
        await self._knock(host.strip("[]"), int(port), options)
        client = _Client(
            bootstrap_servers=[server],
            retry_backoff_ms=self.settings.retry_ms,
            metadata_max_age_ms=self.settings.metadata_max_age_ms,
            connections_max_idle_ms=self.settings.connections_max_idle_ms,
            **options,
        )
        try:
            await client.bootstrap()
        except (OSError, KafkaError):
            await client.close()
            raise ConnectionError(f"it takes connections but answers no {self.settings.security} client") from None
        except BaseException:
            await client.close()  # also when the time is over, or nobody wants it any more
            raise
        return client

    async def restart(self) -> None:
        """A new client that begins from the URL's servers; what is under way on the old one fails.

        Raises UsageError, StreamUnavailable: the old one stays.
        """
        if (old := self._client) is not None:
            await self._try_servers(await client_options(self.settings, self._servers, self.clock), self.patience())
            await old.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

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
        client = self._client
        if client is None:
            raise StreamUnavailable("the Kafka transport is closed")
        if node is None and (node := self._any_node(client)) is None:
            raise StreamUnavailable("no Kafka broker is known")
        try:
            async with asyncio.timeout(timeout_s):
                answer = await client.send(node, request, group=line)
            if self._refused:
                self._refused.pop(node, None)
            self._silent.discard(node)
            return answer
        except NotImplementedError as error:
            raise UsageError(f"kafka: the broker is too old: {error}") from None
        except NodeNotReadyError:
            why = await self._why_not(node) or "can't be reached"
            raise StreamUnavailable(f"Kafka broker {self.named(node)} {why}") from None
        except TimeoutError:
            # What is late on this connection would hold up all that comes after it.
            self.drop(line)
            self._silent.add(node)
            why = self._refused.get(node, "did not answer in time")
            raise NoAnswer(f"Kafka broker {self.named(node)} {why}") from None
        except (KafkaError, OSError, KeyError) as error:
            # KeyError: the client looks for a connection that was dropped meanwhile.
            raise NoAnswer(f"Kafka broker {node}: {str(error) or type(error).__name__}") from None
        finally:
            if client is not self._client:
                # Begun anew meanwhile: what was being opened on the old one is nobody's, and nobody else closes it.
                for connection in client._conns.values():  # noqa: SLF001  # as in `drop`
                    connection.close()

    def _any_node(self, client: Any) -> int | None:
        """A broker for a question that each can answer; rather none whose last answer did not come."""
        node: int | None = client.get_random_node()
        if node in self._silent:
            others = [broker.nodeId for broker in client.cluster.brokers() if broker.nodeId not in self._silent]
            node = random.choice(others) if others else node
        return node

    async def _knock(self, host: str, port: int, options: Mapping[str, Any]) -> None:
        """Open a connection and close it again. Raises what refuses it."""
        connection = await create_conn(host, port, **options)
        try:
            if self.settings.sasl_mechanism == MSK_IAM:
                # A token that is refused looks well to aiokafka until the next request.
                answer = await connection.send(ApiVersionRequest())
                if answer.error_code:
                    raise SaslAuthenticationFailed(code_name(answer.error_code))
        finally:
            await connection.close()  # with TLS the broker has a last word

    async def _why_not(self, node: int) -> str | None:
        """What a broker has against this client, if that is why it can't be reached: aiokafka only logs it.

        One more try tells, at most every REFUSAL_S.
        """
        now_s = self.clock.monotonic_s()
        broker = self._client.cluster.broker_metadata(node) if self._client is not None else None
        if broker is None or now_s - self._asked_why_s < REFUSAL_S:
            return self._refused.get(node)
        self._asked_why_s = now_s
        self._refused.pop(node, None)
        try:
            async with asyncio.timeout(REFUSAL_S):
                await self._knock(broker.host, broker.port, self._options)
        except (OSError, KafkaError, TimeoutError) as error:
            if (refused := refusal(error, self.settings)) is not None:
                self._refused[node] = f"takes this client no more: {refused}"
        return self._refused.get(node)

    @property
    def refused(self) -> str:
        """What brokers have against this client, as far as that is known; empty while all is well."""
        return "; ".join(f"Kafka broker {self.named(node)} {why}" for node, why in sorted(self._refused.items()))

    def named(self, node: int) -> str:
        """A broker with the address that the cluster tells of it."""
        broker = self._client.cluster.broker_metadata(node) if self._client is not None else None
        return f"{node} ({broker.host}:{broker.port})" if broker is not None else str(node)


async def quietly(call: Awaitable[object]) -> None:
    """Await what may fail, where nobody is helped by hearing of it."""
    with suppress(CutbankError):
        await call
