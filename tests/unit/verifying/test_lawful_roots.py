"""What is lawful is clean: losses that were said, two pipelines on one root, several chains, every layout, a sink at
work. And a span of time is audited as if there were nothing else."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cutbank.cli import main
from cutbank.cli.times import time_text
from cutbank.pipeline.sinking import Layout
from cutbank.pipeline.sinking.claims import ChainId
from cutbank.pipeline.sinking.rendering import content, lines, render
from cutbank.pipeline.verifying import Scope, verify
from sinking_world import STREAM, World
from sunk_root import A_MINUTE, MINUTES, Late, anomalies, at_ms, audited, claims, data_file, names, rewrite, sunk

LAYOUTS = {
    "gzip": Layout(compression="gzip"),
    "csv": Layout(format="csv", columns=("id", "ANOMALY_SCORE", "ROWTIME", "SOURCE")),
    "csv gzip": Layout(format="csv", compression="gzip", columns=("id", "ANOMALY_SCORE", "ROWTIME", "SOURCE")),
    "zstd": Layout(compression="zstd"),
    "parquet gzip": Layout(
        format="parquet",
        compression="gzip",
        columns=("id", "ANOMALY_SCORE", "ROWTIME", "SOURCE"),
        types=("BIGINT", "DOUBLE", "TIMESTAMP", "SOURCE"),
    ),
    "random folders": Layout(prefix="!{firehose:random-string}/!{timestamp:yyyy}/"),
    "zone and prefix": Layout(prefix="events/!{timestamp:yyyy/MM/dd/HH/mm}/", zone="Asia/Kolkata"),
    "partitioned": Layout(
        prefix="id=!{partitionKeyFromQuery:id}/!{timestamp:yyyy/MM/dd}/",
        partition_keys=("id",),
        partition_values_max=4,
    ),
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sunk(tmp_path_factory.mktemp("packed"), layout=LAYOUTS["csv gzip"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return sunk(tmp_path_factory.mktemp("spans"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_audited(tmp_path: Path, name: str) -> None:
    root = sunk(tmp_path, layout=LAYOUTS[name])
    verdict = audited(root)
    assert verdict.findings == ()
    (account,) = verdict.chains
    assert account.lines == MINUTES * A_MINUTE
    assert account.objects == (MINUTES if name != "partitioned" else MINUTES * 5)


Edit = Callable[[list[bytes]], list[bytes]]

EDITS: dict[str, Edit] = {
    "doubled line": lambda texts: [*texts, texts[0]],
    "wrong order": lambda texts: texts[::-1],
    "cut object": lambda texts: texts[:-1],
    "changed byte": lambda texts: [texts[0].replace(b"1.", b"2.", 1), *texts[1:]],
}


@pytest.mark.parametrize("layout", ["gzip", "csv", "csv gzip", "zstd", "parquet gzip"])
def test_what_was_done_to_an_object_has_its_name_in_every_layout(tmp_path: Path, layout: str) -> None:
    root = sunk(tmp_path, layout=LAYOUTS[layout])
    claim = claims(root)[1]
    path = root / claim.objects[0].key
    body = path.read_bytes()
    texts = lines(claim.layout, content(claim.layout, body))
    for name, edit in EDITS.items():
        path.write_bytes(render(claim.layout, edit(texts)).body)
        assert names(audited(root)) == {name}
    if layout != "csv":
        path.write_bytes(body[: len(body) // 2])
        assert names(audited(root)) == {"cut object"}
    path.write_bytes(body)
    assert audited(root).findings == ()


def test_an_object_of_a_partition_value_that_is_missing_or_moved(tmp_path: Path) -> None:
    root = sunk(tmp_path, layout=LAYOUTS["partitioned"])
    claim = claims(root)[1]
    path = root / claim.objects[2].key
    other = root / claim.objects[0].key
    path.rename(other.parent / path.name)
    assert names(audited(root)) == {"wrong minute"}
    (other.parent / path.name).unlink()
    assert names(audited(root)) == {"missing object"}


class TestCompressed:
    @pytest.fixture
    def path(self, packed: Path, tmp_path: Path) -> Path:
        return data_file(Path(shutil.copytree(packed, tmp_path / "root")))

    @staticmethod
    def found(path: Path) -> set[str]:
        return names(audited(next(parent.parent for parent in path.parents if parent.name == "2026")))

    @pytest.mark.parametrize("left", [1, 9, 10, 40, -1])
    def test_a_cut_object(self, path: Path, left: int) -> None:
        path.write_bytes(path.read_bytes()[:left])
        assert self.found(path) == {"cut object"}

    def test_every_changed_byte_is_found(self, path: Path) -> None:
        body = path.read_bytes()
        for at in {*range(12), *range(12, len(body), 37), *range(len(body) - 8, len(body))}:
            path.write_bytes(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
            assert self.found(path) <= {"changed byte", "cut object"}
            assert self.found(path), at


class TestLosses:
    async def lost(self, folder: Path) -> None:
        """Of minute 0 everything is sunk; minute 1 expires with its claim made and no object; the rest is sunk."""
        async with World(folder) as world:
            await world.publish(*anomalies(0), minute=0)
            await world.publish(*anomalies(1), minute=1)
            await world.sink_all()
            second = (await world.claims())[-1]
            await world.store.delete(second.objects[0].key)
            world.clock.jump_wall(2 * world.retention_ms)
            await world.publish(*anomalies(2))
            await world.transport.expire()
            await world.sink_all(accept_lost=True)

    def test_objects_given_up_are_said_and_no_fault(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        asyncio.run(self.lost(tmp_path))
        root = tmp_path / "objects"
        assert list(root.rglob("*.lost"))
        verdict = audited(root)
        assert verdict.findings == ()
        assert verdict.chains[0].given_up == 1
        assert main(["verify", str(root)]) == 0
        assert "1 stretch(es) were given up for lost" in capsys.readouterr().out

    def test_records_lost_unread_are_said_and_no_fault(self, tmp_path: Path) -> None:
        async def lose() -> None:
            async with World(tmp_path) as world:
                await world.publish(*anomalies(0), minute=0)
                await world.sink_all()
                await world.publish(*anomalies(1), minute=1)
                world.clock.jump_wall(2 * world.retention_ms)
                await world.publish(*anomalies(2))
                await world.transport.expire()
                await world.sink_all(accept_lost=True)

        asyncio.run(lose())
        verdict = audited(tmp_path / "objects")
        assert verdict.findings == ()
        assert (verdict.chains[0].claims, verdict.chains[0].objects, verdict.chains[0].given_up) == (3, 2, 1)

    def test_without_its_mark_the_object_is_missing(self, tmp_path: Path) -> None:
        asyncio.run(self.lost(tmp_path))
        root = tmp_path / "objects"
        next(root.rglob("*.lost")).unlink()
        assert names(audited(root)) == {"missing object"}

    def test_a_mark_that_says_nothing_excuses_nothing(self, tmp_path: Path) -> None:
        asyncio.run(self.lost(tmp_path))
        root = tmp_path / "objects"
        next(root.rglob("*.lost")).write_bytes(b"")
        assert names(audited(root)) == {"missing object", "unreadable claim"}

    def test_a_mark_of_no_claim_is_foreign(self, tmp_path: Path) -> None:
        asyncio.run(self.lost(tmp_path))
        root = tmp_path / "objects"
        mark = next(root.rglob("*.lost"))
        mark.with_name("F" + mark.name[1:-6] + "5.lost").write_bytes(mark.read_bytes())
        assert names(audited(root)) == {"foreign file"}


def test_two_pipelines_on_one_root_and_stream(tmp_path: Path) -> None:
    async def both() -> None:
        async with World(tmp_path) as world:
            await world.publish(*anomalies(0), *anomalies(0, pipeline="q"), minute=0)
            await world.publish(*anomalies(1, pipeline="q"), *anomalies(1), minute=1)
            await world.sink_all()
            async with world.sinking(pipeline="q", group="q.sink") as running:
                await world.until(lambda: committed(world, "q.sink"), running)

    async def committed(world: World, group: str) -> bool:
        part = (await world.transport.describe(STREAM)).partitions[0]
        return bool(await world.transport.committed(group, part.partition) == part.end)

    asyncio.run(both())
    verdict = audited(tmp_path / "objects")
    assert verdict.findings == ()
    assert [account.chain.pipeline for account in verdict.chains] == ["p", "q"]
    assert [account.lines for account in verdict.chains] == [2 * A_MINUTE, 2 * A_MINUTE]


def test_one_source_in_two_chains_is_named(tmp_path: Path) -> None:
    root = sunk(tmp_path)
    (other,) = (root / "_cutbank/p").iterdir()
    copied = ChainId("p", "other", "0")
    assert other.name == STREAM
    shutil.copytree(other, root / "_cutbank/p/other")
    for path in list((root / copied.prefix).iterdir()):
        path.write_bytes(path.read_bytes().replace(b'"stream":"anomalies"', b'"stream":"other"'))
    for claim in claims(root, copied):
        (item,) = claim.objects
        body = (root / item.key).read_bytes()
        key = item.key.replace("-anomalies-", "-other-")
        (root / key).write_bytes(body)
        (root / claim.key).write_bytes((root / claim.key).read_bytes().replace(item.key.encode(), key.encode()))
    assert names(audited(root)) == {"one source in two chains"}


def test_a_claim_whose_object_comes_while_the_audit_runs(tmp_path: Path) -> None:
    """The newest claim may be unfinished: what it names is looked for once more at the end."""
    root = sunk(tmp_path)
    assert asyncio.run(verify(Late(root, data_file(root, -1)))).findings == ()


def test_a_broker_whose_clock_went_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The source's records arrived in an hour that the anomalies' stream never saw."""

    async def set_back() -> None:
        async with World(tmp_path) as world:
            await world.publish(*anomalies(60), minute=0)
            await world.sink_all()

    asyncio.run(set_back())
    root = tmp_path / "objects"
    assert names(audited(root)) == {"wrong minute"}
    assert main(["verify", str(root), "--clocks-apart-s", "3600"]) == 0
    assert main(["verify", str(root), "--clocks-apart-s", "3000"]) == 1
    assert "is of a later minute than its claim" in capsys.readouterr().out


class TestSpans:
    @pytest.mark.parametrize(
        ("scope", "count"),
        [
            (Scope(at_ms(1, 0), at_ms(2, 0)), A_MINUTE),
            (Scope(at_ms(1, 0)), 2 * A_MINUTE),
            (Scope(None, at_ms(1, 0)), A_MINUTE),
            (Scope(at_ms(0, 0), at_ms(9, 0)), 3 * A_MINUTE),
            (Scope(at_ms(5, 0)), 0),
        ],
    )
    def test_only_claims_of_these_minutes(self, root: Path, scope: Scope, count: int) -> None:
        verdict = audited(root, scope=scope)
        assert verdict.findings == ()
        assert verdict.chains[0].lines == count

    def test_faults_outside_are_not_looked_for_and_inside_they_are(self, root: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(root, tmp_path / "root"))
        data_file(copy, 0).unlink()
        assert audited(copy, scope=Scope(at_ms(1, 0))).findings == ()
        assert names(audited(copy, scope=Scope(None, at_ms(1, 0)))) == {"missing object"}

    def test_a_claim_of_a_much_later_minute_does_not_end_the_audit(self, root: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(root, tmp_path / "root"))
        rewrite(copy, claims(copy)[0], minute_ms=at_ms(9, 0))
        verdict = audited(copy, scope=Scope(None, at_ms(3, 0)))
        assert names(verdict) == {"wrong minute"}
        assert verdict.chains[0].claims == MINUTES

    def test_foreign_files_are_looked_for_in_the_folders_of_the_span_only(self, root: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(root, tmp_path / "root"))
        (data_file(copy).parent / "foreign.txt").write_text("mine")
        (copy / "1999").mkdir()
        (copy / "1999/foreign.txt").write_text("mine")
        found = audited(copy, scope=Scope(at_ms(1, 0), at_ms(2, 0))).findings
        assert [(finding.kind.label, finding.count) for finding in found] == [("foreign file", 1)]

    def test_a_foreign_file_in_an_hour_without_claims(self, root: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(root, tmp_path / "root"))
        folder = data_file(copy).parent
        later = folder.with_name(f"{int(folder.name) + 2:02}")
        later.mkdir()
        (later / "foreign.txt").write_text("mine")
        assert names(audited(copy, scope=Scope(at_ms(0, 0), at_ms(200, 0)))) == {"foreign file"}
        assert names(audited(copy, scope=Scope(at_ms(0, 0), at_ms(2, 0)))) == set()

    def test_neighbours_in_the_same_folder_are_counted_as_not_looked_into(
        self, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        argv = ["verify", str(root), "--from", time(1), "--to", time(2)]
        assert main(argv) == 0
        assert "2 object(s) of other minutes in the same folders were not looked into" in capsys.readouterr().out

    def test_the_first_claims_may_have_expired(self, root: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(root, tmp_path / "root"))
        first = claims(copy)[0]
        (copy / first.key).unlink()
        (copy / first.objects[0].key).unlink()
        assert names(audited(copy)) == {"missing claim"}
        assert audited(copy, scope=Scope(at_ms(0, 0))).findings == ()


def time(minute: int) -> str:
    return time_text(at_ms(minute, 0)).replace(" ", "T").replace("Z", ":00Z")
