"""What a request to S3 is, and what may be done to it: the words of `object_servers.proxy`. No I/O.

Errors are AWS's documented ones. A rule counts; whoever laid it reads its counts. One event loop; not thread-safe.
"""

import asyncio
import random
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import ClassVar
from urllib.parse import unquote
from uuid import uuid4
from xml.sax.saxutils import escape

from yarl import URL

from cutbank.pipeline.sinking.claims import CLAIMS_ROOT, link_from_key

REMEMBERED = 1000
"""Requests that a rule remembers of those that it struck."""

_CLIENT = re.compile(r"\bapp/(\S+)")
_SNAPSHOT = re.compile(r"(?:^|/)\d{8}/[0-9A-F]{64}$")


class Action(StrEnum):
    """What a request asks for."""

    CREATE = "create"
    READ = "read"
    LOOK = "look"
    """HEAD: whether it is there."""
    LIST = "list"
    DELETE = "delete"
    BUCKET = "bucket"
    """Anything about a bucket but listing it."""
    OTHER = "other"


class What(StrEnum):
    """What sort of key a request is about."""

    CLAIM = "claim"
    BIRTH = "birth"
    LOST = "lost"
    PROBE = "probe"
    OBJECT = "object"
    SNAPSHOT = "snapshot"
    STATE_BIRTH = "state birth"


@dataclass(frozen=True, kw_only=True)
class S3Request:
    """One request, as far as rules ask."""

    method: str
    bucket: str
    key: str
    """Of a listing: its prefix."""
    action: Action
    what: What
    client: str
    """The application id that the SDK tells (AWS_SDK_UA_APP_ID); empty: it tells none."""
    create_only: bool
    """Whether it says `If-None-Match: *`."""
    body_bytes: int

    def __str__(self) -> str:
        return f"{self.client or '-'}: {self.action} {self.what} {self.bucket}/{self.key}"


def what_of(key: str) -> What:
    """The sort of a key, whatever root it lies under."""
    at = key.find(CLAIMS_ROOT)
    if at == 0 or (at > 0 and key[at - 1] == "/"):
        if key[at:].startswith(f"{CLAIMS_ROOT}_probe/"):
            return What.PROBE
        link = link_from_key(key[at:])
        return What.CLAIM if link is None else What(link.kind)
    if key.endswith("/birth"):
        return What.STATE_BIRTH
    return What.SNAPSHOT if _SNAPSHOT.search(key) else What.OBJECT


@dataclass(frozen=True)
class S3Error:
    """An error as docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html has it."""

    status: int
    code: str
    message: str
    more: str = ""
    """Further elements of the document."""

    def document(self, resource: str) -> bytes:
        """The reply's body."""
        return (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{self.code}</Code><Message>{escape(self.message)}'
            f"</Message>{self.more}<Resource>{escape(resource)}</Resource><RequestId>{uuid4().hex[:16].upper()}"
            f"</RequestId><HostId>{uuid4().hex}</HostId></Error>"
        ).encode()


SLOW_DOWN = S3Error(503, "SlowDown", "Please reduce your request rate.")
UNAVAILABLE = S3Error(503, "ServiceUnavailable", "Service is unable to handle request.")
INTERNAL = S3Error(500, "InternalError", "We encountered an internal error. Please try again.")
CONFLICT = S3Error(
    409,
    "ConditionalRequestConflict",
    "The conditional request cannot succeed due to a conflicting operation against this resource.",
)
DENIED = S3Error(403, "AccessDenied", "Access Denied")
EXPIRED = S3Error(400, "ExpiredToken", "The provided token has expired.")
UNKNOWN_KEY = S3Error(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
REQUEST_TIMEOUT = S3Error(
    400,
    "RequestTimeout",
    "Your socket connection to the server was not read from or written to within the timeout period. "
    "Idle connections will be closed.",
)
NO_BUCKET = S3Error(404, "NoSuchBucket", "The specified bucket does not exist")


class Kind(Enum):
    """What becomes of a request."""

    ANSWER = "an error in place of the server, which never gets it"
    ANSWER_AFTER = "done, and answered with an error"
    RESET = "the connection is reset, the server never gets it"
    RESET_AFTER = "done, the connection is reset in place of the reply"
    DELAY = "the server gets it later"
    DELAY_REPLY = "done, the reply comes later"
    TRICKLE = "the reply comes a few bytes at a time"
    HANG = "the server never gets it, no answer"
    HANG_AFTER = "done, no answer"
    CUT_BODY = "half of the reply's body, then a reset"
    HOLD = "the server gets it when it is released"
    HOLD_REPLY = "done, the reply comes when it is released"


BEFORE = {Kind.ANSWER, Kind.RESET, Kind.DELAY, Kind.HANG, Kind.HOLD}
"""Kinds that are done before the server has the request."""


@dataclass(frozen=True)
class Fault:
    """One thing that happens to a request: a constant, or made with its error or seconds."""

    kind: Kind
    error: S3Error | None = None
    seconds: float = 0.0

    RESET: ClassVar["Fault"]
    RESET_AFTER: ClassVar["Fault"]
    HANG: ClassVar["Fault"]
    HANG_AFTER: ClassVar["Fault"]
    CUT_BODY: ClassVar["Fault"]
    HOLD: ClassVar["Fault"]
    HOLD_REPLY: ClassVar["Fault"]

    @classmethod
    def answer(cls, error: S3Error) -> "Fault":
        """This error; nothing is done."""
        return cls(Kind.ANSWER, error)

    @classmethod
    def answer_after(cls, error: S3Error) -> "Fault":
        """This error, though it was done."""
        return cls(Kind.ANSWER_AFTER, error)

    @classmethod
    def delay(cls, seconds: float) -> "Fault":
        """The request is on its way for so long."""
        return cls(Kind.DELAY, seconds=seconds)

    @classmethod
    def delay_reply(cls, seconds: float) -> "Fault":
        """The reply is on its way for so long."""
        return cls(Kind.DELAY_REPLY, seconds=seconds)

    @classmethod
    def trickle(cls, seconds: float) -> "Fault":
        """So long between two parts of the reply's body, each of 64 bytes."""
        return cls(Kind.TRICKLE, seconds=seconds)

    def __str__(self) -> str:
        name = self.kind.name.lower().replace("_", " ")
        return name + (f" {self.error.code}" if self.error else "") + (f" {self.seconds:g} s" if self.seconds else "")


Fault.RESET = Fault(Kind.RESET)
Fault.RESET_AFTER = Fault(Kind.RESET_AFTER)
Fault.HANG = Fault(Kind.HANG)
Fault.HANG_AFTER = Fault(Kind.HANG_AFTER)
Fault.CUT_BODY = Fault(Kind.CUT_BODY)
Fault.HOLD = Fault(Kind.HOLD)
Fault.HOLD_REPLY = Fault(Kind.HOLD_REPLY)


@dataclass(eq=False, kw_only=True)
class Rule:
    """Which requests meet a fault, and what came of it."""

    fault: Fault
    action: Action | None = None
    what: What | None = None
    client: str | None = None
    where: Callable[[S3Request], bool] | None = None
    """Any further condition."""
    nth: int = 1
    """The first one that is struck, of those that match."""
    times: int | None = 1
    """How many are struck; None: all from then on."""
    share: float = 1.0
    """Of those that are due, how many by chance."""
    then: Callable[[S3Request], None] | None = None
    """Called when one is struck: before the server gets it, or right after it was done, as the fault has it."""
    matched: int = 0
    struck: int = 0
    requests: deque[S3Request] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """Those that were struck."""
    met: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first one is struck."""
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _pass: bool = True

    def release(self, *, forward: bool = True) -> None:
        """Let go what is held; `forward` False: what the server has not got is lost. The first call counts."""
        if not self._released.is_set():
            self._pass = forward
        self._released.set()

    async def released(self) -> bool:
        """For the proxy: waits; whether the request goes on."""
        await self._released.wait()
        return self._pass

    def strikes(self, request: S3Request, rng: random.Random) -> bool:
        """For the proxy: whether this one is struck; it is counted."""
        wanted = ((self.action, request.action), (self.what, request.what), (self.client, request.client))
        if any(one is not None and one != found for one, found in wanted):
            return False
        if self.where is not None and not self.where(request):
            return False
        if self.times is not None and self.struck >= self.times:
            return False
        self.matched += 1
        if self.matched < self.nth or (self.share < 1.0 and rng.random() >= self.share):
            return False
        self.struck += 1
        self.requests.append(request)
        return True

    def strike(self, request: S3Request) -> None:
        """For the proxy: it is struck now."""
        self.met.set()
        if self.then is not None:
            self.then(request)


def request_of(method: str, raw_path: str, headers: Mapping[str, str], body_bytes: int) -> S3Request:
    """What a request is; path-style."""
    url = URL(raw_path, encoded=True)
    bucket, _, key = unquote(url.raw_path).lstrip("/").partition("/")
    if key:
        actions = {"PUT": Action.CREATE, "GET": Action.READ, "HEAD": Action.LOOK, "DELETE": Action.DELETE}
        action = actions.get(method, Action.OTHER)
    elif method == "GET" and ("list-type" in url.query or "prefix" in url.query):
        action, key = Action.LIST, url.query.get("prefix", "")
    else:
        action = Action.DELETE if method == "POST" and "delete" in url.query else Action.BUCKET
    told = _CLIENT.search(headers.get("User-Agent", ""))
    return S3Request(
        method=method,
        bucket=bucket,
        key=key,
        action=action,
        what=what_of(key),
        client=told.group(1) if told else "",
        create_only=headers.get("If-None-Match") == "*",
        body_bytes=body_bytes,
    )
