"""Any mix of layouts over crashes and restarts: what is decoded from all objects is what came in, each once."""

import asyncio
import tempfile
from pathlib import Path
from typing import Literal

import orjson
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cutbank.pipeline.sinking.claims import ChainId, Claim, ColumnType, Layout, decode, encode
from cutbank.pipeline.sinking.rendering import content, content_bytes_max, is_content_of, lines
from cutbank.testing.faults import Crashed
from sinking_world import World, anomaly, crashing, ids, stretch_of

COLUMNS = ("id", "symbol", "ANOMALY_SCORE", "ROWTIME", "SOURCE")
TYPES: dict[str, ColumnType] = {
    "id": "SMALLINT",
    "symbol": "VARCHAR",
    "ANOMALY_SCORE": "DOUBLE",
    "ROWTIME": "TIMESTAMP",
    "SOURCE": "SOURCE",
}
PREFIXES = ("yyyy/MM/dd/HH/", "!{firehose:random-string}/x/", "!{timestamp:yyyy-MMM}/HH/", "'d='dd/HHmm/yyyy/")
BY_VALUE = (
    (("symbol",), "s=!{partitionKeyFromQuery:symbol}/"),
    (("id", "symbol"), "!{partitionKeyFromQuery:symbol}/!{partitionKeyFromQuery:id}/!{timestamp:yyyy}/"),
)


def layout_of(
    partitioned: bool,  # noqa: FBT001  # as drawn
    which: int,
    zone: str,
    columns: tuple[str, ...],
    typed: bool,  # noqa: FBT001
    packed: Literal["none", "gzip", "zstd"],
    most: int,
) -> Layout:
    keys, prefix = BY_VALUE[which % len(BY_VALUE)] if partitioned else ((), PREFIXES[which])
    return Layout(
        prefix=prefix,
        zone=zone,
        format="ndjson" if not columns else "parquet" if typed else "csv",
        columns=columns,
        types=tuple(TYPES[name] for name in columns) if typed else (),
        compression=packed,
        partition_keys=keys,
        partition_values_max=most if keys else 500,
    )


LAYOUTS = st.builds(
    layout_of,
    st.booleans(),
    st.integers(0, len(PREFIXES) - 1),
    st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York"]),
    st.sampled_from([(), COLUMNS, ("SOURCE",)]),
    st.booleans(),
    st.sampled_from(["none", "gzip", "zstd"]),
    st.integers(1, 4),
)
SYMBOLS = st.one_of(
    st.none(), st.sampled_from(["a", "b", "~rest", "", ".."]), st.text(max_size=3), st.integers(-9, 2**64 - 1)
)
CRASHES = st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(1, 6), LAYOUTS), max_size=4)
"""Lives of sinks that end in a crash: at which create, before or after it is done, their limit and their layout."""


async def live_and_die(
    folder: Path,
    batches: list[tuple[list[object], int]],
    crashes: list[tuple[int, bool, int, Layout]],
    last: Layout,
) -> None:
    async with World(folder) as world:
        total = 0
        for symbols, minutes in batches:
            world.clock.jump_wall(60_000 * minutes)
            values = [anomaly(n, columns={"symbol": symbol}) for n, symbol in enumerate(symbols, total)]
            await world.publish(*values, values[0])  # one delivered again
            total += len(values)
        for at, after, records_max, layout in crashes:
            store = crashing(world, at=at, after=after)
            try:
                async with world.sinking(store=store, stretch_records_max=records_max, layout=layout) as running:
                    await world.until(world.all_committed, running)
            except Crashed:
                continue
        await world.sink_all(layout=last)
        found = [orjson.loads(line)["SOURCE"]["position"] for line in await world.lines()]
        assert sorted(map(int, found)) == list(range(total))
        await world.check_whole()
        begun = [layout for *_, layout in crashes] + [last]
        assert all(claim.layout in begun for claim in await world.claims())


@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(
    batches=st.lists(st.tuples(st.lists(SYMBOLS, min_size=1, max_size=6), st.integers(0, 2)), min_size=1, max_size=4),
    crashes=CRASHES,
    last=LAYOUTS,
)
def test_settings_that_change_over_crashes_lose_and_repeat_nothing(
    batches: list[tuple[list[object], int]], crashes: list[tuple[int, bool, int, Layout]], last: Layout
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live_and_die(Path(folder), batches, crashes, last))


FIELDS = st.dictionaries(
    st.one_of(st.sampled_from(["id", "symbol", "a"]), st.text(max_size=3)),
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**53), 2**64 - 1),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(),
        ),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        max_leaves=8,
    ),
    max_size=6,
)
VALUES = st.one_of(
    FIELDS.map(orjson.dumps),
    FIELDS.map(lambda fields: orjson.dumps(fields, option=orjson.OPT_INDENT_2)),
    st.binary(max_size=20),
)


@settings(deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=12), layout=LAYOUTS)
def test_whatever_a_record_is_its_line_is_in_one_object_and_the_claim_can_be_made_again(
    values: list[bytes], layout: Layout
) -> None:
    plain, plain_bodies = stretch_of(Layout(), values).claim(ChainId("p", "anomalies", "0"), spec_hash=None)
    claim, bodies = stretch_of(layout, values).claim(ChainId("p", "anomalies", "0"), spec_hash=None)
    assert decode(encode(claim), Claim, key=claim.key) == claim
    assert stretch_of(layout, values).bodies_of(claim) == bodies
    assert stretch_of(layout, [*values[:-1], values[-1] + b" x"]).bodies_of(claim) is None
    assert (claim.records, claim.line_bytes) == (plain.records, plain.line_bytes)
    assert claim.objects[0].key.count("//") == 0
    found = []
    for item, body in zip(claim.objects, bodies, strict=True):
        assert is_content_of(layout, item, body)
        bytes_max = content_bytes_max(layout, count=item.count, line_bytes=item.line_bytes)
        of_object = lines(layout, content(layout, body, bytes_max=bytes_max))
        assert len(of_object) == item.count
        found += of_object
    expected = plain_bodies[0].removesuffix(b"\n").split(b"\n")
    if layout.format != "csv":
        assert sorted(found) == sorted(expected)
    else:
        assert sorted(map(shape, found)) == sorted(map(shape, expected))


def shape(line: bytes) -> str:
    """What CSV keeps of a record: values that are no text, and what was text or nothing."""
    fields = orjson.loads(line)
    return repr(sorted((name, text_of(value)) for name, value in fields.items() if value not in (None, "")))


def text_of(value: object) -> str:
    """As a cell has it: a text may read as another type later."""
    if isinstance(value, str):
        try:
            return orjson.dumps(orjson.loads(value)).decode()
        except orjson.JSONDecodeError:
            return value
    return orjson.dumps(value).decode()


def test_the_world_of_these_tests_knows_a_loss() -> None:
    """The comparison above would fail with one line less."""
    assert shape(b'{"a":"x","b":null}') == shape(b'{"a":"x"}')
    assert shape(b'{"a":"x","b":1}') != shape(b'{"a":"x"}')
    assert ids([b'{"id":1}']) == [1]
