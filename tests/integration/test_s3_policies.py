"""The policies of docs/s3.md are enough for those they are for, and each of their permissions is used."""

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import StoreRefused
from cutbank.metrics import NoMetrics
from cutbank.objects import ObjectStore, open_store
from cutbank.pipeline.verifying import verify
from object_servers.fixtures import NewS3Server, S3Server
from object_servers.scripted import ScriptedS3
from object_servers.seaweed import environ_of
from sinking_world import World, anomaly, ids

PAGE = (Path(__file__).parents[2] / "docs" / "s3.md").read_text(encoding="utf-8")
POLICIES: list[dict[str, Any]] = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)]
ROOT = "a/root"


def policy(name: str, *, bucket: str = "tests") -> list[Mapping[str, object]]:
    """The statements of one of the page's policies, for a bucket."""
    (found,) = [one["Statement"] for one in POLICIES if one["Statement"][0]["Sid"] == name]
    text = json.dumps(found).replace("BUCKET", bucket).replace("ROOT", ROOT)
    statements: list[Mapping[str, object]] = json.loads(text)
    return statements


def actions(name: str) -> set[str]:
    found: set[str] = set()
    for statement in policy(name):
        action = statement["Action"]
        found |= {action} if isinstance(action, str) else set(action)  # type: ignore[call-overload]
    return found


@pytest.fixture(scope="module")
def server(new_s3_server: NewS3Server) -> S3Server:
    return new_s3_server(policies={name: policy(name) for name in ("Sink", "Scorer", "Reader")})


def store_of(server: S3Server, user: str, monkeypatch: pytest.MonkeyPatch, *, root: str = ROOT) -> ObjectStore:
    for name, value in environ_of(user).items():
        monkeypatch.setenv(name, value)
    url = f"s3://{server.bucket}/{root}?endpoint={server.endpoint}&region={server.region}"
    return open_store(url, clock=SystemClock(), metrics=NoMetrics())


async def test_a_sink_and_a_reader_need_no_more(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with World(tmp_path) as world:
        async with store_of(server, "Sink", monkeypatch) as store:
            await store.probe()
            world.store = store  # type: ignore[assignment]  # as good as a folder
            for minute in range(2):
                await world.publish(anomaly(minute), minute=minute)
                await world.sink_all()
            assert ids(await world.lines()) == [0, 1]
        async with store_of(server, "Reader", monkeypatch) as reader:
            verdict = await verify(reader)
            assert verdict.clean, verdict
            with pytest.raises(StoreRefused, match="s3:PutObject"):
                await reader.create(uuid.uuid4().hex, b"")


async def test_a_scorers_state_needs_no_more(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with store_of(server, "Scorer", monkeypatch) as store:
        await store.probe(deletes=True)
        assert not await store.exists("missing")


async def test_they_reach_nothing_beside_the_root(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with store_of(server, "Scorer", monkeypatch, root="another") as store:
        for call in (store.create("a", b""), store.read("a"), store.delete("a")):
            with pytest.raises(StoreRefused):
                await call
        with pytest.raises(StoreRefused):
            await anext(store.list(""))


async def test_each_permission_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By what is asked of a bucket that counts it."""
    for name, value in environ_of().items():
        monkeypatch.setenv(name, value)

    def asked(s3: ScriptedS3) -> set[str]:
        names = {"PUT": "s3:PutObject", "GET": "s3:GetObject", "DELETE": "s3:DeleteObject"}
        return {"s3:ListBucket" if one.is_list else names[one.method] for one in s3.asked}

    async with (
        ScriptedS3() as s3,
        World(tmp_path) as world,
        open_store(s3.url(), clock=SystemClock(), metrics=NoMetrics()) as store,
    ):
        world.store = store  # type: ignore[assignment]  # as good as a folder
        await world.publish(anomaly(1), minute=0)
        await world.sink_all()
        assert asked(s3) == actions("Sink")
        s3.asked.clear()
        assert (await verify(store)).clean
        assert asked(s3) == actions("Reader")
        s3.asked.clear()
        await store.probe(deletes=True)
        assert asked(s3) == actions("Scorer")
