"""A claim of as many objects as there may be, on a real S3: put together, and finished by who comes after a death."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import sinking_world
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import ObjectStore, open_store
from cutbank.pipeline.sinking import Layout, inspect
from cutbank.pipeline.sinking.claims import OBJECTS_MAX
from cutbank.testing.faults import Fault, Faults, FaultyStore
from sinking_world import World, anomaly, ids

VALUES_MAX = OBJECTS_MAX - 1
LAYOUT = Layout(prefix="k=!{partitionKeyFromQuery:k}/", partition_keys=("k",), partition_values_max=VALUES_MAX)


@pytest.fixture
async def store(s3_server: Any) -> AsyncIterator[ObjectStore]:
    async with open_store(s3_server.store_url(), clock=SystemClock(), metrics=NoMetrics()) as store:
        yield store


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand puts take their time on a busy machine."""
    monkeypatch.setattr(sinking_world, "DEADLINE_S", 300.0)


@pytest.mark.parametrize("values", [50, VALUES_MAX + 20])
async def test_a_claim_of_many_objects_has_them_all_though_its_first_owner_died_among_them(
    tmp_path: Path, store: ObjectStore, values: int
) -> None:
    async with World(tmp_path) as world:
        await world.publish(*(anomaly(n, columns={"k": f"v{n}"}) for n in range(values)), minute=0)
        await world.publish(anomaly(values, columns={"k": "last"}), minute=1)
        faults = Faults(clock=world.clock)
        faults.at("create", subject_contains="k=v", nth=30, fault=Fault.CRASH_AFTER)
        async with world.sinking(store=FaultyStore(store, faults), layout=LAYOUT) as running:

            async def over() -> bool:
                return running.task.done()

            await world.until(over)
            running.task.exception()
            running.task = running.idle()
        begun = len([info async for info in inspect.data_objects(store)])
        assert 30 <= begun < values
        async with world.sinking(store=store, layout=Layout()) as running:
            async with asyncio.timeout(300):
                await world.until(world.all_committed, running)
    first, _ = claims = [claim async for claim in inspect.claims(store)]
    named = {item.key: item for claim in claims for item in claim.objects}
    assert {info.key for info in [each async for each in inspect.data_objects(store)]} == set(named)
    assert len(first.objects) == min(values, VALUES_MAX) + (values > VALUES_MAX)
    assert sum(item.count for item in named.values()) == values + 1
    for key in [*list(named)[::100], first.objects[-1].key]:
        body = await store.read(key)
        assert hashlib.sha256(body).hexdigest() == named[key].sha256
        assert len(ids(body.splitlines())) == named[key].count
