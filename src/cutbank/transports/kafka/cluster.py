"""One process's view of a Kafka cluster: its topics, who leads what, who coordinates what, and when to ask again.

Owns the metadata seen last and the cache of coordinators; `connections` owns the way there.

Invariant: a request is sent again only where its caller says that twice is as good as once. Event-loop only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
from cutbank.transports.kafka.connections import PLAIN, Connections, NoAnswer, Patience, quietly
from cutbank.transports.kafka.settings import KafkaSettings

__all__ = ["PLAIN", "Cluster", "NoAnswer", "Patience", "Topic", "quietly"]

TOPIC_CHARACTERS_MAX = 249
TOPIC_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the metadata has it."""

    name: str
    id: str
    """The topic's id; empty where the broker knows none."""
    leaders: tuple[int, ...]
    """Node that leads each partition; -1 for none at the moment."""


class Cluster(Connections):
    """The brokers that a URL names, as one process sees them."""

    def __init__(self, servers: Sequence[str], settings: KafkaSettings, clock: Clock, *, client_id: str) -> None:
        super().__init__(servers, settings, clock, client_id=client_id)
        self.brokers: tuple[int, ...] = ()
        """Nodes that the cluster had, when last seen."""
        self.cluster_id = ""
        self._topics: dict[str, Topic] = {}
        self._seen: set[str] = set()
        self._coordinators: dict[tuple[int, str], int] = {}
        self._controller: int | None = None

    async def open(self) -> None:
        """Reach one of the brokers. Raises UsageError: credentials, files, or none came within `start_wait_ms`."""
        patience = self.patience(self.settings.start_wait_ms)
        try:
            await self.connect(patience)
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

    async def restart(self) -> None:
        """As `Connections.restart`; what was known of the cluster is forgotten."""
        await super().restart()
        self._topics.clear()
        self._coordinators.clear()

    def topic_name(self, stream: str) -> str:
        """The topic that carries a stream."""
        return self.settings.prefix + stream

    async def send_any(self, request: Any, *, patience: Patience | None = None) -> Any:
        """To any broker, again to any until one answers; for questions."""
        patience = patience or self.patience()
        while True:
            try:
                return await self.send(None, request, timeout_s=patience.try_s())
            except StreamUnavailable as error:
                await patience.pause(error)

    async def send_controller(self, request: Any, *, patience: Patience) -> Any:
        """To the broker that changes topics, then to any, which passes it on, until one answers."""
        while True:
            try:
                return await self.send(self._controller, request, timeout_s=patience.try_s())
            except StreamUnavailable as error:
                self._controller = None
                await patience.pause(error)

    async def look(self, streams: Sequence[str] | None, *, patience: Patience | None = None) -> dict[str, Topic]:
        """Metadata of these streams, or of all, now; streams that are missing are left out."""
        names = None if streams is None else [self.topic_name(stream) for stream in streams]
        prefix = self.settings.prefix
        answer = await self.send_any(wire.TopicsRequest(names), patience=patience)
        self.brokers = tuple(sorted(broker[0] for broker in answer.brokers))
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

    async def topic(self, stream: str, *, fresh: bool = False, patience: Patience | None = None) -> Topic:
        """A topic, from the cache unless `fresh`, asked for with `patience`.

        Raises StreamMissing, StreamUnavailable, UsageError.
        """
        if not fresh and (known := self._topics.get(stream)) is not None:
            return known
        self.check_name(stream)
        missed = self.patience(None if stream in self._seen else 1)
        while (found := (await self.look([stream], patience=patience)).get(stream)) is None:
            await missed.pause(missing(stream))  # a broker that has just started may miss one that is there
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
        held_s: float = 0.0,
    ) -> tuple[Any, int]:
        """The leader's answer and its code, which is none of those that ask to come again; `extra` adds to these.

        `held_s`: for so long the broker may hold its answer back.
        The request is sent again after a lost answer. Raises StreamMissing, StreamUnavailable, UsageError.
        """
        while True:
            topic = await self.topic(stream, patience=patience)
            if number >= len(topic.leaders):
                raise StreamMissing(f"stream {stream!r} has no partition '{number}'")
            leader = topic.leaders[number]
            if leader == -1:
                why: CutbankError = StreamUnavailable(f"{stream}/{number} has no leader at the moment")
            else:
                try:
                    answer = await self.send(leader, request, line=line, timeout_s=patience.try_s(held_s=held_s))
                except StreamUnavailable as error:
                    why = error
                else:
                    code = code_of(answer)
                    if code not in LEADER_MOVED | extra and code != Code.UNKNOWN_TOPIC_OR_PARTITION:
                        return answer, code
                    why = StreamUnavailable(f"{stream}/{number}: the broker answers {code_name(code)}")
            # Also for the next call: another may lead it by now.
            self._topics.pop(stream, None)
            await patience.pause(why)

    async def coordinator(self, kind: Literal[0, 1], key: str, *, patience: Patience | None = None) -> int:
        """Node that coordinates a group (0) or a transactional id (1). Raises StreamUnavailable, UsageError."""
        if (known := self._coordinators.get((kind, key))) is not None:
            return known
        patience = patience or self.patience()
        answer = await self.send(None, FindCoordinatorRequest(key, kind), timeout_s=patience.try_s())
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
        held_s: float = 0.0,
    ) -> tuple[Any, int]:
        """The coordinator's answer and its code, which is none of those that ask to come again.

        `again`: the request may be sent again after a lost answer; else that raises NoAnswer, at the end of `patience`.
        `held_s` as for `ask_leader`. Raises StreamUnavailable (nothing done), UsageError.
        """
        while True:
            sent = False
            try:
                node = await self.coordinator(kind, key, patience=patience)
                sent = True
                limit_s = patience.try_s(held_s=held_s) if again else patience.left_s
                answer = await self.send(node, request, line=line, timeout_s=limit_s)
            except StreamUnavailable as error:
                self.forget_coordinator(kind, key)
                if sent and not again and isinstance(error, NoAnswer):
                    raise
                why: CutbankError = error
            else:
                code = code_of(answer)
                if code in COORDINATOR_MOVED:
                    self.forget_coordinator(kind, key)
                elif code not in COORDINATOR_BUSY:
                    return answer, code
                why = StreamUnavailable(f"coordinator of {key!r}: {code_name(code)}")
            await patience.pause(why)
