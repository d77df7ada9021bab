"""The wire between clients and brokers, where requests are seen, cut, held back and delayed. Owns the connections.

Invariant: what passes is passed whole and in order, as TCP does: nothing in the middle of a connection is lost while
what follows arrives. So a lost request or reply is either a cut there or a wait for ever, as on a real network.
One event loop; not thread-safe. Bounded: a connection holds at most _FRAMES_MAX messages in each direction.
"""

import asyncio
import contextlib
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Self

from brokers.kafka_server import KafkaCluster

_FRAMES_MAX = 64
_FRAME_BYTES_MAX = 128 << 20
_ORPHAN_S = 60.0
"""How long a broker may take to answer what arrived from a client that is gone."""


class Api(IntEnum):
    """Keys of Kafka's requests (kafka.apache.org/protocol#protocol_api_keys)."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


class Fault(Enum):
    """What becomes of one request."""

    CUT_BEFORE = "the broker never gets it, the connection is cut"
    CUT_AFTER = "the broker has done it, the connection is cut in place of the reply"
    HOLD_REQUEST = "the broker gets it when it is released, also if the client is gone by then"
    HOLD_REPLY = "the broker has done it, the client gets the reply when it is released"


@dataclass(eq=False)
class Ambush:
    """One fault that waits for its request, or has met it."""

    api: Api
    fault: Fault
    holding: bytes
    """Only a request in which these bytes stand, such as a transactional id or a client id."""
    met: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the request has come (HOLD_REQUEST, CUT_BEFORE) or the broker has answered it (the others)."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the broker has answered it."""
    reply: bytes = b""
    """The broker's answer, from the correlation id on."""
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    async def released(self) -> None:
        """For a connection: returns after `release`."""
        await self._released.wait()

    def release(self) -> None:
        """Let go what is held, and all that waits behind it."""
        self._released.set()


class Wire:
    """Listens for clients and passes what they say on, perhaps. An async context manager."""

    def __init__(self, ports: Mapping[int, int]) -> None:
        """`ports`: where to listen, and where the broker is for which that stands; all on 127.0.0.1."""
        self.delay_s = 0.0
        """Later by this much, each way, in the same order; for what comes from now on."""
        self.seen: Counter[int] = Counter()
        """Requests that came, by API key."""
        self._ports = dict(ports)
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._ambushes: list[Ambush] = []
        self._repeated: dict[int, bytes] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()

    @classmethod
    def of(cls, cluster: KafkaCluster) -> Self:
        """Before all of its brokers: clients start from its `proxied_bootstrap_servers`."""
        return cls({s.address.advertised_port: s.address.proxied_port for s in cluster.servers})

    def ambush(self, api: Api, fault: Fault, *, holding: bytes = b"") -> Ambush:
        """Do this to the next request of that kind, once. Those laid first meet first."""
        ambush = Ambush(api, fault, holding)
        self._ambushes.append(ambush)
        return ambush

    def repeat(self, api: Api) -> None:
        """From now on each request of that kind but the first gets the broker's reply to the one before it."""
        self._repeated[api] = b""

    def said(self, api: int, reply: bytes) -> bytes:
        """For a connection: what the client gets in place of this reply, both without the correlation id."""
        if api not in self._repeated:
            return reply
        before, self._repeated[api] = self._repeated[api], reply
        return before or reply

    def cut(self) -> None:
        """Reset every connection, both ends; the next ones are accepted. What is held in them is lost."""
        for connection in self._connections.values():
            connection.reset()

    def cut_clients(self) -> None:
        """Reset the clients' ends alone: the brokers still get what is on its way to them, and what is held, later."""
        for connection in self._connections.values():
            connection.reset_client()

    def stall(self) -> None:
        """Nothing arrives any more, either way, and nobody is told; connections are still accepted."""
        self._flowing.clear()

    def flow(self) -> None:
        """After `stall`: all that was sent arrives."""
        self._flowing.set()

    async def up(self) -> None:
        """Listen."""
        assert not self._servers, "listening already"
        for listen_port, target_port in self._ports.items():
            server = await asyncio.start_server(self._accepting(target_port), "127.0.0.1", listen_port)
            self._servers.append(server)

    def down(self) -> None:
        """Refuse connections and reset those that are there, until `up`."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.cut()

    async def close(self) -> None:
        """`down`, and wait until nothing runs."""
        self.down()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def meet(self, request: bytes) -> Ambush | None:
        """For a connection: count this request, and say what is to become of it."""
        (api,) = struct.unpack_from(">h", request)
        self.seen[api] += 1
        for ambush in self._ambushes:
            if ambush.api == api and ambush.holding in request:
                self._ambushes.remove(ambush)
                return ambush
        return None

    async def flowing(self) -> None:
        """For a connection: returns when nothing stalls it."""
        await self._flowing.wait()

    def _accepting(self, target_port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = _Connection(self, reader, writer)
            task = asyncio.ensure_future(connection.run(target_port))
            self._connections[task] = connection
            task.add_done_callback(self._connections.pop)

        return accept


class _Connection:
    """One client's connection, and ours to the broker in its place."""

    def __init__(self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._from_client = reader
        self._to_client = _Pipe(wire, writer)
        self._to_broker: _Pipe | None = None
        self._ambushed: dict[int, Ambush] = {}
        self._asked: dict[int, int] = {}
        """Kind of each request that is not answered yet, by its correlation id."""

    def reset_client(self) -> None:
        """Cut the client's end now."""
        self._to_client.reset()

    def reset(self) -> None:
        """Cut both ends now."""
        self.reset_client()
        if self._to_broker is not None:
            self._to_broker.reset()

    async def run(self, port: int) -> None:
        """Until either end is gone; never raises for that."""
        try:
            from_broker, to_broker = await asyncio.open_connection("127.0.0.1", port)
            self._to_broker = _Pipe(self._wire, to_broker)
            async with asyncio.TaskGroup() as tasks:
                ends = {
                    tasks.create_task(self._pass_replies(from_broker)),
                    tasks.create_task(self._pass_requests(self._to_broker)),
                }
                moving = [tasks.create_task(pipe.move()) for pipe in (self._to_broker, self._to_client)]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for task in (*ends, *moving):
                    task.cancel()
        except OSError:
            pass  # no broker there: the client sees its connection end
        finally:
            self.reset()

    async def _pass_requests(self, broker: "_Pipe") -> None:
        while (frame := await _frame(self._from_client)) is not None:
            ambush = self._wire.meet(frame)
            (self._asked[_number_at(frame, 4)],) = struct.unpack_from(">h", frame)
            if ambush is not None:
                if ambush.fault is Fault.CUT_BEFORE:
                    ambush.met.set()
                    return
                self._ambushed[_number_at(frame, 4)] = ambush
                if ambush.fault is Fault.HOLD_REQUEST:
                    ambush.met.set()
                    await ambush.released()
            await broker.put(frame)
        await broker.moved()
        orphans = [ambush.answered.wait() for ambush in self._ambushed.values()]
        if orphans:  # what was released arrives although its client is gone
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*orphans), _ORPHAN_S)

    async def _pass_replies(self, from_broker: asyncio.StreamReader) -> None:
        while (frame := await _frame(from_broker)) is not None:
            ambush = self._ambushed.pop(_number_at(frame, 0), None)
            frame = frame[:4] + self._wire.said(self._asked.pop(_number_at(frame, 0), -1), frame[4:])
            if ambush is not None:
                ambush.reply = frame
                ambush.answered.set()
                ambush.met.set()
                if ambush.fault is Fault.CUT_AFTER:
                    return
                if ambush.fault is Fault.HOLD_REPLY:
                    await ambush.released()
            await self._to_client.put(frame)
        await self._to_client.moved()


class _Pipe:
    """One direction: messages leave in their order, late or stalled as the wire has it. To a closed end, none leave."""

    def __init__(self, wire: Wire, writer: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._writer = writer
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_FRAMES_MAX)

    async def put(self, frame: bytes) -> None:
        """Waits while the pipe is full."""
        await self._queue.put((time.monotonic() + self._wire.delay_s, frame))

    async def moved(self) -> None:
        """Returns when all that was put has left."""
        await self._queue.join()

    async def move(self) -> None:
        """Until cancelled."""
        while True:
            due, frame = await self._queue.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._wire.flowing()
            with contextlib.suppress(ConnectionError):
                if not self._writer.is_closing():
                    self._writer.write(struct.pack(">i", len(frame)) + frame)
                    await self._writer.drain()
            self._queue.task_done()

    def reset(self) -> None:
        """Cut it now."""
        self._writer.transport.abort()


async def _frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next message without its length; None when the connection ended or was reset."""
    try:
        (length,) = struct.unpack(">i", await reader.readexactly(4))
        if not 0 < length <= _FRAME_BYTES_MAX:
            raise RuntimeError(f"no message of Kafka's has {length} bytes")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _number_at(frame: bytes, offset: int) -> int:
    """The correlation id: at 4 in a request, at 0 in a reply."""
    (number,) = struct.unpack_from(">i", frame, offset)
    return int(number)
