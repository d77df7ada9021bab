"""Finding out why a broker takes this client no more: how long one try may take, and how often there is one."""

import asyncio
from types import SimpleNamespace

import pytest

from cutbank.testing.clock import ManualClock
from cutbank.transports.kafka import connections
from cutbank.transports.kafka.connections import REFUSAL_S, Connections
from cutbank.transports.kafka.settings import KafkaSettings

WAIT_S_MAX = 30.0
NODE = 1


async def test_a_try_to_find_out_why_is_short_and_there_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0
    ends = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await ends.wait()
        writer.close()

    clock = ManualClock()
    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        reached = Connections([f"{host}:{port}"], KafkaSettings(), clock, client_id="t")
        # aiokafka's own, as it is when a broker that it knows takes connections and says nothing.
        broker = SimpleNamespace(host=host, port=port)
        reached._client = SimpleNamespace(cluster=SimpleNamespace(broker_metadata=lambda _: broker))
        reached._options = {"client_id": "t", "request_timeout_ms": 1_000_000}
        async with asyncio.timeout(WAIT_S_MAX):
            with monkeypatch.context() as shorter:
                shorter.setattr(connections, "REFUSAL_S", 0.1)
                assert await reached._why_not(NODE) is None
            await clock.advance(0.9 * REFUSAL_S)
            assert await reached._why_not(NODE) is None
            assert tries == 1
            await clock.advance(0.2 * REFUSAL_S)
            assert await reached._why_not(NODE) is None
            assert tries == 1 + 1
        ends.set()
