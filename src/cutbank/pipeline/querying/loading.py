"""Puts lines into a table of a database, a few megabytes at a time. One thread at a time; blocking.

Invariant: after `flush`, every line added is a row, or its time lies outside the period.
"""

import orjson

from cutbank.pipeline.querying.database import Database
from cutbank.pipeline.querying.fitting import Shape, fit
from cutbank.pipeline.querying.period import Period
from cutbank.pipeline.querying.tables import Table

LOAD_BYTES = 8 << 20
"""Lines that fit are loaded so many bytes at a time."""

ODD_BYTES = 1 << 20
"""Rows of other lines are loaded so many bytes at a time."""


class Loader:
    """Loads one table."""

    def __init__(self, database: Database, table: Table, period: Period) -> None:
        self._database = database
        self._table = table
        self._period = period
        self._shape = Shape(table)
        self._insert_lines = table.insert_lines(period.from_ms, period.to_ms)
        self._insert_rows = table.insert_rows()
        self._plain: list[bytes] = []
        self._plain_bytes = 0
        self._odd: list[bytes] = []
        self._odd_bytes = 0

    def add(self, content: bytes, *, minute_ms: int) -> int:
        """Lines of one claim, each with its end but the last one; how many rows were made now."""
        rows = 0
        at = 0
        while at < len(content):
            end = content.rfind(b"\n", at, at + LOAD_BYTES) + 1
            if not end or len(content) - at <= LOAD_BYTES:
                end = content.find(b"\n", at + LOAD_BYTES) + 1 or len(content)
            for fits, part in self._shape.fitting(content[at:end]):
                if fits:
                    self._plain.append(bytes(part).rstrip(b"\n"))
                    self._plain_bytes += len(part)
                else:
                    self._add_odd(bytes(part), minute_ms)
            if self._plain_bytes >= LOAD_BYTES or self._odd_bytes >= ODD_BYTES:
                rows += self.flush()
            at = end
        return rows

    def flush(self) -> int:
        """Load what is held; how many rows it gave."""
        rows = 0
        if self._plain:
            text = b"\n".join(self._plain).decode()
            self._plain, self._plain_bytes = [], 0
            rows += self._database.insert(self._insert_lines, text)
        if self._odd:
            text = b"\n".join(self._odd).decode()
            self._odd, self._odd_bytes = [], 0
            rows += self._database.insert(self._insert_rows, text)
        return rows

    def interrupt(self) -> None:
        """End what another thread is loading."""
        self._database.interrupt()

    def _add_odd(self, line: bytes, minute_ms: int) -> None:
        fitted = fit(self._table, line.rstrip(b"\n"))
        if (minute_ms if fitted.time_ms is None else fitted.time_ms) in self._period:
            row = orjson.dumps(fitted.values)
            self._odd.append(row)
            self._odd_bytes += len(row)
