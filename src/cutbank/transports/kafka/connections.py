"""One process's connections to a Kafka cluster: reached, sent on, dropped, begun anew. Owns aiokafka's client.

A broker answers the requests of one connection in order, so whoever may wait long (a fetch, a commit) has a **line** of
its own: a name for its connections.

Invariant: a request is sent once; who sends it again says that twice is as good as once. Event-loop only.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from aiokafka.client import AIOKafkaClient
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
        options = {"client_id": self.client_id, "request_timeout_ms": self.settings.request_timeout_ms, **security}
        why: list[str] = []
        for server in self._servers:
            host, _, port = server.rpartition(":")
            try:
                # The client's own bootstrap only logs why it could not; a try beforehand tells.
                async with asyncio.timeout(patience.left_s):
                    await self._knock(host.strip("[]"), int(port), options)
            except (OSError, KafkaError, TimeoutError) as error:
                if (refused := refusal(error, self.settings)) is not None:
                    raise UsageError(f"Kafka broker {server}: {refused}") from None
                why.append(f"{server}: {error or 'no answer in time'}")
                continue
            client = AIOKafkaClient(
                bootstrap_servers=[server],
                retry_backoff_ms=self.settings.retry_ms,
                metadata_max_age_ms=self.settings.metadata_max_age_ms,
                connections_max_idle_ms=self.settings.connections_max_idle_ms,
                **options,
            )
            try:
                async with asyncio.timeout(patience.left_s):
                    await client.bootstrap()
            except (OSError, KafkaError, TimeoutError):
                await client.close()
                why.append(f"{server}: it takes connections but answers no {self.settings.security} client")
                continue
            self._client, self._options = client, options
            self._refused.clear()
            return
        raise StreamUnavailable(f"no Kafka broker can be reached ({'; '.join(why)})")

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
        if node is None and (node := client.get_random_node()) is None:
            raise StreamUnavailable("no Kafka broker is known")
        try:
            async with asyncio.timeout(timeout_s):
                answer = await client.send(node, request, group=line)
            if self._refused:
                self._refused.pop(node, None)
            return answer
        except NotImplementedError as error:
            raise UsageError(f"kafka: the broker is too old: {error}") from None
        except NodeNotReadyError:
            why = await self._why_not(node) or "can't be reached"
            raise StreamUnavailable(f"Kafka broker {self.named(node)} {why}") from None
        except TimeoutError:
            # What is late on this connection would hold up all that comes after it.
            self.drop(line)
            why = self._refused.get(node, "did not answer in time")
            raise NoAnswer(f"Kafka broker {self.named(node)} {why}") from None
        except (KafkaError, OSError, KeyError) as error:
            # KeyError: the client looks for a connection that was dropped meanwhile.
            raise NoAnswer(f"Kafka broker {node}: {error or type(error).__name__}") from None
        finally:
            if client is not self._client:
                # Begun anew meanwhile: what was being opened on the old one is nobody's, and nobody else closes it.
                for connection in client._conns.values():  # noqa: SLF001  # as in `drop`
                    connection.close()

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
