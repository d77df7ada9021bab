"""The S3 store on a real server: permissions, versions, what it keeps of settings, what the doctor says of it."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aioboto3
import pytest

from cutbank.cli.checks import check_store
from cutbank.clock import SystemClock
from cutbank.errors import AlreadyExists, ObjectMissing, StateLost, StoreRefused, StoreUnavailable
from cutbank.metrics import NoMetrics
from cutbank.objects import ObjectStore, open_store
from cutbank.objects.s3 import parse_url
from object_servers.fixtures import NewS3Server, S3Server
from sinking_world import CHAIN, World, anomaly, ids

WAIT_S_MAX = 120.0


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[ObjectStore]:
    async with open_store(url, clock=SystemClock(), metrics=NoMetrics()) as store:
        yield store


@asynccontextmanager
async def plain_client(server: S3Server) -> AsyncIterator[Any]:
    async with aioboto3.Session().client("s3", endpoint_url=server.endpoint, region_name=server.region) as client:
        yield client


def become(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("lacks", ["PutObject", "GetObject", "ListBucket"])
async def test_a_missing_permission_is_one_error_at_the_start(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    become(monkeypatch, s3_server.environ_of(f"without-{lacks}"))
    url = s3_server.store_url()
    async with opened(url) as store:
        with pytest.raises(StoreRefused, match=rf"AccessDenied.*grant s3:{lacks} on arn:aws:s3:::{s3_server.bucket}"):
            await store.probe()
    found = await check_store(url, "object store")
    assert found.level == "FAIL"
    assert f"grant s3:{lacks}" in found.why


async def test_only_the_scorer_needs_to_delete(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, s3_server.environ_of("without-DeleteObject"))
    url = s3_server.store_url()
    assert (await check_store(url, "object store")).level == "ok"
    found = await check_store(url, "state store", deletes=True)
    assert found.level == "FAIL"
    assert f"grant s3:DeleteObject on arn:aws:s3:::{s3_server.bucket}/" in found.why


async def test_a_bucket_that_is_not_there_is_named(s3_server: S3Server) -> None:
    url = s3_server.store_url().replace(f"s3://{s3_server.bucket}/", "s3://no-such-bucket-of-tests/")
    async with opened(url) as store:
        with pytest.raises(StoreRefused, match="no-such-bucket-of-tests"):
            await anext(store.list(""))
        with pytest.raises(StoreRefused, match="no-such-bucket-of-tests"):
            await store.read("a")


async def test_a_key_that_nobody_knows_is_named(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    async with opened(s3_server.store_url()) as store:
        with pytest.raises(StoreRefused, match=r"InvalidAccessKeyId.*check the access key"):
            await store.probe()


async def test_a_permission_taken_away_while_it_runs_is_the_same_error(new_s3_server: NewS3Server) -> None:
    """By a policy of the bucket. Whoever runs the store ends with it; given back, all goes on."""
    server = new_s3_server()
    denied = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", '
        f'"Resource": "arn:aws:s3:::{server.bucket}/*"}}]}}'
    )
    async with opened(server.store_url()) as store, plain_client(server) as client:
        await store.create("a", b"")
        await client.put_bucket_policy(Bucket=server.bucket, Policy=denied)
        with pytest.raises(StoreRefused, match="grant s3:PutObject"):
            await store.create("b", b"")
        await client.delete_bucket_policy(Bucket=server.bucket)
        await store.create("b", b"")


async def test_a_server_that_is_killed_and_comes_back(new_s3_server: NewS3Server) -> None:
    server = new_s3_server()
    assert server.process is not None
    async with opened(server.store_url(call_timeout_ms=60_000, read_timeout_ms=60_000)) as store:
        await store.create("before", b"1")
        server.process.kill()
        with pytest.raises(StoreUnavailable):
            await store.create("after", b"2")
        server.process.start()
        async with asyncio.timeout(WAIT_S_MAX):
            while True:
                try:
                    await store.create("after", b"2")
                except StoreUnavailable:
                    continue
                except AlreadyExists:
                    pass
                break
        assert (await store.read("before"), await store.read("after")) == (b"1", b"2")


async def test_what_the_server_keeps_of_the_settings(s3_server: S3Server) -> None:
    url = s3_server.store_url(storage_class="STANDARD_IA", tags="team=a b,env=prod")
    async with opened(url) as store, plain_client(s3_server) as client:
        await store.create("a", b"body")
        place, _ = parse_url(url)
        about = {"Bucket": place.bucket, "Key": f"{place.prefix}a"}
        tags = (await client.get_object_tagging(**about))["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "a b", "env": "prod"}
        assert (await client.head_object(**about))["StorageClass"] == "STANDARD_IA"


async def test_a_damaged_body_is_refused_by_the_server(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from cutbank.objects.s3 import body

    monkeypatch.setattr(body, "digest", lambda _body, _kind: bytes(32))
    async with opened(s3_server.store_url()) as store:
        with pytest.raises(StoreUnavailable, match="BadDigest"):
            await store.create("a", b"body")
        assert not await store.exists("a")


class TestVersionedBucket:
    """Lifecycle rules and people put delete markers in place of objects there."""

    @pytest.fixture
    async def url(self, s3_server: S3Server) -> str:
        bucket = f"versioned-{uuid.uuid4().hex[:12]}"
        if s3_server.process is None:
            pytest.skip(f"no bucket of our own on {s3_server.name}")
        async with plain_client(s3_server) as client:
            await client.create_bucket(Bucket=bucket)
            await client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return s3_server.store_url().replace(f"s3://{s3_server.bucket}/", f"s3://{bucket}/")

    async def test_create_only_puts_and_deletions(self, s3_server: S3Server, url: str) -> None:
        async with opened(url) as store, plain_client(s3_server) as client:
            await store.probe(deletes=True)
            await store.create("a", b"first")
            with pytest.raises(AlreadyExists):
                await store.create("a", b"second")
            await store.delete("a")
            assert not await store.exists("a")
            with pytest.raises(ObjectMissing):
                await store.read("a")
            assert [info.key async for info in store.list("")] == []
            place, _ = parse_url(url)
            found = await client.list_object_versions(Bucket=place.bucket, Prefix=place.prefix)
            assert len(found["DeleteMarkers"]) >= 1, "the old version is kept"
            await store.create("a", b"third")
            assert await store.read("a") == b"third"

    async def test_a_sink_goes_on_where_old_claims_have_expired(self, url: str, tmp_path: Path) -> None:
        """All but the newest and the birth, as a rule leaves them that is longer than the stream's retention."""
        async with opened(url) as store, World(tmp_path) as world:
            world.store = store  # type: ignore[assignment]  # as good as a folder
            for minute in range(3):
                await world.publish(anomaly(minute), minute=minute)
            await world.sink_all()
            claims = await world.claims()
            assert len(claims) == 3
            for claim in claims[:-1]:
                await store.delete(CHAIN.claim_key(claim.start))
            await world.publish(anomaly(3), minute=3)
            await world.sink_all()
            assert sorted(ids(await world.lines())) == [0, 1, 2, 3]

            await store.delete(CHAIN.birth_key)
            await world.publish(anomaly(4), minute=4)
            with pytest.raises(StateLost, match="no lifecycle rule may remove it"):
                await world.sink_all()
