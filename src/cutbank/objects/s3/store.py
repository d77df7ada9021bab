"""Objects in an S3 bucket, below a root. Owns the client and its connections.

Invariant: every put says `If-None-Match: *`, so that a key that is taken stays as it is; the SDK tries nothing again by
itself (but aiohttp a request whose connection ended without an answer, once, which is harmless then) and follows no
redirect, and every call has a deadline: who calls decides what to ask again. Bodies are sent from
the caller's bytes, without a copy. Any number of processes may share a root. Event-loop only: large bodies are hashed
in threads. A cancelled put may or may not have been done.
"""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any, Self
from urllib.parse import urlencode

import structlog
from botocore.exceptions import ClientError

from cutbank.clock import Clock
from cutbank.errors import AlreadyExists, CutbankError, ObjectMissing, PartitionStopped, StoreRefused, StoreUnavailable
from cutbank.metrics import Metrics
from cutbank.objects.base import KEY_BYTES_MAX, OBJECT_BYTES_MAX, ObjectInfo, key_check
from cutbank.objects.probe import probe_store
from cutbank.objects.s3.answers import (
    ARCHIVED,
    NOT_KNOWN,
    Action,
    Answer,
    ConnectionLost,
    CredentialsExpired,
    Translator,
)
from cutbank.objects.s3.body import Body, checked
from cutbank.objects.s3.client import opened
from cutbank.objects.s3.listing import Page, Question, by_folders, flat
from cutbank.objects.s3.settings import Place, S3Settings

log = structlog.get_logger(__name__)

READ_BYTES = 1 << 20
"""Most bytes of a body that are taken from the connection at a time."""

SLOWEST_BYTES_PER_S = 1 << 20
"""A body may take a second for so many bytes, besides the call's own time: slower is as good as dead."""

_WALKS_FOLDERS = "seaweedfs"


class S3Store:
    """An `ObjectStore` in a bucket. `url` names the root, not how it is reached."""

    def __init__(self, place: Place, settings: S3Settings, *, clock: Clock, metrics: Metrics) -> None:
        self._place = place
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._translator = Translator(place, settings)
        self._closing = AsyncExitStack()
        self._client: Any = None
        self._opened_s = 0.0
        self._answered = False
        """Whether the endpoint has ever answered."""
        self._complained = False
        """Whether it is in the log that credentials have expired."""
        self._create_only = not settings.accept_overwrite
        """Whether a taken key needs no look first: the store must keep its promise, or was found to."""
        self._folders = settings.listing == "folders"

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    @property
    def url(self) -> str:
        """s3://bucket/root."""
        return self._place.url

    @property
    def key_bytes_max(self) -> int:
        """What the root leaves of S3's limit for whole keys."""
        return KEY_BYTES_MAX - len(self._place.prefix.encode())

    async def __aenter__(self) -> Self:
        """Find credentials, make the client; the bucket is asked nothing. Raises StoreRefused, StoreUnavailable."""
        assert self._client is None, "entered twice"
        try:
            self._client = await self._closing.enter_async_context(opened(self._settings))
        except Exception as error:
            raise self._error(Action.OPEN, "", error) from error
        self._opened_s = self._clock.monotonic_s()
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Close the connections."""
        self._client = None
        await self._closing.aclose()

    async def create(self, key: str, body: bytes) -> None:
        """As the protocol says. A put whose connection ended in the middle is looked for, once."""
        self._whole(key)
        began_s = self._clock.monotonic_s()
        # Else a store that ignores create-only puts would not even be asked.
        if self._settings.accept_overwrite and not self._create_only and await self.exists(key):
            raise AlreadyExists(f"{self.url}: {key} is there already")
        await self._put(key, body)
        self._metrics.observe("cutbank_object_put_seconds", self._clock.monotonic_s() - began_s)

    async def read(self, key: str) -> bytes:
        """The whole body, held once."""
        response = await self._get(Action.READ, key)
        try:
            size = response.get("ContentLength")
            if size is not None and size > OBJECT_BYTES_MAX:
                raise PartitionStopped(
                    f"{self.url}: {key} has {size} bytes, more than OBJECT_BYTES_MAX ({OBJECT_BYTES_MAX}): Cutbank "
                    "writes none so large; restore it, or move it out of the way"
                )
            async with asyncio.timeout(self._seconds(size or OBJECT_BYTES_MAX)):
                return await self._body(response["Body"], key, size)
        except TimeoutError as error:
            raise self._late(Action.READ, key, size or 0) from error
        except CutbankError:
            raise
        except Exception as error:
            raise self._error(Action.READ, key, error) from error
        finally:
            # After a whole body the connection has gone back already; a rest that nobody reads ends it.
            response["Body"].close()

    async def exists(self, key: str) -> bool:
        """Whether it is there: its first byte is asked for, since HEAD answers without saying what is wrong."""
        try:
            response = await self._get(Action.LOOK, key, Range="bytes=0-0")
        except ObjectMissing:
            return False
        except _There:
            return True
        try:
            if response["ResponseMetadata"]["HTTPStatusCode"] == 206:  # partial content
                async with asyncio.timeout(self._seconds(0)):
                    await response["Body"].read()
        except TimeoutError as error:
            raise self._late(Action.LOOK, key, 0) from error
        except Exception as error:
            raise self._error(Action.LOOK, key, error) from error
        finally:
            response["Body"].close()
        return True

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """As the protocol says. What no key of ours can name, such as a console's folders, is left out."""
        root = self._place.prefix
        start, after = root + prefix, root + after if after else ""
        first: Page | None = None
        if self._settings.listing == "auto" and not self._folders:
            first = await self._page(Question(prefix=start, after=after))
            self._folders = _WALKS_FOLDERS in first.server.lower()
        if self._folders:
            base = start[: start.rfind("/") + 1]
            async for whole, size in by_folders(self._page, prefix=start, after=after, base=base):
                if _is_key(key := whole[len(root) :]):
                    yield ObjectInfo(key, size)
            return

        async def ask(question: Question) -> Page:
            nonlocal first
            known, first = first, None
            return known or await self._page(question)

        async for page in flat(ask, prefix=start, after=after, url=self.url):
            for whole, size in page.objects:
                if _is_key(key := whole[len(root) :]):
                    yield ObjectInfo(key, size)

    async def delete(self, key: str) -> None:
        """Remove an object; in a versioned bucket a marker takes its place."""
        with suppress(ObjectMissing):
            await self._ask(Action.DELETE, key, "delete_object", Key=self._whole(key))

    async def probe(self, *, deletes: bool = False) -> None:
        """As the protocol says. An endpoint that has never answered is a wrong setting after `start_wait_ms`."""
        try:
            honoured = await probe_store(
                self, put=self._put, deletes=deletes, accept_overwrite=self._settings.accept_overwrite
            )
        except StoreUnavailable as error:
            waited_s = self._clock.monotonic_s() - self._opened_s
            if (
                self._answered
                or isinstance(error, CredentialsExpired)
                or waited_s * 1000 < self._settings.start_wait_ms
            ):
                raise
            raise StoreRefused(
                f"{self.url}: the endpoint has not answered for {waited_s:.0f} s (start_wait_ms): {error}. Check "
                "endpoint=… and region=… in the URL, AWS_ENDPOINT_URL_S3, and the network"
            ) from error
        if not honoured:
            log.warning(
                "the store ignores create-only puts, which accept_overwrite=true takes: when two processes work on one "
                "partition for a moment, an anomaly may be in two objects or in none",
                store=self.url,
            )
        self._create_only = honoured

    async def _put(self, key: str, body: bytes) -> None:
        """One put, create-only; in a store that does not know that, and is taken all the same, a plain one."""
        arguments = {**self._extras(), **await checked(body, self._settings.checksum)}
        only_new = {"IfNoneMatch": "*"}
        while True:
            data = Body(body) if body else b""
            try:
                await self._ask(
                    Action.CREATE,
                    key,
                    "put_object",
                    body_bytes=len(body),
                    Key=self._whole(key),
                    Body=data,
                    **only_new,
                    **arguments,
                )
            except _NotKnown as error:
                if not (self._settings.accept_overwrite and only_new):
                    raise error.refused from error
                only_new = {}
            except ConnectionLost as error:
                # A store that answers early and hangs up may have said that the key is taken: the answer is lost.
                found = False
                with suppress(StoreUnavailable):
                    found = await self.exists(key)
                if found:
                    raise AlreadyExists(f"{self.url}: {key} is there already") from error
                raise
            else:
                return

    def _extras(self) -> dict[str, Any]:
        """What the settings ask of every put."""
        settings = self._settings
        wanted = {
            "ServerSideEncryption": settings.sse,
            "SSEKMSKeyId": settings.kms_key,
            "BucketKeyEnabled": settings.bucket_key,
            "StorageClass": settings.storage_class,
            "Tagging": urlencode(settings.tags) or None,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    async def _get(self, action: Action, key: str, **arguments: Any) -> dict[str, Any]:
        """The beginning of an answer. Without the right to list the bucket, S3 denies what is missing: then we list."""
        try:
            return await self._ask(action, key, "get_object", Key=self._whole(key), **arguments)
        except _Denied as error:
            try:
                page = await self._page(Question(prefix=self._whole(key)))
            except StoreRefused:
                raise error.refused from error
            if any(found == self._whole(key) for found, _ in page.objects):
                raise error.refused from error
            raise ObjectMissing(f"{self.url}: no object {key}") from error

    async def _body(self, stream: Any, key: str, size: int | None) -> bytes:
        """Held once: what is written here is what is returned."""
        held = io.BytesIO()
        while part := await stream.read(READ_BYTES):
            held.write(part)
            if held.tell() > OBJECT_BYTES_MAX:
                raise PartitionStopped(
                    f"{self.url}: {key} has more than OBJECT_BYTES_MAX ({OBJECT_BYTES_MAX}) bytes: restore it, or move "
                    "it out of the way"
                )
        if size is not None and held.tell() != size:
            raise ConnectionLost(f"{self.url}: {key} was cut off: {held.tell()} of {size} bytes came")
        return held.getvalue()

    async def _page(self, question: Question) -> Page:
        arguments: dict[str, Any] = {"Prefix": question.prefix, "MaxKeys": self._settings.page_keys}
        if question.token:
            arguments["ContinuationToken"] = question.token
        if question.after:
            arguments["StartAfter"] = question.after
        if question.by_folder:
            arguments["Delimiter"] = "/"
        # The SDK asks for keys in URL encoding, and decodes them: XML has no words for some characters.
        found = await self._ask(Action.LIST, "", "list_objects_v2", **arguments)
        token = found.get("NextContinuationToken", "") if found.get("IsTruncated") else ""
        return Page(
            objects=tuple((item["Key"], int(item["Size"])) for item in found.get("Contents", ())),
            folders=tuple(item["Prefix"] for item in found.get("CommonPrefixes", ())),
            token=token,
            server=found["ResponseMetadata"]["HTTPHeaders"].get("server", ""),
        )

    async def _ask(
        self, action: Action, key: str, operation: str, *, body_bytes: int = 0, **arguments: Any
    ) -> dict[str, Any]:
        """One call within its time, its errors as ours."""
        assert self._client is not None, "use the store within `async with`"
        if self._settings.expected_owner is not None:
            arguments["ExpectedBucketOwner"] = self._settings.expected_owner
        call = getattr(self._client, operation)
        try:
            async with asyncio.timeout(self._seconds(body_bytes)) as within:
                found: dict[str, Any] = await call(Bucket=self._place.bucket, **arguments)
        except TimeoutError as error:
            if not within.expired():
                raise self._error(action, key, error) from error
            raise self._late(action, key, body_bytes) from error
        except Exception as error:
            raise self._error(action, key, error) from error
        self._answered, self._complained = True, False
        return found

    def _error(self, action: Action, key: str, error: Exception) -> Exception:
        """Ours for the client's; what is a bug comes back as it is."""
        if isinstance(error, ClientError):
            self._answered = True
            answer = Answer.of(error)
            found: CutbankError | None = self._translator.answered(action, key, answer)
            if isinstance(found, StoreRefused):
                if answer.code in ARCHIVED and action is Action.LOOK:
                    return _There()
                if answer.status == 416 and action is Action.LOOK:  # an empty body has no first byte
                    return _There()
                if answer.code == "AccessDenied" and action in (Action.READ, Action.LOOK):
                    return _Denied(found)
                if answer.code in NOT_KNOWN and action is Action.CREATE:
                    return _NotKnown(found)
        else:
            found = self._translator.failed(action, key, error)
        if isinstance(found, CredentialsExpired) and not self._complained:
            self._complained = True
            log.error("the store takes our credentials no more; the position is held", store=self.url, why=str(found))
        return found or error

    def _late(self, action: Action, key: str, body_bytes: int) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.url}: {action.call} of {key!r} got no whole answer within {self._seconds(body_bytes):g} s "
            "(call_timeout_ms)"
        )

    def _seconds(self, body_bytes: int) -> float:
        return self._settings.call_timeout_ms / 1000 + body_bytes / SLOWEST_BYTES_PER_S

    def _whole(self, key: str) -> str:
        """The key in the bucket. Raises ValueError for one that no object can have, StoreRefused for one too long."""
        key_check(key)
        if (size := len(key.encode())) > self.key_bytes_max:
            raise StoreRefused(
                f"{self.url}: the key {key[:60]!r}… has {size} bytes, and its root {len(self._place.prefix.encode())}: "
                f"more than the {KEY_BYTES_MAX} that S3 takes; use a shorter root or shorter names"
            )
        return self._place.prefix + key


class _There(Exception):
    """An error that says that the object is there."""


class _Denied(Exception):
    """Denied; it may be missing instead."""

    def __init__(self, refused: StoreRefused) -> None:
        super().__init__(str(refused))
        self.refused = refused


class _NotKnown(_Denied):
    """The store does not know what it was asked for."""


def _is_key(key: str) -> bool:
    try:
        return bool(key_check(key))
    except ValueError:
        return False
