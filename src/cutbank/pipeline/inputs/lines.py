"""Opens a file or standard input and cuts it into lines, in bounded memory. Owns the descriptor.

Invariant: every byte of the input is in exactly one line, in order, except line ends, a byte-order mark at the very
beginning (it belongs to the file, not to its first record) and what a line has beyond `LINE_BYTES_MAX`.
Blocking; one thread at a time, except `stop`, which any thread may call to end a read that waits for a pipe.
"""

import gzip
import io
import os
import select
import stat
import zlib
from collections import deque
from typing import NamedTuple

from cutbank.errors import UsageError
from cutbank.transports.base import RECORD_BYTES_MAX

LINE_BYTES_MAX = RECORD_BYTES_MAX + (64 << 10)
"""A line's bytes that are kept: over the largest record, so that a longer line still shows itself as too large."""

STANDARD_INPUT = "-"

_CHUNK_BYTES = 64 << 10
_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_FOREIGN_MARKS = {
    b"\xff\xfe": "UTF-16 text; convert it to UTF-8 first",
    b"\xfe\xff": "UTF-16 text; convert it to UTF-8 first",
    b"PK\x03\x04": "a ZIP archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd; decompress it first",
    b"BZh": "bzip2; decompress it first",
    b"\xfd7zXZ\x00": "xz; decompress it first",
    b"PAR1": "Parquet; export it as CSV or NDJSON first",
}


class Line(NamedTuple):
    """One line without its end."""

    number: int
    """Counted from 1."""
    data: bytes
    """At most LINE_BYTES_MAX."""
    bytes_total: int
    """Its full length; more than `len(data)` if it was cut."""


class Lines:
    """The lines of one input; `name` is what messages call it. Raises UsageError, one line, for what can't be read."""

    def __init__(self, path: str) -> None:
        self.name = "standard input" if path == STANDARD_INPUT else path
        self._raw = _Stoppable(path, name=self.name)
        self._stream: io.BufferedIOBase = io.BufferedReader(self._raw, _CHUNK_BYTES)
        self._gzip_expected = path.endswith(".gz")
        self._pending: deque[Line] = deque()
        self._rest = b""
        self._rest_bytes_total = 0
        self._number = 0
        self._begun = False
        self._ended = False

    @property
    def live(self) -> bool:
        """Whether this is a pipe or terminal, which may pause, and not a file."""
        return self._raw.live

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._raw.stopped

    @property
    def waits(self) -> bool:
        """Whether `next` would have to read."""
        return not self._pending and not self._ended

    def next(self) -> Line | None:
        """The next line; None at the end."""
        while self.waits:
            self._read()
        return self._pending.popleft() if self._pending else None

    def sample(self, *, lines_max: int, bytes_max: int) -> list[Line]:
        """The first lines not yet taken, about so many bytes; they stay to be taken."""
        held = sum(len(line.data) for line in self._pending)
        while not self._ended and len(self._pending) < lines_max and held + len(self._rest) < bytes_max:
            known = len(self._pending)
            self._read()
            held += sum(len(self._pending[index].data) for index in range(known, len(self._pending)))
        return [self._pending[index] for index in range(min(lines_max, len(self._pending)))]

    def stop(self) -> None:
        """The input ends here: a read that waits returns. Thread-safe, idempotent."""
        self._raw.stop()

    def close(self) -> None:
        """Give the descriptor back. Not while another thread reads: `stop` first."""
        self._stream.close()
        self._raw.close()

    def _read(self) -> None:
        """One chunk, cut into lines."""
        try:
            if not self._begun:
                self._begin()
            chunk = self._stream.read1(_CHUNK_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            if self.stopped:
                chunk = b""  # the cut is ours
            else:
                raise UsageError(
                    f"{self.name}: its gzip data is damaged or cut off after line {self._number} ({error})"
                ) from None
        except OSError as error:
            raise UsageError(f"{self.name}: can't be read after line {self._number}: {error.strerror}") from None
        if not chunk:
            self._ended = True
            if self._rest_bytes_total and not self.stopped:
                self._take(self._rest, self._rest_bytes_total)
                self._rest, self._rest_bytes_total = b"", 0
            return
        first, *others = chunk.split(b"\n")
        # What is beyond the limit is counted and let go, so that memory stays bounded.
        self._rest += first[: LINE_BYTES_MAX + 1 - len(self._rest)]
        self._rest_bytes_total += len(first)
        for part in others:
            self._take(self._rest, self._rest_bytes_total)
            self._rest, self._rest_bytes_total = part, len(part)

    def _take(self, data: bytes, bytes_total: int) -> None:
        self._number += 1
        if data.endswith(b"\r") and bytes_total == len(data):
            data, bytes_total = data[:-1], bytes_total - 1
        self._pending.append(Line(self._number, data[:LINE_BYTES_MAX], bytes_total))

    def _begin(self) -> None:
        """Look at the first bytes: gzip, a foreign format, a byte-order mark."""
        self._begun = True
        head = self._peek()
        if head.startswith(_GZIP_MAGIC):
            self._stream = io.BufferedReader(gzip.GzipFile(fileobj=self._stream), _CHUNK_BYTES)
            head = self._peek()
        elif self._gzip_expected and head:
            raise UsageError(f"{self.name}: named .gz but is not gzip data")
        for mark, what in _FOREIGN_MARKS.items():
            if head.startswith(mark):
                raise UsageError(f"{self.name}: is {what}")
        if b"\0" in head:
            raise UsageError(f"{self.name}: is binary; CSV or NDJSON text in UTF-8 is wanted")
        if head.startswith(_UTF8_MARK):
            self._stream.read(len(_UTF8_MARK))

    def _peek(self) -> bytes:
        assert isinstance(self._stream, io.BufferedReader), "only buffered streams are looked into"
        return self._stream.peek(_CHUNK_BYTES)


class _Stoppable(io.RawIOBase):
    """A raw file whose reads end when `stop` is called, even while a pipe keeps them waiting."""

    def __init__(self, path: str, *, name: str) -> None:
        super().__init__()
        try:
            self._fd = os.dup(0) if path == STANDARD_INPUT else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"{name}: {error.strerror}") from None
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISDIR(mode):
            os.close(self._fd)
            raise UsageError(f"{name}: is a directory; name a file")
        self.live = not stat.S_ISREG(mode)
        self.stopped = False
        self._wake_r, self._wake_w = os.pipe()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # io calls it with a memoryview
        """Bytes read; 0 at the end or after `stop`."""
        if self.live and not self.stopped:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.register(self._wake_r, select.POLLIN)
            poll.poll()
        return 0 if self.stopped else os.readv(self._fd, [buffer])

    def stop(self) -> None:
        if not (self.stopped or self.closed):
            self.stopped = True
            os.write(self._wake_w, b"!")

    def close(self) -> None:
        if not self.closed:
            for fd in (self._fd, self._wake_r, self._wake_w):
                os.close(fd)
        super().close()
