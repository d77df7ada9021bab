"""Layouts in claims and objects: versions, one object a partition value, settings that change over a restart."""

import gzip
import re
import sys
import tracemalloc
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from pydantic import ValidationError

from cutbank.errors import PartitionStopped, UsageError
from cutbank.pipeline.sinking import prefix
from cutbank.pipeline.sinking.claims import (
    OBJECTS_MAX,
    OTHER_FIELDS,
    ChainId,
    Claim,
    DataObject,
    FirstRecord,
    Layout,
    decode,
    encode,
)
from cutbank.pipeline.sinking.prefix import MISSING
from cutbank.pipeline.sinking.rendering import content, is_content_of, lines
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Position
from cutbank.testing.faults import Crashed
from cutbank_sink.settings import SinkSettings
from sinking_world import World, anomaly, crashing, ids, stretch_of

GOLDEN = Path(__file__).parent / "golden"
CHAIN = ChainId("anomaly-extractor", "anomalies", "0")
COLUMNS = ("id", "symbol", "ANOMALY_SCORE", "ROWTIME", "SOURCE")
BY_SYMBOL = Layout(prefix="symbol=!{partitionKeyFromQuery:symbol}/", partition_keys=("symbol",))
BY_SYMBOL_GZIP = BY_SYMBOL.model_copy(update={"compression": "gzip"})
FULL = Layout(
    prefix="x/!{timestamp:yyyy-MM-dd}/!{partitionKeyFromQuery:symbol}/",
    zone="Asia/Tokyo",
    format="csv",
    compression="gzip",
    columns=COLUMNS,
    partition_keys=("symbol",),
    partition_values_max=3,
)
OTHERS = [
    Layout(prefix="yyyy/MM/dd/"),
    Layout(zone="Asia/Tokyo"),
    Layout(compression="gzip"),
    Layout(format="csv", columns=COLUMNS),
    BY_SYMBOL,
    FULL,
]

NEWEST = [
    Layout(compression="zstd"),
    Layout(format="csv", columns=COLUMNS, compression="zstd"),
    Layout(format="parquet", columns=("id", "SOURCE"), types=("BIGINT", "SOURCE")),
    Layout(format="parquet", columns=("id",), types=("TINYINT",), compression="gzip", prefix="x/"),
]


def example(layout: Layout = FULL, **changes: Any) -> Claim:
    objects = tuple(
        DataObject(
            key=f"x/2026-09-21/{value}/c-{ordinal}.csv.gz",
            count=1,
            line_bytes=9,
            sha256="ab" * 32,
            content_sha256="cd" * 32,
        )
        for ordinal, value in enumerate(("TSLA", "%C3%A4", "~rest"))
    )
    fields: dict[str, Any] = {
        "pipeline": CHAIN.pipeline,
        "stream": CHAIN.stream,
        "partition": CHAIN.partition,
        "start": Position(100),
        "end": Position(160),
        "minute_ms": 1_790_000_040_000,
        "layout": layout,
        "partition_values": ("TSLA", "%C3%A4"),
        "objects": objects,
        "first": FirstRecord(position=Position(101), sha256="cd" * 32),
        "marks_before": (),
        "marks_after": (),
        **changes,
    }
    return Claim(**fields)


def of_symbols(*symbols: Any, first: int = 0) -> list[bytes]:
    return [anomaly(n, columns={"symbol": symbol}) for n, symbol in enumerate(symbols, first)]


def test_each_layout_has_the_version_that_first_knew_it() -> None:
    assert Layout().version == 1
    assert [layout.version for layout in OTHERS] == [2] * len(OTHERS)
    assert [layout.version for layout in NEWEST] == [3] * len(NEWEST)
    for wrong in (
        {"version": 2},
        {"version": 1, "zone": "Asia/Tokyo"},
        {"version": 3},
        {"version": 2, "compression": "zstd"},
        {"version": 3, "compression": "gzip"},
        {"version": 4, "compression": "zstd"},
    ):
        with pytest.raises(ValidationError):
            Layout(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "csv"},
        {"columns": ("a",)},
        {"format": "csv", "columns": ("a", "a")},
        {"format": "csv", "columns": ("a", "")},
        {"format": "csv", "columns": ("a", OTHER_FIELDS)},
        {"format": "parquet"},
        {"format": "parquet", "columns": ("a", "b"), "types": ("DOUBLE",)},
        {"format": "parquet", "columns": ("a",), "types": ("DECIMAL",)},
        {"format": "csv", "columns": ("a",), "types": ("DOUBLE",)},
        {"types": ("DOUBLE",)},
        {"compression": "snappy"},
        {"partition_keys": ("a", "a")},
        {"partition_keys": ("",)},
        {"partition_values_max": 0},
        {"partition_values_max": OBJECTS_MAX},
        {"colour": "red"},
    ],
)
def test_a_layout_that_contradicts_itself_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Layout(**wrong)


def example_of_version_3() -> Claim:
    layout = Layout(
        prefix="x/!{firehose:random-string}/!{timestamp:yyyy-DDD}/!{partitionKeyFromQuery:symbol}/",
        zone="Asia/Tokyo",
        format="parquet",
        compression="zstd",
        columns=COLUMNS,
        types=("BIGINT", "VARCHAR", "DOUBLE", "TIMESTAMP", "SOURCE"),
        partition_keys=("symbol",),
    )
    objects = (
        DataObject(key="x/c-0.parquet", count=7, line_bytes=900, sha256="ab" * 32, content_sha256="cd" * 32),
        DataObject(key="x/c-1.parquet", count=1, line_bytes=90, sha256="ab" * 32, content_sha256="ef" * 32),
    )
    return example(layout, objects=objects)


def test_the_frozen_claim_of_version_3_still_reads_and_encodes_to_the_same_bytes() -> None:
    frozen = (GOLDEN / "claim-layout-v3.json").read_bytes()
    claim = example_of_version_3()
    assert decode(frozen, Claim, key=claim.key) == claim
    assert encode(claim) == frozen


def test_the_frozen_claim_of_version_2_still_reads_and_encodes_to_the_same_bytes() -> None:
    frozen = (GOLDEN / "claim-layout-v2.json").read_bytes()
    assert decode(frozen, Claim, key=example().key) == example()
    assert encode(example()) == frozen


def test_a_layout_of_a_later_version_is_refused() -> None:
    document = orjson.loads(encode(example()))
    document["layout"] |= {"version": 4, "sorting": "none"}
    with pytest.raises(PartitionStopped, match=r"layout version 4 is newer than this program's \(3\)"):
        decode(orjson.dumps(document), Claim, key=example().key)


@pytest.mark.parametrize(
    "changes",
    [
        {"partition_values": ()},
        {"partition_values": ("TSLA",)},
        {"partition_values": ("a", "b", "c", "d")},
        {"partition_values": ("a", "a")},
        {"layout": Layout(prefix="yyyy/", compression="gzip")},
        {"layout": Layout(format="csv", columns=("a",))},
        {"objects": (), "first": None},
    ],
)
def test_values_and_objects_belong_together(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        example(**changes)


def test_each_value_has_an_object_and_those_beyond_the_limit_share_one() -> None:
    layout = BY_SYMBOL.model_copy(update={"partition_values_max": 3})
    values = of_symbols("b", "a", "b", None, "c", "a", "d", 7)
    claim, bodies = stretch_of(layout, values).claim(CHAIN, spec_hash=None)
    assert claim.partition_values == ("b", "a", MISSING)
    found = {
        item.key.split("/")[0]: ids(body.split(b"\n")[:-1]) for item, body in zip(claim.objects, bodies, strict=True)
    }
    assert found == {"symbol=b": [0, 2], "symbol=a": [1, 5], f"symbol={MISSING}": [3], "symbol=~rest": [4, 6, 7]}
    assert [item.key.rsplit("-", 1)[1] for item in claim.objects] == ["0.json", "1.json", "2.json", "3.json"]
    assert decode(encode(claim), Claim, key=claim.key) == claim


def test_what_is_not_ours_has_a_value_too() -> None:
    values = [b"nonsense", b'{"symbol":"x"}', anomaly(1, columns={"symbol": "x"})]
    claim, bodies = stretch_of(BY_SYMBOL, values).claim(CHAIN, spec_hash=None)
    assert claim.partition_values == (MISSING, "x")
    assert [body.count(b"\n") for body in bodies] == [1, 2]


@pytest.mark.parametrize(
    "symbol", ["..", "/", "_cutbank", ".cutbank-tmp", "x" * 5000, "\U0001f600" * 300, "a\x00b", "%"]
)
def test_no_value_leads_out_of_its_folder(symbol: str) -> None:
    layout = Layout(prefix="!{partitionKeyFromQuery:symbol}/", partition_keys=("symbol",))
    claim, _ = stretch_of(layout, of_symbols(symbol)).claim(CHAIN, spec_hash=None)
    assert claim.objects[0].key.count("/") == 5


@pytest.mark.parametrize("layout", OTHERS, ids=range(len(OTHERS)))
@pytest.mark.parametrize("padding", [0, 1000])
def test_held_bytes_are_at_least_what_a_stretch_and_its_bodies_take(layout: Layout, padding: int) -> None:
    values = [anomaly(n, columns={"symbol": f"s{n % 50}"}) + b" " * padding for n in range(5_000)]
    own_bytes = sum(map(sys.getsizeof, values))
    tracemalloc.start()
    try:
        stretch = stretch_of(layout, values)
        claim, _ = stretch.claim(CHAIN, spec_hash=None)
        peak_bytes = tracemalloc.get_traced_memory()[1] + own_bytes
    finally:
        tracemalloc.stop()
    assert claim.records == len(values)
    # Formatting and packing hold one piece more, whatever the stretch.
    assert peak_bytes <= stretch.held_bytes + (1 << 20)


async def test_an_object_is_as_the_layout_says(world: World) -> None:
    await world.publish(*of_symbols("TSLA", "AMZN", "TSLA", "AAPL", "ä", "IBM"), minute=0)
    await world.sink_all(layout=FULL)
    (claim,) = await world.claims()
    (key,) = [item.key for item in claim.objects if "/TSLA/" in item.key]
    assert re.fullmatch(r"x/20\d\d-\d\d-\d\d/TSLA/p-anomalies-0-0-0\.csv\.gz", key)
    text = gzip.decompress(await world.store.read(key)).decode()
    assert text.split("\r\n")[0] == "id,symbol,ANOMALY_SCORE,ROWTIME,SOURCE,OTHER_FIELDS"
    assert [row.split(",")[:2] for row in text.split("\r\n")[1:-1]] == [["0", "TSLA"], ["2", "TSLA"]]
    assert claim.partition_values == ("TSLA", "AMZN", "AAPL")
    assert sorted(ids(await world.lines())) == list(range(6))
    await world.check_whole()


@pytest.mark.parametrize("layout", OTHERS, ids=range(len(OTHERS)))
@pytest.mark.parametrize("after", [False, True])
async def test_the_next_owner_finishes_as_it_was_begun_and_then_changes(
    world: World, layout: Layout, *, after: bool
) -> None:
    """Killed between claim and object, or right after it; the next owner has every other setting."""
    for begun, next_layout in ((Layout(), layout), (layout, Layout(compression="gzip", prefix="z/"))):
        claims, number = len(await world.claims()), len(await world.lines())
        await world.publish(*of_symbols(*"abc", first=number))
        with pytest.raises(Crashed):
            await crashed_at_object(world, begun, born=claims > 0, after=after)
        world.clock.jump_wall(60_000)
        await world.publish(*of_symbols("a", first=number + 3))
        await world.sink_all(layout=next_layout)
        assert [claim.layout for claim in (await world.claims())[claims:]] == [begun, next_layout]
        await world.check_whole()
    assert sorted(ids(await world.lines())) == list(range(8))


async def crashed_at_object(world: World, layout: Layout, *, born: bool, after: bool) -> None:
    store = crashing(world, at=1 if born else 2, after=after)
    async with world.sinking(store=store, layout=layout, flush_on_stop=True, stretch_records_max=3) as running:
        await world.until(world.all_committed, running)


@pytest.mark.parametrize("killed_at", [0, 1, 24, 49])
@pytest.mark.parametrize("after", [False, True])
async def test_killed_with_50_partition_values_open(world: World, killed_at: int, *, after: bool) -> None:
    symbols = [f"s{n % 50}" for n in range(120)]
    await world.publish(*of_symbols(*symbols), minute=0)
    await world.publish(anomaly(500, columns={"symbol": "s0"}), minute=1)
    store = crashing(world, at=2 + killed_at, after=after)
    with pytest.raises(Crashed):
        async with world.sinking(store=store, layout=BY_SYMBOL) as running:
            await world.until(world.all_committed, running)
    there = {key: await world.store.read(key) for key in await world.objects()}
    assert (store.struck[0] in there) is after
    assert len(there) < 50 or (killed_at, after) == (49, True)
    await world.sink_all(layout=FULL)
    claims = await world.claims()
    assert [claim.layout for claim in claims] == [BY_SYMBOL, FULL]
    assert claims[0].partition_values == tuple(f"s{n}" for n in range(50))
    assert len(claims[0].objects) == 50
    assert {key: await world.store.read(key) for key in there} == there
    assert sorted(ids(await world.lines())) == [*range(120), 500]
    await world.check_whole()


@pytest.mark.parametrize(
    "layout",
    [
        {"compression": "gzip"},
        {"compression": "zstd", "format": "csv", "columns": COLUMNS},
        {
            "compression": "zstd",
            "format": "parquet",
            "columns": COLUMNS,
            "types": ("BIGINT", "VARCHAR", "DOUBLE", "TIMESTAMP", "SOURCE"),
        },
    ],
    ids=lambda layout: layout.get("format", "ndjson"),
)
def test_as_many_objects_as_a_claim_may_have(layout: dict[str, Any]) -> None:
    """999 values with an object each, and one for the rest; what it takes was counted beforehand."""
    most = OBJECTS_MAX - 1
    whole = Layout(**{**BY_SYMBOL.model_dump(exclude={"version"}), **layout, "partition_values_max": most})
    values = of_symbols(*(f"s{n % 1200}" for n in range(2400)))
    stretch = stretch_of(whole, values)
    held = stretch.held_bytes
    claim, bodies = stretch.claim(CHAIN, spec_hash=None)
    assert len(claim.objects) == len(bodies) == OBJECTS_MAX
    assert [item.count for item in claim.objects] == [2] * most + [2400 - 2 * most]
    assert "symbol=~rest/" in claim.objects[-1].key
    assert sum(map(len, bodies)) + stretch.line_bytes <= held
    assert all(is_content_of(whole, item, body) for item, body in zip(claim.objects, bodies, strict=True))
    assert stretch_of(whole, values).bodies_of(claim) == bodies
    found = [lines(whole, content(whole, body)) for body in bodies]
    assert sorted(ids([line for texts in found for line in texts])) == list(range(2400))


async def one_of_two_objects(world: World, layout: Layout) -> str:
    """The key of the only object that is there, of a claim with two, whose maker is dead."""
    store = crashing(world, at=3, after=True)
    with pytest.raises(Crashed):
        async with world.sinking(store=store, layout=layout) as running:
            await world.until(world.all_committed, running)
    (claim,) = await world.claims()
    (key,) = store.struck
    for item in claim.objects:
        if item.key != key and await world.store.exists(item.key):
            await world.store.delete(item.key)
    return key


async def test_what_another_zlib_packed_is_the_same_object(world: World) -> None:
    """The claim's maker died between object and commit; the next owner packs tighter, and is content."""
    layout = BY_SYMBOL_GZIP
    await world.publish(*of_symbols("a", "b"), minute=0)
    key = await one_of_two_objects(world, layout)
    plain = content(layout, await world.store.read(key))
    await world.store.delete(key)
    packed = gzip.compress(plain, 1, mtime=1)
    await world.store.create(key, packed)
    await world.sink_all(layout=layout)
    assert await world.store.read(key) == packed, "an object never changes"
    await world.check_whole()


@pytest.mark.parametrize("layout", [BY_SYMBOL, BY_SYMBOL_GZIP, FULL], ids=range(3))
async def test_an_object_of_other_content_stops_the_partition(world: World, layout: Layout) -> None:
    await world.publish(*of_symbols("a", "b"), minute=0)
    key = await one_of_two_objects(world, layout)
    body = await world.store.read(key)
    await world.store.delete(key)
    await world.store.create(key, body[: len(body) // 2])
    with pytest.raises(PartitionStopped, match="other content than its claim says"):
        await world.sink_all(layout=layout)


async def test_a_claim_is_finished_where_its_zone_is_not_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys are the claim's, so other rules of the zone, or none, change nothing."""
    layout = Layout(zone="Asia/Tokyo", prefix="yyyy/MM/dd/HH/mm/")
    await world.publish(*of_symbols("a"), minute=0)
    with pytest.raises(Crashed):
        async with world.sinking(store=crashing(world, at=2), layout=layout) as running:
            await world.until(world.all_committed, running)
    monkeypatch.setattr("cutbank.pipeline.sinking.prefix.ZoneInfo", {"UTC": ZoneInfo("UTC")}.__getitem__)
    prefix._zone.cache_clear()
    with pytest.raises(UsageError, match="Asia/Tokyo"):
        await world.sink_all(layout=layout)
    await world.publish(*of_symbols("b", first=1), minute=1)
    await world.sink_all(layout=Layout())
    assert [claim.layout for claim in await world.claims()] == [layout, Layout()]
    await world.check_whole()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Layout()),
        ({"CUTBANK_PREFIX": "x/"}, Layout(prefix="x/")),
        (
            {"CUTBANK_TIMEZONE": "Asia/Tokyo", "CUTBANK_COMPRESSION": "gzip"},
            Layout(zone="Asia/Tokyo", compression="gzip"),
        ),
        (
            {"CUTBANK_FORMAT": "csv"},
            Layout(
                format="csv",
                columns=("tickerSymbol", "tradeType", "price", "quantity", "id", "ANOMALY_SCORE", "ROWTIME", "SOURCE"),
            ),
        ),
        (
            {"CUTBANK_PREFIX": "!{partitionKeyFromQuery:tradeType}/", "CUTBANK_PARTITION_VALUES_MAX": "9"},
            Layout(prefix="!{partitionKeyFromQuery:tradeType}/", partition_keys=("tradeType",), partition_values_max=9),
        ),
        (
            {
                "CUTBANK_PREFIX": "!{partitionKeyFromQuery:tradeType}/!{partitionKeyFromQuery:SOURCE.partition}/",
                "CUTBANK_PARTITION_KEYS": "SOURCE.partition, tradeType",
            },
            Layout(
                prefix="!{partitionKeyFromQuery:tradeType}/!{partitionKeyFromQuery:SOURCE.partition}/",
                partition_keys=("SOURCE.partition", "tradeType"),
            ),
        ),
        ({"CUTBANK_PARTITION_VALUES_MAX": "9"}, Layout()),
        ({"CUTBANK_COMPRESSION": "zstd"}, Layout(compression="zstd")),
        (
            {"CUTBANK_FORMAT": "parquet", "CUTBANK_COMPRESSION": "zstd"},
            Layout(
                format="parquet",
                compression="zstd",
                columns=("tickerSymbol", "tradeType", "price", "quantity", "id", "ANOMALY_SCORE", "ROWTIME", "SOURCE"),
                types=("VARCHAR", "VARCHAR", "DOUBLE", "INTEGER", "INTEGER", "DOUBLE", "TIMESTAMP", "SOURCE"),
            ),
        ),
        (
            {"CUTBANK_PREFIX": "!{firehose:random-string}/!{timestamp:yyyy/DDD}/"},
            Layout(prefix="!{firehose:random-string}/!{timestamp:yyyy/DDD}/"),
        ),
    ],
    ids=range(10),
)
def test_the_services_settings_become_a_layout(environ: dict[str, str], expected: Layout) -> None:
    assert SinkSettings.load(environ).config(PipelineSpec()).layout == expected


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"CUTBANK_PREFIX": "yyyy/hh/"}, "understood are"),
        ({"CUTBANK_PREFIX": "!{partitionKeyFromQuery:symbol}/"}, "'symbol' is not a column; columns are tickerSymbol,"),
        ({"CUTBANK_PARTITION_KEYS": "tradeType"}, "names the partition keys none"),
        ({"CUTBANK_TIMEZONE": "Mars/Olympus"}, "IANA"),
        ({"CUTBANK_TIMEZONE": "a b"}, "zone"),
        ({"CUTBANK_PARTITION_VALUES_MAX": "1000"}, "CUTBANK_PARTITION_VALUES_MAX"),
        ({"CUTBANK_COMPRESSION": "snappy"}, "CUTBANK_COMPRESSION"),
        ({"CUTBANK_FORMAT": "orc"}, "CUTBANK_FORMAT"),
    ],
)
def test_wrong_settings_are_one_clear_line(environ: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        SinkSettings.load(environ).config(PipelineSpec())
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "version" not in str(caught.value)  # it follows from the others, and nobody sets it
