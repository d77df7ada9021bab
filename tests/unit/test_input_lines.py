"""Lines of an input: every byte in one line whatever the chunks, bounded memory, and reads that can be ended."""

import gzip
import os
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.errors import UsageError
from cutbank.pipeline.inputs import lines as lines_module
from cutbank.pipeline.inputs import open_input
from cutbank.pipeline.inputs.lines import LINE_BYTES_MAX, Line, Lines


def all_of(lines: Lines) -> list[Line]:
    found = []
    while (line := lines.next()) is not None:
        found.append(line)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines")


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(st.binary(max_size=12).map(lambda data: data.replace(b"\0", b"x")), min_size=1, max_size=30),
    ends=st.sampled_from([b"\n", b"\r\n"]),
    chunk=st.integers(1, 9),
    packed=st.booleans(),
)
def test_however_it_is_read_the_lines_are_the_same(
    folder: Path, *, parts: list[bytes], ends: bytes, chunk: int, packed: bool
) -> None:
    """Chunks of any size cut lines and line ends anywhere."""
    parts = [part.replace(b"\n", b"").rstrip(b"\r") for part in parts]
    data = b"begin" + ends + ends.join(parts) + ends
    path = folder / "some"
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    before = lines_module._CHUNK_BYTES
    lines_module._CHUNK_BYTES = chunk if not packed else chunk + 10
    try:
        lines = Lines(str(path))
        found = all_of(lines)
        lines.close()
    finally:
        lines_module._CHUNK_BYTES = before
    assert [line.data for line in found] == [b"begin", *parts]
    assert [line.number for line in found] == list(range(1, len(parts) + 2))
    assert all(line.bytes_total == len(line.data) for line in found)


@pytest.mark.parametrize("over", [-1, 0, 1, 200_000])
def test_a_line_around_the_limit_keeps_its_length_and_its_neighbours(tmp_path: Path, over: int) -> None:
    path = tmp_path / "t"
    long = b"y" * (LINE_BYTES_MAX + over)
    path.write_bytes(b"before\n" + long + b"\nafter")
    lines = Lines(str(path))
    before, kept, after = all_of(lines)
    lines.close()
    assert (before.data, after.data) == (b"before", b"after")
    assert (kept.data, kept.bytes_total) == (long[:LINE_BYTES_MAX], len(long))


def test_a_carriage_return_at_the_cut_of_a_long_line_is_content(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"y" * LINE_BYTES_MAX + b"\rmore\n")
    lines = Lines(str(path))
    (line,) = all_of(lines)
    lines.close()
    assert (len(line.data), line.bytes_total) == (LINE_BYTES_MAX, LINE_BYTES_MAX + 5)


def test_a_sample_stays_to_be_taken_and_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(100_000)))
    lines = Lines(str(path))
    assert [line.data for line in lines.sample(lines_max=3, bytes_max=1 << 20)] == [b"0", b"1", b"2"]
    first = lines.next()
    assert first is not None
    assert first.data == b"0"
    assert lines.sample(lines_max=1, bytes_max=1)[0].data == b"1"
    assert len(lines.sample(lines_max=10**9, bytes_max=1000)) < 100_000
    assert len(all_of(lines)) == 99_999
    assert lines.sample(lines_max=5, bytes_max=5) == []
    lines.close()


@pytest.mark.parametrize("content", ["short lines", "one endless line", "an open quote"])
def test_memory_does_not_grow_with_the_input(tmp_path: Path, content: str) -> None:
    """48 MiB unpacked, from a small gzip file."""
    body = {"short lines": b"12345678901,2\n" * 75_000, "one endless line": b"x" * (1 << 20), "an open quote": b"1\n"}
    path = tmp_path / "t.csv.gz"
    with gzip.open(path, "wb", 1) as packed:
        packed.write(b"a,b\n")
        if content == "an open quote":
            packed.write(b'1,"')
            body[content] *= 1 << 19
        for _ in range(48):
            packed.write(body[content])
    with open_input(str(path)) as source:
        tracemalloc.start()
        try:
            while source.records(records_max=100, bytes_max=1 << 16):
                # Enough is read when each bound has been met many times over.
                if source._lines._number > 60_000:
                    break
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    # A chunk in small pieces, and a few copies of one longest line.
    assert peak < 24 << 20


def test_a_stop_from_another_thread_ends_a_read_of_a_packed_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with open(path, "r+b", buffering=0) as pipe:  # noqa: PTH123  # opened both ways: opening waits for nobody
        pipe.write(gzip.compress(b"a\nb\n")[:-6])
        lines = Lines(str(path))
        found: list[list[Line]] = []
        reading = threading.Thread(target=lambda: found.append(all_of(lines)), daemon=True)
        reading.start()
        lines.stop()
        reading.join(timeout=10)
        assert not reading.is_alive()
        # Packed data that we cut ourselves is no damaged data.
        assert len(found) == 1
        lines.close()
        lines.close()


def test_what_the_system_refuses_to_open_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="File name too long"):
        Lines(str(tmp_path / ("x" * 300)))
