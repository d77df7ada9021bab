"""What S3 answers, as the store's callers meet it: what passes, what is there, and who has to do what.

The answers are those that AWS documents, said by a server of the tests: no real one says them when it is told to.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from cutbank.clock import SystemClock
from cutbank.errors import (
    AlreadyExists,
    CutbankError,
    ObjectMissing,
    PartitionStopped,
    StoreRefused,
    StoreUnavailable,
)
from cutbank.metrics import NoMetrics
from cutbank.objects import ObjectStore, open_store
from cutbank.objects.base import KEY_BYTES_MAX, OBJECT_BYTES_MAX
from cutbank.objects.s3 import answers
from cutbank.objects.s3 import store as s3_store
from object_servers.scripted import Asked, Reply, ScriptedS3, error
from object_servers.seaweed import environ_of, secret_of

TOKEN = "a-session-token-that-nobody-may-see"  # noqa: S105  # of tests


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**environ_of(), "AWS_SESSION_TOKEN": TOKEN}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def s3() -> AsyncIterator[ScriptedS3]:
    async with ScriptedS3() as server:
        yield server


@asynccontextmanager
async def opened(s3: ScriptedS3, **parameters: object) -> AsyncIterator[ObjectStore]:
    async with open_store(s3.url(**parameters), clock=SystemClock(), metrics=NoMetrics()) as store:
        yield store


Call = Callable[[ObjectStore], Awaitable[object]]


async def listed(store: ObjectStore) -> list[str]:
    return [info.key async for info in store.list("")]


CALLS: dict[str, Call] = {
    "create": lambda store: store.create("a/b", b"body"),
    "read": lambda store: store.read("a/b"),
    "exists": lambda store: store.exists("a/b"),
    "list": listed,
    "delete": lambda store: store.delete("a/b"),
}
PASSING = {
    "SlowDown": error(503, "SlowDown", "Please reduce your request rate."),
    "InternalError": error(500, "InternalError", "We encountered an internal error. Please try again."),
    "ServiceUnavailable": error(503, "ServiceUnavailable", "Reduce your request rate."),
    "RequestTimeout": error(400, "RequestTimeout", "Your socket connection to the server was not read from"),
    "OperationAborted": error(409, "OperationAborted", "A conflicting conditional operation is in progress"),
    "409 of another name": error(409, "Conflict", "the key is being written"),
    "TooManyRequests": error(429, "TooManyRequests", "later"),
    "507": error(507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."),
    "no body": Reply(503),
    "no XML": Reply(502, b"<html>Bad gateway</html>"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("reply", PASSING)
async def test_what_passes_is_asked_again_by_who_called(s3: ScriptedS3, call: str, reply: str) -> None:
    async with opened(s3) as store:
        s3.next.append(PASSING[reply])
        with pytest.raises(StoreUnavailable, match="s3://bucket/root"):
            await CALLS[call](store)
        assert len(s3.asked) == 1, "the SDK tries nothing again"


@pytest.mark.parametrize(
    "reply",
    [
        error(409, "ConditionalRequestConflict", "The conditional request cannot succeed due to a conflict"),
        error(400, "BadDigest", "The Content-MD5 or checksum value that you specified did not match"),
        error(400, "IncompleteBody", "You did not provide the number of bytes specified by the Content-Length header."),
    ],
)
async def test_a_put_that_met_another_or_was_damaged_is_tried_again(s3: ScriptedS3, reply: Reply) -> None:
    async with opened(s3) as store:
        s3.next.append(reply)
        with pytest.raises(StoreUnavailable):
            await store.create("a", b"body")
        await store.create("a", b"body")
        assert s3.objects == {"root/a": b"body"}


@pytest.mark.parametrize("status", [403, 301, 400, 412])
async def test_an_answer_without_a_body_is_understood(s3: ScriptedS3, status: int) -> None:
    async with opened(s3) as store:
        s3.next.append(Reply(status))
        with pytest.raises(AlreadyExists if status == 412 else StoreRefused, match="s3://bucket/root"):
            await store.create("a", b"body")


REFUSED = {
    "put": (
        "create",
        error(403, "AccessDenied", "User: arn:aws:iam::1:user/me is not authorized to perform: s3:PutObject"),
        r"PutObject of 'a/b' was refused \(AccessDenied.*grant s3:PutObject on arn:aws:s3:::bucket/root/\*",
    ),
    "list": ("list", error(403, "AccessDenied"), r"ListObjectsV2.*grant s3:ListBucket on arn:aws:s3:::bucket to"),
    "delete": ("delete", error(403, "AccessDenied"), r"grant s3:DeleteObject on arn:aws:s3:::bucket/root/\*"),
    "bucket": ("create", error(404, "NoSuchBucket", "The specified bucket does not exist"), "make the bucket bucket"),
    "bucket looked at": ("exists", error(404, "NoSuchBucket"), "make the bucket bucket"),
    "region by redirect": (
        "read",
        error(301, "PermanentRedirect", "use the specified endpoint", x_amz_bucket_region="eu-west-1"),
        r"not in the region that was asked \(us-east-1\): set region=eu-west-1",
    ),
    "region by signature": (
        "list",
        error(
            400,
            "AuthorizationHeaderMalformed",
            "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'",
            more="<Region>eu-central-1</Region>",
        ),
        "set region=eu-central-1",
    ),
    "key": ("create", error(403, "InvalidAccessKeyId", "does not exist in our records."), "check the access key"),
    "secret": ("create", error(403, "SignatureDoesNotMatch", "does not match the signature"), "its secret"),
    "KMS permission": (
        "create",
        error(403, "AccessDenied", "User x is not authorized to perform: kms:GenerateDataKey on resource: k"),
        "grant kms:GenerateDataKey on the bucket's KMS key",
    ),
    "KMS key": ("read", error(400, "KMS.DisabledException", "arn:aws:kms:key is disabled."), "that the key is enabled"),
    "archived": (
        "read",
        error(403, "InvalidObjectState", "The operation is not valid for the object's storage class"),
        "restore it, and end the lifecycle rule",
    ),
    "parameter": (
        "create",
        error(400, "InvalidStorageClass", "It is not valid"),
        "the URL's parameters",
    ),
    "create-only": (
        "create",
        error(501, "NotImplemented", "A header you provided implies functionality that is not implemented."),
        "accept_overwrite=true",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_somebody_has_to_mend_is_said_in_one_line(s3: ScriptedS3, case: str) -> None:
    call, reply, says = REFUSED[case]
    async with opened(s3) as store:
        s3.next.append(reply)
        with pytest.raises(StoreRefused, match=says) as caught:
            await CALLS[call](store)
        assert len(str(caught.value).splitlines()) == 1
        assert len(s3.asked) == 1, "no redirect is followed, nothing is tried again"


async def test_tags_need_a_permission_of_their_own(s3: ScriptedS3) -> None:
    async with opened(s3, tags="a=b") as store:
        s3.next.append(error(403, "AccessDenied"))
        with pytest.raises(StoreRefused, match="grant s3:PutObject and s3:PutObjectTagging on"):
            await store.create("a", b"")


async def test_without_the_right_to_list_the_right_to_read_is_named_with_it(s3: ScriptedS3) -> None:
    """S3 answers 403 in place of 404 then."""
    s3.script = lambda asked: error(403, "AccessDenied") if asked.method == "GET" else None
    async with opened(s3) as store:
        for call in ("read", "exists"):
            with pytest.raises(StoreRefused, match=r"grant s3:GetObject on .*/root/\*.*s3:ListBucket on"):
                await CALLS[call](store)


async def test_a_missing_object_is_missing_where_the_right_to_list_is_bound_to_a_prefix(s3: ScriptedS3) -> None:
    """S3 denies a missing key then, but lists that it is not there."""
    s3.objects["root/there"] = b"body"
    s3.script = lambda asked: error(403, "AccessDenied") if asked.key.endswith("/missing") else None
    async with opened(s3) as store:
        assert not await store.exists("missing")
        with pytest.raises(ObjectMissing):
            await store.read("missing")
        s3.script = lambda asked: error(403, "AccessDenied") if asked.key else None
        with pytest.raises(StoreRefused, match="s3:GetObject"):
            await store.exists("there")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ExpiredToken"),
        (400, "InvalidToken"),
        (400, "TokenRefreshRequired"),
        (403, "RequestExpired"),
        (403, "RequestTimeTooSkewed"),
    ],
)
async def test_expired_credentials_are_asked_again_and_said_once(s3: ScriptedS3, status: int, code: str) -> None:
    s3.script = lambda _: error(status, code, "The provided token has expired.")
    async with opened(s3) as store:
        with structlog.testing.capture_logs() as logs:
            for call in CALLS.values():
                with pytest.raises(StoreUnavailable, match=code):
                    await call(store)
        said = [line for line in logs if line["log_level"] == "error"]
        assert [line["store"] for line in said] == ["s3://bucket/root"]
        assert code in said[0]["why"]
        s3.script = lambda _: None
        await store.create("a", b"")
        s3.next.append(error(status, code))
        with structlog.testing.capture_logs() as logs, pytest.raises(StoreUnavailable):
            await store.read("a")
        assert [line["log_level"] for line in logs] == ["error"], "anew, since it went well in between"


async def test_credentials_of_a_program_that_expire_are_renewed(
    s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the SDK: what it gets from a program, a role or a web identity is asked for again before its end."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    counting = tmp_path / "count"
    ends = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
    program = tmp_path / "credentials.sh"
    program.write_text(
        f"#!/bin/sh\necho x >> {counting}\nn=$(wc -l < {counting})\n"
        f'echo "{{\\"Version\\": 1, \\"AccessKeyId\\": \\"key$((n))\\", \\"SecretAccessKey\\": \\"s\\", '
        f'\\"SessionToken\\": \\"t\\", \\"Expiration\\": \\"{ends}\\"}}"\n'
    )
    program.chmod(0o700)
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    async with opened(s3) as store:
        with structlog.testing.capture_logs() as logs:
            met: list[CutbankError] = []
            for number in range(2):
                try:
                    await store.create(f"{number}", b"")
                except CutbankError as caught:
                    met.append(caught)
        assert len(counting.read_text().splitlines()) > 1, "asked again"
        assert all(isinstance(caught, StoreUnavailable) for caught in met)
        assert all(line["log_level"] == "error" for line in logs)


@pytest.mark.parametrize("call", CALLS)
async def test_a_connection_that_is_reset_is_asked_again_by_who_called(s3: ScriptedS3, call: str) -> None:
    """aiohttp sends it a second time itself, once, since a kept connection may have been closed meanwhile."""
    s3.script = lambda _: Reply(reset=True)
    async with opened(s3) as store:
        with pytest.raises(StoreUnavailable, match="connection was lost"):
            await CALLS[call](store)


async def test_a_lost_reply_to_a_put_that_was_done(s3: ScriptedS3) -> None:
    """Sent again by aiohttp, it finds its own object."""
    async with opened(s3) as store:
        s3.next.append(Reply(reset=True, after=True))
        with pytest.raises(AlreadyExists):
            await store.create("a", b"body")
        assert s3.objects == {"root/a": b"body"}


async def test_a_put_whose_answer_is_cut_off_for_good_is_looked_for(s3: ScriptedS3) -> None:
    """As by a store that says early that the key is taken, and hangs up while the body is still on its way."""
    s3.script = lambda asked: Reply(reset=True, after=True) if asked.method == "PUT" else None
    async with opened(s3) as store:
        with pytest.raises(AlreadyExists):
            await store.create("a", bytes(1 << 20))
        s3.script = lambda _: Reply(reset=True, after=True)
        with pytest.raises(StoreUnavailable, match="connection was lost"):
            await store.create("b", b"body")
        s3.script = lambda _: None
        with pytest.raises(AlreadyExists):
            await store.create("b", b"body")


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_hangs_is_given_up(s3: ScriptedS3, call: str) -> None:
    async with opened(s3, call_timeout_ms=200) as store:
        s3.next.append(Reply(hang=True))
        async with asyncio.timeout(30):
            with pytest.raises(StoreUnavailable, match=r"within 0\.2.* s"):
                await CALLS[call](store)


@pytest.mark.parametrize("call", ["create", "read", "list"])
async def test_a_store_that_falls_silent_is_given_up(s3: ScriptedS3, call: str) -> None:
    async with opened(s3, read_timeout_ms=100) as store:
        s3.next.append(Reply(hang=True))
        async with asyncio.timeout(30):
            with pytest.raises(StoreUnavailable):
                await CALLS[call](store)


@pytest.mark.parametrize("call", ["read", "exists"])
async def test_a_body_that_trickles_is_given_up(s3: ScriptedS3, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never silent for `read_timeout_ms`, and still late."""
    monkeypatch.setattr(s3_store, "SLOWEST_BYTES_PER_S", 1 << 30)
    status = 206 if call == "exists" else 200
    async with opened(s3, call_timeout_ms=300) as store:
        s3.next.append(Reply(status, bytes(1000), pause_s=0.05))
        async with asyncio.timeout(30):
            with pytest.raises(StoreUnavailable, match=r"no whole answer within 0\.3"):
                await CALLS[call](store)


@pytest.mark.parametrize("cut", [0, 1, 70_000])
async def test_a_body_that_is_cut_off_is_never_returned(s3: ScriptedS3, cut: int) -> None:
    s3.objects["root/a"] = bytes(100_000)
    async with opened(s3) as store:
        s3.next.append(Reply(200, s3.objects["root/a"], cut_bytes=cut))
        with pytest.raises(StoreUnavailable):
            await store.read("a")
        assert await store.read("a") == bytes(100_000)


async def test_an_object_that_is_none_of_ours_by_its_size_is_not_read(
    s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(s3) as store:
        s3.next.append(Reply(200, b"", {"Content-Length": str(OBJECT_BYTES_MAX + 1)}))
        with pytest.raises(PartitionStopped, match=rf"{OBJECT_BYTES_MAX + 1} bytes, more than OBJECT_BYTES_MAX"):
            await store.read("a")
        monkeypatch.setattr(s3_store, "OBJECT_BYTES_MAX", 1000)
        s3.objects["root/a"] = bytes(1000)
        assert len(await store.read("a")) == 1000
        chunked = b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n"
        s3.next.append(Reply(200, chunked, {"Content-Length": "", "Transfer-Encoding": "chunked"}))
        with pytest.raises((PartitionStopped, StoreUnavailable)):
            await store.read("a")


async def test_a_delete_marker_is_named(s3: ScriptedS3) -> None:
    async with opened(s3) as store:
        s3.next.append(error(404, "NoSuchKey", x_amz_delete_marker="true"))
        with pytest.raises(ObjectMissing, match="a delete marker stands in its place"):
            await store.read("a")


async def test_an_archived_object_is_there(s3: ScriptedS3) -> None:
    async with opened(s3) as store:
        s3.next.append(error(403, "InvalidObjectState"))
        assert await store.exists("a")


async def test_the_longest_key_counts_its_root(s3: ScriptedS3) -> None:
    root = "r" * 100
    async with opened(s3, root=root) as store:
        assert store.key_bytes_max == KEY_BYTES_MAX - 101
        parts = ["x" * 200] * 4
        longest = "/".join([*parts, "y" * (store.key_bytes_max - 4 * 201)])
        await store.create(longest, b"")
        assert [len(key) for key in s3.objects] == [KEY_BYTES_MAX]
        with pytest.raises(StoreRefused, match="use a shorter root"):
            await store.create(longest + "y", b"")
        assert len(s3.asked) == 1


async def test_a_message_of_the_store_is_repeated_in_part(s3: ScriptedS3) -> None:
    async with opened(s3) as store:
        s3.next.append(error(403, "AccessDenied", "x" * (answers.MESSAGE_CHARACTERS_MAX + 100)))
        with pytest.raises(StoreRefused) as caught:
            await store.create("a", b"")
        assert "x" * answers.MESSAGE_CHARACTERS_MAX in str(caught.value)
        assert "x" * (answers.MESSAGE_CHARACTERS_MAX + 1) not in str(caught.value)


async def test_no_secret_is_repeated(s3: ScriptedS3, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever happens, in whatever words: what S3 answers repeats what was signed and the token."""
    caplog.set_level(logging.DEBUG)
    echo = f"<StringToSign>{secret_of('owner')}</StringToSign><Token-0>{TOKEN}</Token-0>"
    said: list[str] = []
    async with opened(s3) as store:
        said += [repr(store), str(store), store.url]
        for status, code in ((403, "SignatureDoesNotMatch"), (400, "ExpiredToken"), (403, "AccessDenied"), (503, "x")):
            s3.script = lambda _, status=status, code=code: error(status, code, "no", more=echo)  # type: ignore[misc]
            for call in CALLS.values():
                with structlog.testing.capture_logs() as logs, pytest.raises(CutbankError) as caught:
                    await call(store)
                said += [str(caught.value), repr(caught.value), *map(str, logs)]
    assert len(said) > 20
    said.append(caplog.text)
    for secret in (secret_of("owner"), TOKEN):
        assert not [text for text in said if secret in text]


class TestOpening:
    async def test_no_credentials_are_one_clear_error(self, s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name)
        with pytest.raises(StoreRefused, match="s3://bucket/root: no AWS credentials were found: give AWS_"):
            async with opened(s3):
                pytest.fail("never open")

    async def test_a_profile_that_is_none_is_one_clear_error(
        self, s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(StoreRefused, match="nobody"):
            async with opened(s3):
                pytest.fail("never open")

    async def test_it_closes_without_a_word(self, s3: ScriptedS3) -> None:
        """A warning of an open connection would fail the test when it is collected."""
        async with opened(s3) as store:
            await store.create("a", b"body")
            s3.next.append(Reply(200, bytes(1 << 20), cut_bytes=10))
            with pytest.raises(StoreUnavailable):
                await store.read("a")
        gc.collect()

    async def test_an_endpoint_that_never_answered_is_a_wrong_setting_in_the_end(self, s3: ScriptedS3) -> None:
        url = "s3://bucket/root?endpoint=http://127.0.0.1:1&region=us-east-1"
        async with open_store(url, clock=SystemClock(), metrics=NoMetrics()) as store:
            with pytest.raises(StoreUnavailable):
                await store.probe()
        async with open_store(f"{url}&start_wait_ms=0", clock=SystemClock(), metrics=NoMetrics()) as store:
            with pytest.raises(StoreRefused, match=r"has not answered for .*Check endpoint=… and region=…"):
                await store.probe()
        async with opened(s3, start_wait_ms=0) as store:
            s3.script = lambda _: error(503, "SlowDown")
            with pytest.raises(StoreUnavailable):
                await store.probe()


class TestProbe:
    @pytest.mark.parametrize(
        ("method", "permission"),
        [("PUT", "s3:PutObject"), ("GET", "s3:GetObject"), ("LIST", "s3:ListBucket"), ("DELETE", "s3:DeleteObject")],
    )
    async def test_a_missing_permission_is_named(self, s3: ScriptedS3, method: str, permission: str) -> None:
        def script(asked: Asked) -> Reply | None:
            return error(403, "AccessDenied") if method == ("LIST" if asked.is_list else asked.method) else None

        s3.script = script
        async with opened(s3) as store:
            with pytest.raises(StoreRefused, match=f"grant {permission} on arn:aws:s3:::bucket"):
                await store.probe(deletes=True)
            if method == "DELETE":
                await store.probe()

    async def test_creators_at_once_and_nothing_left(self, s3: ScriptedS3) -> None:
        async with opened(s3) as store:
            await store.probe(deletes=True)
        assert len([asked for asked in s3.asked if asked.method == "PUT"]) == 8
        assert s3.objects == {}


class TestAcceptOverwrite:
    async def test_a_store_that_ignores_create_only_puts_is_refused(self) -> None:
        async with ScriptedS3(ignores_create_only=True) as s3, opened(s3) as store:
            with pytest.raises(StoreRefused, match="ignores create-only puts: 8 of 8"):
                await store.probe()

    async def test_it_is_taken_with_a_warning_and_then_looks_before_it_puts(self) -> None:
        async with ScriptedS3(ignores_create_only=True) as s3, opened(s3, accept_overwrite="true") as store:
            with structlog.testing.capture_logs() as logs:
                await store.probe()
            (said,) = [line for line in logs if line["log_level"] == "warning"]
            assert "may be in two objects or in none" in said["event"]
            await store.create("a", b"first")
            with pytest.raises(AlreadyExists):
                await store.create("a", b"second")
            assert s3.objects == {"root/a": b"first"}

    async def test_a_store_that_knows_no_condition_gets_none(self) -> None:
        def script(asked: Asked) -> Reply | None:
            return error(501, "NotImplemented", "A header") if "if-none-match" in asked.headers else None

        async with ScriptedS3(ignores_create_only=True) as s3, opened(s3, accept_overwrite="true") as store:
            s3.script = script
            await store.probe()
            await store.create("a", b"first")
            with pytest.raises(AlreadyExists):
                await store.create("a", b"second")

    async def test_a_store_that_keeps_the_promise_is_not_asked_twice(self, s3: ScriptedS3) -> None:
        async with opened(s3, accept_overwrite="true") as store:
            with structlog.testing.capture_logs() as logs:
                await store.probe()
            assert not [line for line in logs if line["log_level"] == "warning"]
            before = len(s3.asked)
            await store.create("a", b"first")
            assert [asked.method for asked in s3.asked[before:]] == ["PUT"]

    async def test_without_a_probe_it_looks_first(self) -> None:
        async with ScriptedS3(ignores_create_only=True) as s3, opened(s3, accept_overwrite="true") as store:
            await store.create("a", b"first")
            with pytest.raises(AlreadyExists):
                await store.create("a", b"second")


async def test_a_store_that_lists_in_another_order_is_refused_before_a_key_is_out_of_turn(s3: ScriptedS3) -> None:
    keys = ["root/a/b", "root/a-b"]
    s3.script = lambda asked: Reply(
        body=(
            "<ListBucketResult><IsTruncated>false</IsTruncated>"
            + "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
            + "</ListBucketResult>"
        ).encode()
    )
    async with opened(s3) as store:
        with pytest.raises(StoreRefused, match="listing=folders"):
            await listed(store)


async def test_what_no_key_of_ours_can_name_is_not_listed(s3: ScriptedS3) -> None:
    """A console's folder, a name in another script."""
    s3.objects = {"root/": b"", "root/a": b"1", "root/b/": b"", "root/ä": b"", "root2/a": b"", "root/c\td": b""}
    async with opened(s3) as store:
        assert await listed(store) == ["a"]


async def test_pages_are_asked_for_as_they_are_needed(s3: ScriptedS3) -> None:
    s3.objects = {f"root/{number:03}": b"" for number in range(100)}
    async with opened(s3, page_keys=10) as store:
        async for info in store.list(""):
            assert info.key == "000"
            break
        assert len(s3.asked) == 1
        assert len(await listed(store)) == 100
        assert len(s3.asked) == 11
        s3.next.extend([Reply(503)])
        with pytest.raises(StoreUnavailable):
            await listed(store)
