"""What can be set on the S3 store, and the URL that names a root in a bucket. Values only; no I/O.

`s3://bucket/root`; query parameters set the fields of `S3Settings`, as in
`s3://bucket/root?region=eu-west-1&sse=aws:kms&storage_class=STANDARD_IA`. Credentials never stand in it: they are found
the SDK's own way (environment, profile, role of the machine or pod), and so is the endpoint where none is given.
"""

import re
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from cutbank.errors import UsageError
from cutbank.objects.base import KEY_BYTES_MAX, key_check
from cutbank.settings import Settings, settings_of

SCHEME = "s3"

ROOT_BYTES_MAX = 512
"""Longest root, bytes: a whole key, root and all, has KEY_BYTES_MAX on S3, and the names below need their part."""

TAGS_MAX = 10
"""Most tags of an object (S3's limit)."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_UNSORTED = "--x-s3"
_TAG = re.compile(r"[\w +\-.=:/@]*")
_TAG_NAME_MAX, _TAG_VALUE_MAX = 128, 256


class S3Settings(Settings):
    """How this process uses a bucket. Every field is a parameter of the URL."""

    region: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]{1,64}$")
    """The bucket's region, such as eu-west-1; by default what the SDK finds (AWS_DEFAULT_REGION, profile)."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://[^@/?#\s]+/?$")
    """Where the S3 API is, for a store that is not Amazon's or a private endpoint: http://host:port or https://host. By
    default what the SDK finds (AWS_ENDPOINT_URL_S3, profile), else Amazon's of the region."""
    path_style: bool | None = None
    """Whether the bucket stands in the path of a request instead of in the host name; by default the SDK chooses: in
    the path where an endpoint is given, else in the host name."""
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    """Ask for encryption at rest: AES256 (SSE-S3), aws:kms, aws:kms:dsse. By default the bucket's own setting holds."""
    kms_key: str | None = Field(default=None, min_length=1, max_length=2048)
    """The KMS key (id, alias or ARN) for sse=aws:kms; by default the bucket's or Amazon's own."""
    bucket_key: bool | None = None
    """With sse=aws:kms: whether an S3 bucket key saves calls to KMS; by default the bucket's own setting holds."""
    storage_class: (
        Literal["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "REDUCED_REDUNDANCY"]
        | None
    ) = None
    """Storage class of what is put. Classes from which nothing can be read at once are not taken: claims and snapshots
    are read again."""
    tags: tuple[tuple[str, str], ...] = ()
    """Tags of every object, at most 10: `tags=team=trades,env=prod`. Needs s3:PutObjectTagging too."""
    expected_owner: str | None = Field(default=None, pattern=r"^[0-9]{12}$")
    """The account that must own the bucket; if another does, every call is refused."""
    checksum: Literal["sha256", "md5", "crc32"] = "sha256"
    """What a body is checked with on its way: x-amz-checksum-sha256, Content-MD5 (known to every old store) or
    x-amz-checksum-crc32."""
    accept_overwrite: bool = False
    """Take a store that ignores `If-None-Match: *`. Gives up what holds when two processes work on one partition for a
    moment (a zombie, a rebalance): an anomaly may then be in two objects or in none."""
    listing: Literal["auto", "flat", "folders"] = "auto"
    """How objects are listed. flat: in the order of whole keys, as Amazon's S3 has it. folders: folder by folder, for a
    store that lists in another order. auto: folders on SeaweedFS, which says its name, else flat."""
    page_keys: int = Field(default=1000, ge=1, le=1000)
    """Most keys in one page of a listing, 1 to 1000."""
    connections_max: int = Field(default=32, ge=1, le=1000)
    """Most connections at once; a call beyond them waits within its time."""
    connect_timeout_ms: int = Field(default=5_000, ge=50, le=600_000)
    """How long a connection may take to come up, ms."""
    read_timeout_ms: int = Field(default=20_000, ge=50, le=600_000)
    """How long the store may be silent in the middle of an answer or before it, ms."""
    call_timeout_ms: int = Field(default=30_000, ge=100, le=3_600_000)
    """How long a whole call may take, ms, and a second more for each MiB of its body. Then it is tried again."""
    start_wait_ms: int = Field(default=60_000, ge=0, le=3_600_000)
    """How long to wait at start for an endpoint that has not answered yet, ms; then it is a wrong setting."""

    @field_validator("tags", mode="before")
    @classmethod
    def _tags(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        tags = [tuple(part.split("=", 1)) for part in value.split(",") if part]
        if any(len(tag) != 2 for tag in tags):  # a name and a value
            raise ValueError("write tags=name=value,name=value")
        return tuple(tags)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kms_key is not None and self.sse not in ("aws:kms", "aws:kms:dsse"):
            raise ValueError("kms_key needs sse=aws:kms")
        if self.bucket_key is not None and self.sse != "aws:kms":
            raise ValueError("bucket_key needs sse=aws:kms")
        if len(self.tags) > TAGS_MAX or len({name for name, _ in self.tags}) < len(self.tags):
            raise ValueError(f"tags: at most {TAGS_MAX}, each name once")
        for name, value in self.tags:
            good = 0 < len(name) <= _TAG_NAME_MAX and len(value) <= _TAG_VALUE_MAX
            if not (good and _TAG.fullmatch(name) and _TAG.fullmatch(value)):
                raise ValueError(f"tags: {name}={value} is none that S3 takes")
        return self


@dataclass(frozen=True, slots=True)
class Place:
    """A root in a bucket."""

    bucket: str
    root: str
    """Without slashes at its ends; empty: the bucket itself."""

    @property
    def url(self) -> str:
        """The store's identity, for people and logs."""
        return f"s3://{self.bucket}/{self.root}".rstrip("/")

    @property
    def prefix(self) -> str:
        """What every key begins with."""
        return f"{self.root}/" if self.root else ""


def parse_url(url: str) -> tuple[Place, S3Settings]:
    """The place and the settings that a URL names. Raises UsageError: one line that names the part that is wrong."""
    scheme, separator, rest = url.partition("://")
    if scheme != SCHEME or not separator:
        raise UsageError(f"object store {url!r}: expected s3://bucket/root")
    where, _, query = rest.partition("?")
    if "@" in where.partition("/")[0]:
        # Not repeated: what stands before the @ may be a secret.
        raise UsageError(
            "object store s3://…@…: no credentials in it; give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a "
            "profile, or a role"
        )
    if any(name == "endpoint" and "@" in value for name, value in parse_qsl(query)):
        raise UsageError(
            f"object store 's3://{where}': no credentials in the endpoint (http://host:port); give them as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
        )
    bucket, _, root = where.partition("/")
    shown = f"object store 's3://{where}'"
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{shown}: {bucket!r} is no bucket's name; write s3://bucket/root?region=eu-west-1")
    if bucket.endswith(_UNSORTED):
        raise UsageError(f"{shown}: a directory bucket does not list its keys in order; use a general purpose bucket")
    root = unquote(root.strip("/"))
    if root:
        try:
            key_check(root)
        except ValueError as error:
            raise UsageError(f"{shown}: no such root: {error}") from None
    if len(root.encode()) > ROOT_BYTES_MAX:
        raise UsageError(
            f"{shown}: the root has {len(root.encode())} bytes, at most {ROOT_BYTES_MAX} are taken (ROOT_BYTES_MAX): "
            f"S3 takes keys of {KEY_BYTES_MAX} bytes with their root"
        )
    settings = settings_of("object store", url, S3Settings)
    if settings.endpoint is not None:
        _port_check(shown, settings.endpoint)
    return Place(bucket, root), settings


def _port_check(shown: str, endpoint: str) -> None:
    try:
        good = urlsplit(endpoint).port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{shown}: endpoint {endpoint!r} has no good port")
