"""The file-system store beyond the contract: kills, links, permissions, full disks, what it leaves on the disk."""

import asyncio
import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import AlreadyExists, ObjectMissing, StoreRefused, StoreUnavailable, UsageError
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store, walk
from cutbank.objects.filesystem import (
    SWEEP_EVERY_S,
    SWEEP_FILES_MAX,
    TEMPORARY,
    TEMPORARY_AGE_S,
    FileSystemStore,
    path_from_url,
)
from cutbank.testing.clock import ManualClock

ROOT_USER = os.getuid() == 0


def store_at(root: Path, clock: SystemClock | ManualClock | None = None) -> FileSystemStore:
    return FileSystemStore(root, clock=clock or SystemClock(), metrics=NoMetrics())


async def listed(store: FileSystemStore, prefix: str = "", after: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix, after=after)]


def test_urls_name_folders() -> None:
    assert path_from_url("file:///srv/x/y") == Path("/srv/x/y")
    assert path_from_url("file://data/anomalies") == Path("data/anomalies")
    assert path_from_url("file:///a%20folder") == Path("/a folder")


@pytest.mark.parametrize("url", ["file://", "file:///a?b=c", "file:///a#b", "file:///a%00b"])
def test_a_url_without_a_folder_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="file:///absolute/folder"):
        path_from_url(url)


@pytest.mark.parametrize("url", ["s4://bucket", "data/anomalies", "", "FILE:///x"])
def test_an_unknown_kind_of_store_names_the_known_ones(url: str) -> None:
    with pytest.raises(UsageError, match="file://") as caught:
        open_store(url, clock=SystemClock(), metrics=NoMetrics())
    assert repr(url) in str(caught.value)


def test_a_relative_root_is_where_the_process_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("file://data/x", clock=SystemClock(), metrics=NoMetrics())
    assert store.url == f"file://{tmp_path}/data/x"


async def test_opening_and_reading_make_no_folder(tmp_path: Path) -> None:
    async with store_at(tmp_path / "not" / "there") as store:
        assert await listed(store) == []
        assert await listed(store, "a/b/c") == []
        assert not await store.exists("a/b")
        with pytest.raises(ObjectMissing):
            await store.read("a")
        await store.delete("a")
    assert not (tmp_path / "not").exists()


async def test_objects_are_plain_files_with_the_usual_rights(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        await store_at(tmp_path / "r").create("2026/11/22/23/x.json", b"{}\n")
    finally:
        os.umask(mask)
    path = tmp_path / "r" / "2026" / "11" / "22" / "23" / "x.json"
    assert path.read_bytes() == b"{}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.stat().st_nlink == 1
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


async def test_no_temporary_file_is_left_by_success_or_refusal(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    await store.create("a", b"1")
    with pytest.raises(AlreadyExists):
        await store.create("a", b"2")
    assert list((tmp_path / TEMPORARY).iterdir()) == []
    assert await listed(store) == ["a"]


async def test_the_stores_own_folder_is_no_key(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for key in (TEMPORARY, f"{TEMPORARY}/x"):
        with pytest.raises(ValueError, match="own folder"):
            await store.create(key, b"")
    with pytest.raises(ValueError, match="own folder"):
        await listed(store, f"{TEMPORARY}/")
    await store.create(f"a/{TEMPORARY}/x", b"")
    assert await listed(store) == [f"a/{TEMPORARY}/x"]


async def test_nothing_is_reached_through_a_link(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "dangling").symlink_to(outside / "new")
    store = store_at(root)
    for key in ("folder/secret", "file", "dangling"):
        with pytest.raises((ObjectMissing, StoreRefused)):
            await store.read(key)
        assert not await store.exists(key)
    with pytest.raises(StoreRefused, match="link"):
        await store.create("folder/new", b"")
    for key in ("file", "dangling"):
        with pytest.raises(AlreadyExists):
            await store.create(key, b"")
    await store.delete("folder/secret")
    assert (outside / "secret").read_bytes() == b"secret"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert await listed(store) == await listed(store, "folder/") == []


async def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    await store_at(tmp_path / "link").create("a/b", b"1")
    assert (tmp_path / "real" / "a" / "b").read_bytes() == b"1"


async def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    await store.create("a/b", b"")
    with pytest.raises(StoreRefused, match="a/b/c"):
        await store.create("a/b/c", b"")
    with pytest.raises(StoreRefused, match="folder"):
        await store.create("a", b"")


async def test_a_pipe_does_not_hold_a_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    store = store_at(tmp_path)
    async with asyncio.timeout(10):
        with pytest.raises(ObjectMissing):
            await store.read("pipe")
    assert not await store.exists("pipe")
    assert await listed(store) == []


async def test_names_that_are_no_keys_are_left_out_of_listings_but_foreign_files_are_seen(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    await store.create("a/b", b"")
    (tmp_path / "a" / os.fsdecode(b"\xff")).write_bytes(b"")
    (tmp_path / "a" / "öl.txt").write_bytes(b"foreign")
    assert await listed(store) == ["a/b", "a/öl.txt"]


async def test_large_folders_are_listed_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "PAGE_ENTRIES", 7)
    keys = sorted([f"d/{n:03}" for n in range(50)] + [f"d/{n:03}x/y" for n in range(0, 50, 3)] + ["d/010.", "d/0100"])
    for key in keys:
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    store = store_at(tmp_path)
    looks: list[str] = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (looks.append(str(folder)), scan(folder))[1])
    assert await listed(store) == keys
    assert looks.count(f"{tmp_path}/d/") > 60 / 7, "names in it by pages of 7"
    assert await listed(store, "d/01") == [key for key in keys if key.startswith("d/01")]
    for after in keys:
        assert await listed(store, after=after) == [key for key in keys if key > after]


async def test_a_folder_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    store = store_at(tmp_path / "r")
    await store.create("a/b/1", b"1")
    (tmp_path / "r" / "a" / "b" / "1").unlink()
    (tmp_path / "r" / "a" / "b").rmdir()
    (tmp_path / "r" / "a").rmdir()
    await store.create("a/b/2", b"2")
    assert await listed(store) == ["a/b/2"]


async def test_leftovers_of_killed_processes_are_removed_when_old(tmp_path: Path) -> None:
    clock = ManualClock()
    store = store_at(tmp_path, clock)
    folder = tmp_path / TEMPORARY
    folder.mkdir()
    for name, age_s in {"old": TEMPORARY_AGE_S + 60, "young": TEMPORARY_AGE_S - 60, "later": 0.0}.items():
        (folder / name).write_bytes(b"half")
        then_s = time.time() - age_s
        os.utime(folder / name, (then_s, then_s))
    await store.create("a", b"")
    assert sorted(path.name for path in folder.iterdir()) == ["later", "young"]
    os.utime(folder / "young", (0, 0))
    await store.create("b", b"")
    assert (folder / "young").exists(), "not looked for at every put"
    await clock.advance(SWEEP_EVERY_S)
    await store.create("c", b"")
    assert sorted(path.name for path in folder.iterdir()) == ["later"]


async def test_a_sweep_looks_at_a_bounded_number_of_files(tmp_path: Path) -> None:
    folder = tmp_path / TEMPORARY
    folder.mkdir()
    for number in range(SWEEP_FILES_MAX + 50):
        (folder / str(number)).write_bytes(b"")
        os.utime(folder / str(number), (0, 0))
    await store_at(tmp_path).create("a", b"")
    assert len(list(folder.iterdir())) == 50


async def test_a_writer_whose_temporary_file_was_swept_is_told_to_write_again(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    await store.create("a", b"")
    folder = os.open(tmp_path / TEMPORARY, os.O_RDONLY)
    try:
        with pytest.raises(StoreUnavailable), store._translated("create", "b"):
            store._link("gone", "b", temporary=folder, folder=folder, key="b")
    finally:
        os.close(folder)


WRITER = """
import asyncio, sys
from pathlib import Path
from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects.filesystem import FileSystemStore

async def main():
    store = FileSystemStore(Path(sys.argv[1]), clock=SystemClock(), metrics=NoMetrics())
    number = 0
    while True:
        await store.create(f"a/{number:06}", b"%06d" % number * 200_000)
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


def test_a_killed_writer_leaves_whole_objects_or_none(tmp_path: Path) -> None:
    for attempt in range(3):
        root = tmp_path / str(attempt)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True, env=environment
        ) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(3 + attempt)]
            writer.kill()
            said += [int(line) for line in writer.stdout.read().split()]
        bodies = {path.name: path.read_bytes() for path in (root / "a").iterdir()}
        assert all(body == name.encode() * 200_000 for name, body in bodies.items())
        assert {f"{number:06}" for number in said} <= set(bodies), "what was acknowledged is there"


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """The nearest to a full disk that needs no file system: the kernel refuses larger files with EFBIG."""
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


async def test_a_write_that_does_not_fit_leaves_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    with files_of_at_most(100_000), pytest.raises(StoreUnavailable, match="a/b"):
        await store.create("a/b", bytes(200_000))
    assert await listed(store) == []
    assert list((tmp_path / TEMPORARY).iterdir()) == []
    await store.create("a/b", bytes(200_000))
    assert await store.read("a/b") == bytes(200_000)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreUnavailable),
        (errno.EDQUOT, StoreUnavailable),
        (errno.EIO, StoreUnavailable),
        (errno.EMFILE, StoreUnavailable),
        (errno.ENOENT, StoreUnavailable),
        (errno.EACCES, StoreRefused),
        (errno.EPERM, StoreRefused),
        (errno.EROFS, StoreRefused),
        (errno.ENAMETOOLONG, StoreRefused),
        (errno.ELOOP, StoreRefused),
        (errno.EOPNOTSUPP, StoreRefused),
    ],
)
def test_each_error_of_the_system_has_its_reaction(tmp_path: Path, number: int, kind: type[Exception]) -> None:
    store = store_at(tmp_path)
    with pytest.raises(kind, match=r"create .*2026/x"), store._translated("create", "2026/x"):
        raise OSError(number, os.strerror(number))


def test_a_refusal_names_path_and_permission(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for action, needed in {"create": "write and search", "read": "read and search", "list": "read and search"}.items():
        with pytest.raises(StoreRefused) as caught, store._translated(action, "2026/x"):
            raise PermissionError(errno.EACCES, "Permission denied")
        assert f"{tmp_path}/2026/x" in str(caught.value)
        assert needed in str(caught.value)


@pytest.mark.skipif(ROOT_USER, reason="the superuser may write anywhere")
async def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir(mode=0o555)
    with pytest.raises(StoreRefused, match="permission"):
        await store_at(tmp_path / "r").probe()


async def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"")
    with pytest.raises(StoreRefused, match=f"{tmp_path}/r"):
        await store_at(tmp_path / "r").probe()


async def test_a_key_deleted_while_it_is_found_taken_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two creators, the second finds the key taken, and the first deletes its object before it is looked at."""
    store = store_at(tmp_path)
    link = os.link

    def link_and_delete(source: str, target: str, **where: int) -> None:
        try:
            link(source, target, **where)  # type: ignore[arg-type]
        except FileExistsError:
            os.unlink(target, dir_fd=where["dst_dir_fd"])
            raise

    await store.create("a", b"first")
    monkeypatch.setattr(os, "link", link_and_delete)
    with pytest.raises(AlreadyExists):
        await store.create("a", b"second")
    assert not await store.exists("a")


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
async def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    await store.create("a/b", b"")
    await asyncio.gather(*(asyncio.to_thread(os.getpid) for _ in range(20)))
    before = open_descriptors()
    for _ in range(20):
        with pytest.raises(AlreadyExists):
            await store.create("a/b", b"")
        with pytest.raises(ObjectMissing):
            await store.read("a")
        with pytest.raises(StoreRefused):
            await store.create("a/b/c", b"")
        assert await store.read("a/b") == b""
        assert not await store.exists("a/c/d")
    assert open_descriptors() == before
