"""The claim: the small document that decides what a stretch of records becomes. Values, their keys and their JSON.

Invariant: a claim's key is its chain and its start, and its start is where the claim before it ended; so of all who
try to continue a chain at the same place, a create-only put lets one. Encoding is canonical: equal documents are
equal bytes. What is decoded is checked whole; a document of a later version is refused, never half understood.
No I/O; values only, safe to share.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import quote, unquote

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from cutbank.errors import PartitionStopped
from cutbank.objects.base import key_check
from cutbank.records import Position, position_from_inverted, position_from_text, position_inverted, position_text
from cutbank.settings import one_line

CLAIMS_ROOT = "_cutbank/"
"""Where all claims lie below the root, apart from the data objects."""

MINUTE_MS = 60_000

MINUTE_MS_MAX = 253_402_300_740_000
"""The last minute of the year 9999, the latest that a folder can be named after, ms since the epoch."""

DOCUMENT_VERSION = 1
"""Version of these documents' format."""

LAYOUT_VERSION = 3
"""Newest version of the rules by which records become objects."""

DOCUMENT_BYTES_MAX = 20 << 20
"""Largest document that is read as a claim, bytes: more than `MARKS_MAX` marks twice and `OBJECTS_MAX` objects take."""

MARKS_MAX = 4096
"""Most source partitions with a high-water mark; beyond, the one that advanced longest ago is forgotten."""

OBJECTS_MAX = 1000
"""Most data objects of one claim."""

COLUMNS_MAX = 1100
"""Most columns of a CSV or Parquet object: a spec's and ours."""

PARTITION_KEYS_MAX = 8
"""Most fields that partition the objects."""

OTHER_FIELDS = "OTHER_FIELDS"
"""The last column of a CSV or Parquet object: what the others do not tell of a record, as JSON."""

ColumnType = Literal[
    "VARCHAR", "DOUBLE", "FLOAT", "REAL", "BIGINT", "INTEGER", "SMALLINT", "TINYINT", "BOOLEAN", "TIMESTAMP", "SOURCE"
]
"""Of a Parquet object's column: the spec's, without their lengths; a time in UTC with ms; an anomaly's identity."""

_SHA256 = r"^[0-9a-f]{64}$"
_LOST = ".lost"
_BIRTH = "birth"


def _position(value: object) -> object:
    return position_from_text(value) if isinstance(value, str) else value


PositionField = Annotated[Position, BeforeValidator(_position), PlainSerializer(position_text, return_type=str)]
"""A position: an int here, its decimal text in JSON."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Mark(_Value):
    """The last anomaly of one source partition: what is at or before it, or of an older run, has been seen."""

    partition: str
    """With its stream and the stream's identity: `trades@1f2e3d4c/0`."""
    run: int = Field(ge=0, le=2**63 - 1)
    position: PositionField
    ordinal: int = Field(ge=0, le=2**63 - 1)


def _layout_version(fields: Mapping[str, Any]) -> Literal[1, 2, 3]:
    known = Layout.model_fields
    if fields["format"] == "parquet" or fields["compression"] == "zstd":
        return 3
    return 1 if all(known[name].default == fields[name] for name in fields if name != "version") else 2


class Layout(_Value):
    """How records become objects. Recorded in the claim, so that whoever finishes it does so as it was begun."""

    prefix: str = Field(default="yyyy/MM/dd/HH/", max_length=1024)
    """Folders of a data object, from the claim's minute and the records' fields: see `prefix.Prefix`."""
    zone: str = Field(default="UTC", pattern=r"^[A-Za-z0-9_+/-]{1,64}$")
    """Time zone of the prefix, an IANA name."""
    format: Literal["ndjson", "csv", "parquet"] = "ndjson"
    """ndjson: one JSON object a line. csv: RFC 4180 with a header. parquet: typed columns."""
    compression: Literal["none", "gzip", "zstd"] = "none"
    """Of the object's body; of a Parquet object's pages."""
    columns: tuple[str, ...] = Field(default=(), max_length=COLUMNS_MAX)
    """Of a CSV or Parquet object, without `OTHER_FIELDS`, which follows them; none for ndjson."""
    types: tuple[ColumnType, ...] = Field(default=(), max_length=COLUMNS_MAX)
    """Of a Parquet object's columns, in their order; none for other formats."""
    partition_keys: tuple[str, ...] = Field(default=(), max_length=PARTITION_KEYS_MAX)
    """Fields of the record, top level or dotted, whose values have objects of their own."""
    partition_values_max: int = Field(default=500, ge=1, le=OBJECTS_MAX - 1)
    """Values, of all keys together, with an object of their own in one claim; later ones share the rest object."""

    version: Literal[1, 2, 3] = Field(default_factory=_layout_version)
    """Of the rules themselves: order, line, name. 1: every field above at its default; 3: Parquet or zstd; 2: anything
    else; so that a program of an earlier version refuses what it would lay out wrongly. Left out, it follows from the
    others. A prefix that it does not understand is no matter: the claim has the keys."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.version != _layout_version(dict(self)):
            raise ValueError(f"a layout with these fields is of version {_layout_version(dict(self))}")
        for name, values in (("columns", self.columns), ("partition_keys", self.partition_keys)):
            if len(set(values)) != len(values) or "" in values:
                raise ValueError(f"{name}: one is empty or there twice")
        if (self.format == "ndjson") != (not self.columns):
            raise ValueError("columns belong to the formats csv and parquet")
        if len(self.types) != (len(self.columns) if self.format == "parquet" else 0):
            raise ValueError("each column of the format parquet has a type, and no other has")
        if OTHER_FIELDS in self.columns:
            raise ValueError(f"{OTHER_FIELDS} is a column that Cutbank adds to CSV and Parquet; rename yours")
        return self

    @model_serializer(mode="wrap")
    def _as_version(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        later = {1: ("columns", "types", "partition_keys", "partition_values_max"), 2: ("types",), 3: ()}
        for name in later[self.version]:
            del fields[name]
        return fields


class FirstRecord(_Value):
    """A stretch's first record that was kept: tells a stream from another one under its name."""

    position: PositionField
    sha256: str = Field(pattern=_SHA256)
    """SHA-256 of its value, hex."""


class DataObject(_Value):
    """One object that a claim names, and what has to be in it."""

    key: str
    count: int = Field(ge=1)
    """Lines."""
    line_bytes: int = Field(ge=1)
    """Bytes of its lines as newline-delimited JSON, whatever the format."""
    sha256: str = Field(pattern=_SHA256)
    """SHA-256, hex, of its lines as newline-delimited JSON, whatever the format."""
    content_sha256: str | None = Field(default=None, pattern=_SHA256)
    """SHA-256, hex, of the body before compression, where that is not newline-delimited JSON; None: `sha256`."""

    @model_validator(mode="after")
    def _key(self) -> Self:
        key_check(self.key)
        if self.key.startswith(CLAIMS_ROOT):
            raise ValueError(f"data object {self.key!r} lies among the claims")
        return self

    @model_serializer(mode="wrap")
    def _as_version(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        if self.content_sha256 is None:
            del fields["content_sha256"]
        return fields


class _Document(_Value):
    """What every document of a chain says of itself."""

    version: Literal[1] = 1
    pipeline: str
    stream: str
    partition: str

    @property
    def chain(self) -> "ChainId":
        """The chain that it belongs to."""
        return ChainId(self.pipeline, self.stream, self.partition)


class Birth(_Document):
    """A chain's first link: no records, kept for ever."""

    kind: Literal["birth"] = "birth"
    start: PositionField
    """Where the first claim starts, resolved once."""
    identity: str
    """The stream's identity, as the transport gives it."""

    @property
    def key(self) -> str:
        """Where it lies."""
        return self.chain.birth_key


class Claim(_Document):
    """One stretch: records from `start` to before `end`, and the objects that they become.

    Without objects (and so without a first record) it says that these records are lost: past retention, unread.
    """

    kind: Literal["claim"] = "claim"
    start: PositionField
    end: PositionField
    """The first position that this claim does not cover; the next claim's start."""
    minute_ms: int = Field(ge=0, le=MINUTE_MS_MAX, multiple_of=MINUTE_MS)
    """The arrival minute, milliseconds since the epoch at its beginning, UTC; never less than the claim's before."""
    layout: Layout
    partition_values: tuple[str, ...] = Field(default=(), max_length=OBJECTS_MAX)
    """Values that have an object of their own, as they stand in a path, in the order of their objects; one object more
    is the rest's. None where nothing partitions the objects."""
    objects: tuple[DataObject, ...] = Field(max_length=OBJECTS_MAX)
    first: FirstRecord | None
    marks_before: tuple[Mark, ...] = Field(max_length=MARKS_MAX)
    """High-water marks on entry, the one that advanced longest ago first."""
    marks_after: tuple[Mark, ...] = Field(max_length=MARKS_MAX)
    """High-water marks at the end, in the same order."""
    spec_hash: str | None = None
    """Hash of the pipeline spec that the sink was started with, where it knows one."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.start < self.end:
            raise ValueError("a claim ends after its start")
        if (self.first is None) != (not self.objects):
            raise ValueError("a claim has a first record exactly when it has objects")
        if self.first is not None and not self.start <= self.first.position < self.end:
            raise ValueError("the first record lies outside the claim")
        if len({item.key for item in self.objects}) != len(self.objects):
            raise ValueError("two objects of one claim have the same key")
        if any((item.content_sha256 is None) != (self.layout.format == "ndjson") for item in self.objects):
            raise ValueError("an object has a hash of its content exactly when that is not newline-delimited JSON")
        return self._values_whole()

    def _values_whole(self) -> Self:
        if len(set(self.partition_values)) != len(self.partition_values):
            raise ValueError("a partition value has two objects")
        if not self.layout.partition_keys or not self.objects:
            if self.partition_values:
                raise ValueError("partition values belong to objects and a layout with partition keys")
        elif len(self.objects) - len(self.partition_values) not in (0, 1):
            raise ValueError("a claim has an object for each partition value, and at most one for the rest")
        elif any(value.count("/") != len(self.layout.partition_keys) - 1 for value in self.partition_values):
            raise ValueError("a partition value has a part for each partition key, with slashes between them")
        return self

    @property
    def key(self) -> str:
        """Where it lies."""
        return self.chain.claim_key(self.start)

    @property
    def records(self) -> int:
        """Lines in all its objects."""
        return sum(item.count for item in self.objects)

    @property
    def line_bytes(self) -> int:
        """Bytes of all its lines."""
        return sum(item.line_bytes for item in self.objects)


class Lost(_Document):
    """Said by an explicit setting: these objects will never be there, the chain goes on after them."""

    kind: Literal["lost"] = "lost"
    start: PositionField
    end: PositionField
    missing: tuple[str, ...] = Field(max_length=OBJECTS_MAX)
    """Keys of the claim's objects that were missing; none where the records were lost unread."""
    why: str
    """For people."""

    @property
    def key(self) -> str:
        """Where it lies."""
        return self.chain.lost_key(self.start)


class ChainId(NamedTuple):
    """Names one chain: a pipeline's claims on one partition of one stream."""

    pipeline: str
    stream: str
    partition: str

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def prefix(self) -> str:
        """Where its documents lie. A LIST of it gives the newest claim first and the birth last."""
        return pipeline_prefix(self.pipeline) + "".join(f"{quote(part, safe='')}/" for part in self[1:])

    @property
    def birth_key(self) -> str:
        """Sorts after every claim."""
        return self.prefix + _BIRTH

    def claim_key(self, start: Position) -> str:
        """The claim that starts there."""
        return self.prefix + position_inverted(start)

    def lost_key(self, start: Position) -> str:
        """What says that the claim which starts there lost objects."""
        return self.claim_key(start) + _LOST


def pipeline_prefix(pipeline: str) -> str:
    """Where all chains of a pipeline lie."""
    return f"{CLAIMS_ROOT}{quote(pipeline, safe='')}/"


class Link(NamedTuple):
    """What a key below `CLAIMS_ROOT` names."""

    chain: ChainId
    kind: Literal["birth", "claim", "lost"]
    start: Position | None
    """None for a birth."""


_KEY = re.compile(rf"{CLAIMS_ROOT}([^/]+)/([^/]+)/([^/]+)/(?:({_BIRTH})|([0-9A-F]{{64}})({re.escape(_LOST)})?)")


def link_from_key(key: str) -> Link | None:
    """The inverse of `ChainId`'s keys; None for a key that is none of them."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    chain = ChainId(*(unquote(part) for part in match.group(1, 2, 3)))
    if match[4]:
        return Link(chain, "birth", None) if chain.birth_key == key else None
    start = position_from_inverted(match[5])
    # A key that is quoted in another way than ours is nobody's.
    if chain.claim_key(start) != key.removesuffix(_LOST):
        return None
    return Link(chain, "lost" if match[6] else "claim", start)


def encode(document: Birth | Claim | Lost) -> bytes:
    """Canonical JSON: sorted keys, no spaces, one line."""
    return orjson.dumps(document.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


D = TypeVar("D", Birth, Claim, Lost)


def decode(body: bytes, kind: type[D], *, key: str) -> D:
    """The document of that kind under `key`. Raises PartitionStopped: it is none, damaged, or a later version's."""
    where = f"claim document {key}"
    if len(body) > DOCUMENT_BYTES_MAX:
        raise PartitionStopped(f"{where}: larger than {DOCUMENT_BYTES_MAX} bytes; restore it from a backup")
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise PartitionStopped(f"{where}: not JSON ({error}); restore it from a backup") from None
    _check_versions(values, where)
    try:
        # Strict mode takes no lists for tuples, but from JSON it does.
        document = kind.model_validate_json(body)
    except ValidationError as error:
        raise PartitionStopped(f"{where}: {one_line(error)}; restore it from a backup") from None
    if document.key != key:
        raise PartitionStopped(f"{where}: its content belongs to another key; restore it from a backup")
    return document


def _check_versions(values: object, where: str) -> None:
    """Say clearly when a newer Cutbank wrote this, before anything else is found wrong with it."""
    layout = values.get("layout") if isinstance(values, Mapping) else None
    for name, part, known in (("format", values, DOCUMENT_VERSION), ("layout", layout, LAYOUT_VERSION)):
        version: Any = part.get("version") if isinstance(part, Mapping) else None
        if isinstance(version, int) and version > known:
            raise PartitionStopped(
                f"{where}: {name} version {version} is newer than this program's ({known}); run a newer Cutbank here"
            )
