"""A period out of the objects: the edges of time, lines that came late, pipelines, what is missing or damaged."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import ObjectMissing, UsageError
from cutbank.metrics import NoMetrics
from cutbank.objects.filesystem import FileSystemStore
from cutbank.pipeline.querying import Database, Limits, Period, Request, Taken, anomalies_table, claimed, taking
from cutbank.pipeline.querying.period import LATE_MS
from cutbank.pipeline.querying.taking import take
from cutbank.pipeline.sinking.claims import ChainId, Claim, Lost, encode
from sunk_root import A_MINUTE, MINUTES, sunk
from written_root import CHAIN, MINUTE_MS, SPEC, START_MS, layout, stock, write

pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'cutbank[query]'")

TABLE = anomalies_table(SPEC)


def store_at(folder: Path) -> FileSystemStore:
    return FileSystemStore(folder, clock=SystemClock(), metrics=NoMetrics())


def at_ms(minute: int, ms: int = 0) -> int:
    return START_MS + minute * MINUTE_MS + ms


def taken(
    folder: Path,
    period: Period | None = None,
    *,
    pipelines: Sequence[str] = (SPEC.name,),
    read_bytes_max: int = 1 << 40,
) -> tuple[list[int], Taken]:
    """The ids of the rows, and what was read."""

    async def run() -> tuple[list[int], Taken]:
        with Database([TABLE], limits=Limits(), folder=folder) as database:
            request = Request(
                pipelines=tuple(pipelines),
                streams=((SPEC.destination, TABLE),),
                period=period or Period(),
                read_bytes_max=read_bytes_max,
            )
            found = await take(store_at(folder), database, request, progress=lambda _: None)
            rows = database.run("SELECT id FROM anomalies ORDER BY id").rows
            return [row[0] for portion in rows for row in portion], found

    return asyncio.run(run())


def written(folder: Path, minutes: dict[int, list[bytes]], chain: ChainId = CHAIN) -> list[Claim]:
    return asyncio.run(write(store_at(folder), minutes, chain=chain))


def test_a_period_holds_its_first_millisecond_and_not_its_last(tmp_path: Path) -> None:
    times = [at_ms(1, -1), at_ms(1), at_ms(1, 1), at_ms(2, -1), at_ms(2)]
    written(tmp_path, {0: [stock(0, times[0])], 1: [stock(n, times[n]) for n in (1, 2, 3)], 2: [stock(4, times[4])]})
    assert taken(tmp_path, Period(at_ms(1), at_ms(2)))[0] == [1, 2, 3]
    assert taken(tmp_path, Period(at_ms(1), None))[0] == [1, 2, 3, 4]
    assert taken(tmp_path, Period(None, at_ms(1)))[0] == [0]
    assert taken(tmp_path)[0] == [0, 1, 2, 3, 4]


def test_lines_that_arrived_long_after_their_time_are_found(tmp_path: Path) -> None:
    """The scorer was away for three hours: the first claim after the period goes on where it ended."""
    late = {180 + n: [stock(10 + n, at_ms(1 + n, 5))] for n in range(4)}
    written(tmp_path, {0: [stock(0, at_ms(0, 5))], **late, 200: [stock(99, at_ms(200))]})
    assert taken(tmp_path, Period(at_ms(0), at_ms(3)))[0] == [0, 10, 11]


def test_a_source_partition_that_is_behind_is_waited_for(tmp_path: Path) -> None:
    minutes = LATE_MS // MINUTE_MS
    ahead = {n: [stock(n, at_ms(n))] for n in range(1, minutes)}
    behind = {minutes: [stock(100, at_ms(0, 7))], 2 * minutes - 1: [stock(101, at_ms(0, 8))]}
    too_late = {3 * minutes: [stock(102, at_ms(0, 9))]}
    written(tmp_path, {0: [stock(0, at_ms(0))], **ahead, **behind, **too_late})
    assert taken(tmp_path, Period(at_ms(0), at_ms(1)))[0] == [0, 100, 101]


def test_a_clock_that_is_behind_the_sources_is_allowed_for(tmp_path: Path) -> None:
    written(tmp_path, {0: [stock(0, at_ms(0))], 4: [stock(1, at_ms(5, 300))]})
    assert taken(tmp_path, Period(at_ms(5), at_ms(6)))[0] == [1]


def test_so_it_is_where_a_period_begins_within_a_minute(tmp_path: Path) -> None:
    """What arrived in the last second of minute 4 is in the claim of minute 4, however late its own time."""
    written(tmp_path, {0: [stock(0, at_ms(0))], 4: [stock(1, at_ms(5, 31_000))]})
    assert taken(tmp_path, Period(at_ms(5, 30_000), at_ms(6)))[0] == [1]


def test_a_line_without_a_time_is_of_its_claims_minute(tmp_path: Path) -> None:
    foreign = [b'{"id":1}', b'{"id":2,"ROWTIME":"soon"}']
    written(tmp_path, {0: [stock(0, at_ms(0))], 1: foreign, 2: [stock(3, at_ms(2))]})
    assert taken(tmp_path, Period(at_ms(1), at_ms(2)))[0] == [1, 2]
    assert taken(tmp_path, Period(at_ms(1, 1), at_ms(2)))[0] == []


def test_pipelines_on_one_root_are_apart_unless_asked_for(tmp_path: Path) -> None:
    written(tmp_path, {0: [stock(0, at_ms(0))]})
    written(tmp_path, {0: [stock(1, at_ms(0))]}, ChainId("staging", SPEC.destination, "0"))
    written(tmp_path, {0: [stock(2, at_ms(0))]}, ChainId(SPEC.name, SPEC.destination, "7"))
    assert taken(tmp_path)[0] == [0, 2]
    assert taken(tmp_path, pipelines=[SPEC.name, "staging"])[0] == [0, 1, 2]
    with pytest.raises(UsageError, match="there are: anomaly-extractor/anomalies, staging/anomalies; --pipeline or"):
        taken(tmp_path, pipelines=["prod"])


def test_a_missing_a_cut_and_a_changed_object_are_told_and_give_no_rows(tmp_path: Path) -> None:
    claims = written(tmp_path, {n: [stock(n, at_ms(n)), stock(n + 10, at_ms(n))] for n in range(5)})
    paths = [tmp_path / claim.objects[0].key for claim in claims]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-3])
    paths[2].write_bytes(paths[2].read_bytes().replace(b"BUY", b"BYE"))
    (tmp_path / claims[3].key).write_bytes(b"{}")
    ids, found = taken(tmp_path)
    assert ids == [4, 14]
    assert found.troubles_count == 4
    told = {trouble.key: trouble.why for trouble in found.troubles}
    assert told[claims[0].objects[0].key] == "missing"
    assert "not as its claim says" in told[claims[1].objects[0].key]
    assert "not as its claim says" in told[claims[2].objects[0].key]
    assert "unreadable claim" in told[claims[3].key]


def test_the_newest_object_is_looked_for_twice(tmp_path: Path) -> None:
    claims = written(tmp_path, {n: [stock(n, at_ms(n))] for n in range(2)})
    path = tmp_path / claims[1].objects[0].key
    body = path.read_bytes()
    path.unlink()
    assert "not there yet" in taken(tmp_path)[1].troubles[0].why

    looks = []

    class Late(FileSystemStore):
        """Its sink puts the object just after somebody has looked for it."""

        async def read(self, key: str) -> bytes:
            if not key.startswith("_cutbank"):
                looks.append(key)
            try:
                return await super().read(key)
            except ObjectMissing:
                path.write_bytes(body)
                raise

    async def run() -> Taken:
        with Database([TABLE], limits=Limits(), folder=tmp_path) as database:
            store = Late(tmp_path, clock=SystemClock(), metrics=NoMetrics())
            request = Request((SPEC.name,), ((SPEC.destination, TABLE),))
            return await take(store, database, request, progress=lambda _: None)

    found = asyncio.run(run())
    assert (found.rows, found.troubles_count) == (2, 0)
    assert looks == [claims[0].objects[0].key, claims[1].objects[0].key, claims[1].objects[0].key]


def test_what_was_given_up_is_counted_and_no_trouble(tmp_path: Path) -> None:
    claims = written(tmp_path, {n: [stock(n, at_ms(n))] for n in range(3)})
    lost = claims[1]
    (tmp_path / lost.objects[0].key).unlink()
    document = Lost(
        pipeline=lost.pipeline,
        stream=lost.stream,
        partition=lost.partition,
        start=lost.start,
        end=lost.end,
        missing=(lost.objects[0].key,),
        why="a test",
    )
    (tmp_path / document.key).write_bytes(encode(document))
    ids, found = taken(tmp_path)
    assert (ids, found.given_up, found.troubles_count) == ([0, 2], 1, 0)


def test_more_bytes_than_allowed_are_refused_before_they_are_read(tmp_path: Path) -> None:
    claims = written(tmp_path, {n: [stock(n, at_ms(n))] for n in range(3)})
    size = sum(claim.line_bytes for claim in claims)
    for claim in claims:
        (tmp_path / claim.objects[0].key).unlink()
    assert taken(tmp_path, read_bytes_max=size)[1].troubles_count == 3
    with pytest.raises(UsageError, match="bring --from and --to closer together"):
        taken(tmp_path, read_bytes_max=size - 1)


def test_more_objects_than_allowed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, {n: [stock(n, at_ms(n))] for n in range(3)})
    monkeypatch.setattr(taking, "OBJECTS_MAX", 3)
    assert taken(tmp_path)[0] == [0, 1, 2]
    monkeypatch.setattr(taking, "OBJECTS_MAX", 2)
    with pytest.raises(UsageError, match="more than 2 objects"):
        taken(tmp_path)


def test_troubles_beyond_the_first_are_counted(tmp_path: Path) -> None:
    claims = written(tmp_path, {n: [stock(n, at_ms(n))] for n in range(taking.TROUBLES_MAX + 3)})
    for claim in claims[:-1]:
        (tmp_path / claim.objects[0].key).unlink()
    found = taken(tmp_path)[1]
    assert (len(found.troubles), found.troubles_count) == (taking.TROUBLES_MAX, taking.TROUBLES_MAX + 2)


@pytest.mark.parametrize("count_max", [1, 16])
@pytest.mark.parametrize("bytes_max", [1, 64 << 20])
def test_reading_ahead_keeps_to_its_limits_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count_max: int, bytes_max: int
) -> None:
    written(tmp_path, {n: [stock(n, at_ms(n))] for n in range(30)})
    monkeypatch.setattr(taking, "AHEAD_MAX", count_max)
    monkeypatch.setattr(taking, "AHEAD_BYTES_MAX", bytes_max)
    reading = most = 0
    plain = FileSystemStore.read

    async def read(self: FileSystemStore, key: str) -> bytes:
        nonlocal reading, most
        if key.startswith("_cutbank"):
            return await plain(self, key)
        reading += 1
        most = max(most, reading)
        try:
            return await plain(self, key)
        finally:
            reading -= 1

    monkeypatch.setattr(FileSystemStore, "read", read)
    assert taken(tmp_path)[0] == list(range(30))
    assert most <= (count_max if bytes_max > 1 else 1)


def test_a_listing_ends_soon_after_the_period(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimed, "LOOK_FIRST", 4)
    written(tmp_path, {n: [stock(n, at_ms(n))] for n in range(100)})
    links = asyncio.run(claimed.listed(store_at(tmp_path), CHAIN, minute_first_ms=at_ms(90)))
    assert len(links.starts) == 16
    assert taken(tmp_path, Period(at_ms(90), at_ms(95)))[0] == list(range(90, 95))


@pytest.mark.parametrize("packed", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
def test_every_layout_is_read(tmp_path: Path, form: str, packed: str) -> None:
    lines = {n: [stock(10 * n + k, at_ms(n, k)) for k in range(3)] for n in range(2)}
    asyncio.run(write(store_at(tmp_path), lines, laid_out=layout(form, packed)))
    assert taken(tmp_path)[0] == [0, 1, 2, 10, 11, 12]


def test_layouts_may_change_on_the_way(tmp_path: Path) -> None:
    laid_out = {0: layout("csv", "gzip"), 1: layout(prefix="x/!{timestamp:yyyy-MM-dd}/"), 2: layout("parquet")}
    asyncio.run(write(store_at(tmp_path), {n: [stock(n, at_ms(n))] for n in range(3)}, laid_out=laid_out))
    assert taken(tmp_path)[0] == [0, 1, 2]


def test_what_a_sink_has_written_by_partition_values_is_read_whole(tmp_path: Path) -> None:
    prefix = "symbol=!{partitionKeyFromQuery:id}/!{timestamp:yyyy/MM/dd}/"
    root = sunk(tmp_path, layout=layout(prefix=prefix, partition_keys=("id",), partition_values_max=3))
    ids, found = taken(root, pipelines=["p"])
    assert ids == list(range(MINUTES * A_MINUTE))
    assert (found.objects, found.troubles_count) == (MINUTES * 4, 0)
