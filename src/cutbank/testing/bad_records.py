"""Malformed records, and odd ones that are good, each with what the scorer must say of it. Seeded; for any spec.

Owns the kinds: every row of the error stream's table, and what JSON libraries are known to disagree about. A kind is
built so that its reason is known from how it was made; mutations of good records (`mutated`) are judged by
`cutbank.testing.judging`, which shares no code with the scorer's decoder.

The same spec and seed give the same records on every machine and Python. Pure; one thread an instance.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from cutbank.pipeline.scoring.decode import DEPTH_MAX, Reason
from cutbank.pipeline.spec import INTEGER_TYPES, NUMERIC_TYPES, PipelineSpec
from cutbank.testing.judging import expected_reason
from cutbank.transports.base import RECORD_BYTES_MAX

LARGE_SHARE: Final = 0.0005
"""Which share of the odd records is near or over the limit of 1 MiB, unless told otherwise."""

UNKNOWN: Final = "an unknown column"
"""A key that the spec's columns are not to have."""

_NOT_UTF8: Final = (
    b"\xc0\xaf",  # overlong, two bytes
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xc1\xbf",
    b"\xed\xa0\x80",  # a surrogate, first half
    b"\xed\xbf\xbf",  # and second
    b"\xed\xa0\xbd\xed\xb8\x80",  # both: CESU-8
    b"\xf4\x90\x80\x80",  # beyond U+10FFFF
    b"\xf5\x80\x80\x80",
    b"\xe2\x82",  # cut
    b"\xf0\x9f\x98",
    b"\x80",  # a middle without a beginning
    b"\xff",
    b"\xfe",
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_NO_NUMBERS: Final = _words(
    "NaN Infinity -Infinity nan inf 1e400 -1e400 1e99999999999999999999 01 -01 00 +1 .5 -.5 1. 1.e3 1e 1e+ 0x10 - --1 "
    "1_000 1,5 1.2.3 True None undefined nul 1f 1e4.5 \u0661 \uff11 '1' (1) 1/2 2**3"
)
"""Where a number is to be: no JSON."""
_NO_STRINGS: Final = ('"\\x41"', '"\\u12G4"', '"\\u12"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud800x"', '"\\', '"a\n"')
_STRINGS: Final = ('"AMZN"', '"BUY"', '""', '"caf\u00e9"', '"\u65e5\u672c"', '"a[{b"', '"say \\"no\\""', '"\U0001f600"')
_NOT_NUMBERS: Final = ('"1"', '""', '"NaN"', '"null"', "[1]", "[]", "{}", '{"value":1}', '"\\u0031"')
_ODD_INTEGERS: Final = _words(
    "0 -0 -1 9223372036854775807 -9223372036854775808 9223372036854775808 18446744073709551615 18446744073709551616 "
    "-9223372036854775809 123456789012345678901234567890 -123456789012345678901234567890 9007199254740993 5.0 1e3 "
    "-0.0 1E+2 120e-1 0e400 1e308"
)
"""Whole numbers that look otherwise, or are larger than they seem."""
_ODD_NUMBERS: Final = _words(
    "1e-400 5e-324 2.2250738585072011e-308 1.7976931348623157e308 -1.5E-7 1e23 0.30000000000000004 0.1e-0"
)
_FRACTIONS: Final = ("0.5", "-7.25", "1e-3", "123456789.5", "5e-324")


Fields: TypeAlias = Mapping[str, str]
"""Column names and their values as JSON texts."""


class Case(NamedTuple):
    """A record and what must become of it."""

    kind: str
    """Which family it is of; `good` is the plain one."""
    value: bytes
    reason: Reason | None
    """ERROR_NAME of its line in the error stream; None: it is scored."""

    @property
    def learnt(self) -> bool:
        """Whether the model sees it: also when only its line is too large."""
        return self.reason in (None, Reason.ANOMALY_TOO_LARGE)


class RecordMaker:
    """Makes records for one spec; what one call gives depends on the calls before it."""

    def __init__(self, spec: PipelineSpec, *, seed: int, large_share: float = LARGE_SHARE) -> None:
        self._columns = tuple((column.name, column.type) for column in spec.columns)
        if UNKNOWN in dict(self._columns):
            raise ValueError(f"the spec has a column {UNKNOWN!r}")
        self._large_share = large_share
        self.spec = spec
        self.rng = random.Random(seed)
        self.integers = tuple(name for name in spec.features if spec.type_of(name) in INTEGER_TYPES)
        """Features that take whole numbers only."""
        self.doubles = tuple(name for name in spec.features if name not in self.integers)
        """The other features."""
        self.others = tuple(name for name, _ in self._columns if name not in spec.features)
        """Columns that are not scored, whose values nobody checks."""
        self._kinds = _KINDS + (_INTEGER_KINDS if self.integers else ()) + (_DOUBLE_KINDS if self.doubles else ())
        self._large_kinds = _LARGE_KINDS + (_LINE_KINDS if self.others else ())

    @property
    def kinds(self) -> tuple[str, ...]:
        """Every kind that this spec can have, `good` and `mutated` among them."""
        return ("good", "mutated", *(kind.name for kind in (*self._kinds, *self._large_kinds)))

    def good(self) -> Case:
        """A plain good record."""
        return Case("good", _text(self.fields()), None)

    def odd(self) -> Case:
        """A record of a random kind: bad, or good all the same. One of three is a mutation."""
        if self.rng.random() < self._large_share:
            return self.rng.choice(self._large_kinds).make(self)
        return self.mutated() if self.rng.random() < 1 / 3 else self.rng.choice(self._kinds).make(self)

    def of_kind(self, name: str) -> Case:
        """A record of this kind. Raises ValueError for one that `kinds` does not have."""
        if name in ("good", "mutated"):
            return self.good() if name == "good" else self.mutated()
        for kind in (*self._kinds, *self._large_kinds):
            if kind.name == name:
                return kind.make(self)
        raise ValueError(f"no kind {name!r} for this spec; there are {', '.join(self.kinds)}")

    def mutated(self) -> Case:
        """A good record with up to three accidents."""
        value = bytearray(_text(self.fields()))
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            self.rng.choice(_ACCIDENTS)(self, value)
        return Case("mutated", bytes(value), expected_reason(self.spec, bytes(value)))

    def fields(self, changed: Fields | None = None) -> dict[str, str]:
        """A good record's columns as JSON texts, some `changed` or added."""
        return {name: self._plain(kind) for name, kind in self._columns} | dict(changed or {})

    def with_feature(self, text: str, *, names: Sequence[str] = ()) -> bytes:
        """A good record but for one feature, of `names` or of all, which is this text."""
        return _text(self.fields({self.pick(names or self.spec.features): text}))

    def with_unknown(self, text: str) -> bytes:
        """A good record with one column more, which is this text."""
        return _text(self.fields({UNKNOWN: text}))

    def pick(self, texts: Sequence[str]) -> str:
        """One of them."""
        return self.rng.choice(texts)

    def _plain(self, kind: str) -> str:
        """A value of a column's type, as JSON."""
        rng = self.rng
        if kind in INTEGER_TYPES:
            return str(rng.randrange(1000))
        if kind in NUMERIC_TYPES:
            return repr(round(rng.uniform(1.0, 500.0), rng.randrange(1, 6)))
        if kind == "BOOLEAN":
            return rng.choice(("true", "false"))
        return rng.choice(_STRINGS)


def bad_records(
    spec: PipelineSpec, *, seed: int, odd_share: float = 0.5, large_share: float = LARGE_SHARE
) -> Iterator[Case]:
    """Records without end, `odd_share` of them odd (most of these bad), `large_share` of the odd about 1 MiB."""
    maker, rng = RecordMaker(spec, seed=seed, large_share=large_share), random.Random(f"order {seed}")
    while True:
        yield maker.odd() if rng.random() < odd_share else maker.good()


def _text(fields: Fields) -> bytes:
    return ("{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in fields.items()) + "}").encode()


class _Kind(NamedTuple):
    name: str
    reason: Reason | None
    value: Callable[[RecordMaker], bytes]

    def make(self, maker: RecordMaker) -> Case:
        return Case(self.name, self.value(maker), self.reason)


def _cut(maker: RecordMaker) -> bytes:
    """All but the end, in the middle of no character."""
    text = maker.good().value.decode()
    return text[: maker.rng.randrange(1, len(text))].encode()


def _not_utf8(maker: RecordMaker) -> bytes:
    value = maker.with_unknown('"\x1a"') if maker.rng.random() < 0.8 else b"\x1a" + maker.good().value
    return value.replace(b"\x1a", maker.rng.choice(_NOT_UTF8))


def _nested(maker: RecordMaker, levels: int) -> str:
    """So many levels of arrays and objects."""
    opening = [maker.pick(("[", '{"a":')) for _ in range(levels)]
    return "".join(opening) + "1" + "".join("]" if one == "[" else "}" for one in reversed(opening))


def _too_deep(maker: RecordMaker) -> bytes:
    levels = maker.rng.choice((DEPTH_MAX, DEPTH_MAX + 1, 253, 254, 255, 1023, 1024, 1025, 5000))
    return maker.rng.choice((maker.with_unknown(_nested(maker, levels)), b"[" * (levels + 1), b'{"a":' * (levels + 1)))


def _without(maker: RecordMaker, rename: Callable[[str], str | None]) -> bytes:
    """A good record in which one feature has another name, or (None) is not there."""
    gone = maker.pick(maker.spec.features)
    renamed = {(rename(name) if name == gone else name): text for name, text in maker.fields().items()}
    return _text({name: text for name, text in renamed.items() if name is not None})


def _twice(maker: RecordMaker, *, first: str, last: str) -> bytes:
    name = json.dumps(maker.pick(maker.spec.features))
    return f"{{{name}:{first},{maker.good().value.decode()[1:-1]},{name}:{last}}}".encode()


def _escaped_keys(maker: RecordMaker) -> bytes:
    def escaped(name: str) -> str:
        units = name.encode("utf-16-be")
        return '"' + "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)) + '"'

    return ("{" + ",".join(f"{escaped(name)}:{text}" for name, text in maker.fields().items()) + "}").encode()


def _padded(maker: RecordMaker, size: int, column: str = UNKNOWN) -> bytes:
    """A record of exactly so many bytes."""
    fields = maker.fields({column: '""'})
    return _text(fields | {column: '"' + "x" * (size - len(_text(fields))) + '"'})


def _between(before: str, after: str) -> Callable[[RecordMaker], bytes]:
    return lambda maker: before.encode() + maker.good().value + after.encode()


_R = Reason
_KINDS: Final = (
    _Kind("empty", _R.EMPTY, lambda m: m.pick(("", " ", "\n", "\r\n\t ", " " * 300)).encode()),
    _Kind("byte order mark", _R.BYTE_ORDER_MARK, _between("\ufeff", "")),
    _Kind("byte order mark alone", _R.BYTE_ORDER_MARK, lambda _: b"\xef\xbb\xbf"),
    _Kind("UTF-16", _R.INVALID_UTF8, lambda m: b"\xff\xfe" + m.good().value.decode().encode("utf-16-le")),
    _Kind("invalid UTF-8", _R.INVALID_UTF8, _not_utf8),
    _Kind("nested too deep", _R.NESTED_TOO_DEEP, _too_deep),
    _Kind("cut", _R.INVALID_JSON, _cut),
    _Kind("no number", _R.INVALID_JSON, lambda m: m.with_feature(m.pick(_NO_NUMBERS))),
    _Kind("no number, elsewhere", _R.INVALID_JSON, lambda m: m.with_unknown(m.pick(_NO_NUMBERS))),
    _Kind("digits beyond a double", _R.INVALID_JSON, lambda m: m.with_feature("9" * m.rng.choice((310, 5000)))),
    _Kind("no string", _R.INVALID_JSON, lambda m: m.with_unknown(m.pick(_NO_STRINGS))),
    _Kind("control character", _R.INVALID_JSON, lambda m: m.with_unknown(f'"a{chr(m.rng.randrange(32))}b"')),
    _Kind("single quotes", _R.INVALID_JSON, lambda m: m.good().value.replace(b'"', b"'")),
    _Kind("bare keys", _R.INVALID_JSON, lambda m: b"{a:1," + m.good().value[1:]),
    _Kind(
        "comment", _R.INVALID_JSON, lambda m: b"{" + m.pick(("//x\n", "/*x*/", "#x\n")).encode() + m.good().value[1:]
    ),
    _Kind("comma too many", _R.INVALID_JSON, lambda m: m.good().value[:-1] + b",}"),
    _Kind("comma too few", _R.INVALID_JSON, lambda m: m.good().value[:-1] + b' "a":1}'),
    _Kind(
        "text after",
        _R.INVALID_JSON,
        lambda m: m.good().value + m.pick(("x", "\0", "}", "]", ",", "{}", "\f")).encode(),
    ),
    _Kind(
        "text before",
        _R.INVALID_JSON,
        lambda m: m.pick(("x", "\0", "]", ",", "{}", "\v", "\u00a0")).encode() + m.good().value,
    ),
    _Kind("two records", _R.INVALID_JSON, lambda m: m.good().value + m.pick(("", "\n")).encode() + m.good().value),
    _Kind("null bytes", _R.INVALID_JSON, lambda m: bytes(m.rng.randrange(1, 300))),
    _Kind("a word", _R.INVALID_JSON, lambda m: m.pick(("NaN", "Infinity", "nil", "AMZN,BUY,1,2", "<a/>")).encode()),
    _Kind(
        "a scalar", _R.NOT_AN_OBJECT, lambda m: m.pick(("null", "true", "false", "0", "-1.5", '"x"', '"{}"')).encode()
    ),
    _Kind("an array", _R.NOT_AN_OBJECT, lambda m: b"[" + m.good().value + b"]"),
    _Kind("no features", _R.MISSING_FEATURE, lambda m: m.pick(("{}", '{"a":1}', '{"":{}}')).encode()),
    _Kind("missing feature", _R.MISSING_FEATURE, lambda m: _without(m, lambda _: None)),
    _Kind(
        "misspelt feature",
        _R.MISSING_FEATURE,
        lambda m: _without(m, lambda name: m.pick((name + " ", name.swapcase() + "_"))),
    ),
    _Kind("null feature", _R.NULL_FEATURE, lambda m: m.with_feature("null")),
    _Kind("boolean feature", _R.BOOLEAN_FEATURE, lambda m: m.with_feature(m.pick(("true", "false")))),
    _Kind("feature of another type", _R.NOT_A_NUMBER, lambda m: m.with_feature(m.pick(_NOT_NUMBERS))),
    _Kind("twice, the last bad", _R.NULL_FEATURE, lambda m: _twice(m, first="1", last="null")),
    _Kind("twice, the last good", None, lambda m: _twice(m, first=m.pick(("null", '"x"', "[]")), last="1")),
    _Kind("odd integer", None, lambda m: m.with_feature(m.pick(_ODD_INTEGERS))),
    _Kind(
        "unknown column", None, lambda m: m.with_unknown(m.pick(("null", "[1,[2]]", '{"a":{}}', '"\\u0000"', "1e-999")))
    ),
    _Kind("levels in a string", None, lambda m: m.with_unknown('"' + "[{" * 500 + '\\"[\\\\"')),
    _Kind("as deep as may be", None, lambda m: m.with_unknown(_nested(m, DEPTH_MAX - 1))),
    _Kind("wide, not deep", None, lambda m: m.with_unknown("[" + "[]," * 300 + "{}]")),
    _Kind("escaped keys", None, _escaped_keys),
    _Kind("white space", None, _between(" \r\n\t", "\n \t")),
    _Kind("odd characters", None, lambda m: m.with_unknown('"\ufeff\x7f\u2028\\ud83d\\ude00\\/\uffff\U0010ffff"')),
    _Kind(
        "other columns of other types",
        None,
        lambda m: _text(m.fields(dict.fromkeys(m.others, m.pick(("null", "[]", "7", "true"))))),
    ),
)
_INTEGER_KINDS: Final = (
    _Kind("fraction in an integer", _R.NOT_AN_INTEGER, lambda m: m.with_feature(m.pick(_FRACTIONS), names=m.integers)),
)
_DOUBLE_KINDS: Final = (
    _Kind("odd number", None, lambda m: m.with_feature(m.pick((*_ODD_NUMBERS, *_FRACTIONS)), names=m.doubles)),
)
_LARGE_KINDS: Final = (
    _Kind("too large", _R.TOO_LARGE, lambda m: _padded(m, RECORD_BYTES_MAX + m.rng.choice((1, 2, 1000, 60_000)))),
    _Kind("too large, of nothing", _R.TOO_LARGE, lambda _: b" " * (RECORD_BYTES_MAX + 1)),
    _Kind("deep and large", _R.NESTED_TOO_DEEP, lambda _: b"[" * RECORD_BYTES_MAX),
    _Kind("as large as may be", None, lambda m: _padded(m, RECORD_BYTES_MAX)),
    _Kind("not UTF-8 at the end", _R.INVALID_UTF8, lambda m: _padded(m, RECORD_BYTES_MAX - 1) + b"\xff"),
)
_LINE_KINDS: Final = (
    _Kind("line too large", _R.ANOMALY_TOO_LARGE, lambda m: _padded(m, RECORD_BYTES_MAX, m.pick(m.others))),
    # 4 bytes here are 18 in the line: a double is written in its shortest form.
    _Kind(
        "line grown too large",
        _R.ANOMALY_TOO_LARGE,
        lambda m: _text(m.fields({m.pick(m.others): "[" + "1e15," * 80_000 + "0]"})),
    ),
)


def _flip(maker: RecordMaker, value: bytearray) -> None:
    if value:
        value[maker.rng.randrange(len(value))] ^= 1 << maker.rng.randrange(8)


def _drop(maker: RecordMaker, value: bytearray) -> None:
    first = maker.rng.randrange(len(value) + 1)
    del value[first : first + maker.rng.choice((1, 1, 2, 10))]


def _insert(maker: RecordMaker, value: bytearray) -> None:
    at = maker.rng.randrange(len(value) + 1)
    value[at:at] = maker.rng.choice((b'"', b",", b"{", b"]", b"0", b"-", b"e9", b"\\", b" ", b"\0", b"\xff", b"null"))


def _overwrite(maker: RecordMaker, value: bytearray) -> None:
    if value:
        value[maker.rng.randrange(len(value))] = maker.rng.randrange(256)


def _splice(maker: RecordMaker, value: bytearray) -> None:
    """The beginning of one record, the end of another: what a torn write leaves."""
    other = maker.good().value
    value[maker.rng.randrange(len(value) + 1) :] = other[maker.rng.randrange(len(other)) :]


def _repeat(maker: RecordMaker, value: bytearray) -> None:
    first, last = sorted(maker.rng.randrange(len(value) + 1) for _ in range(2))
    value[last:last] = value[first:last]


_ACCIDENTS: Final = (_flip, _flip, _drop, _insert, _overwrite, _splice, _repeat)
