"""What a Parquet file's footer says of a row group's values, held against the values. Pure.

Engines skip the row groups whose least and greatest value, or number of nulls, say that no row is of interest; and no
checksum covers the footer. So a changed bit there hides rows from a query, although each of them can still be read.
Invariant: bounds that are too wide hide nothing and are sound; what the footer does not say is sound too.
Blocking: for a thread. Memory: two values a column.
"""

from typing import Any

from cutbank.errors import ObjectUnreadable


class Bounds:
    """The least and greatest values and the nulls of one row group's columns, as its rows go by."""

    def __init__(self) -> None:
        self._nulls: list[int] = []
        self._least: list[Any] = []
        self._greatest: list[Any] = []

    def add(self, batch: Any) -> None:
        """The next rows."""
        import pyarrow.compute as pc
        import pyarrow.types as kinds

        leaves: list[Any] = []
        for column in batch.columns:
            leaves += column.flatten() if kinds.is_struct(column.type) else [column]
        if not self._nulls:
            self._nulls, self._least, self._greatest = [0] * len(leaves), [None] * len(leaves), [None] * len(leaves)
        for index, leaf in enumerate(leaves):
            self._nulls[index] += leaf.null_count
            found = pc.min_max(leaf.cast("int64") if kinds.is_timestamp(leaf.type) else leaf)
            least, greatest = _raw(found["min"].as_py()), _raw(found["max"].as_py())
            if least is None:
                continue
            if self._least[index] is None:
                self._least[index], self._greatest[index] = least, greatest
            else:
                self._least[index] = min(self._least[index], least)
                self._greatest[index] = max(self._greatest[index], greatest)

    def check(self, group: Any) -> None:
        """Hold the metadata of the row group against its rows. Raises ObjectUnreadable."""
        for index, (nulls, least, greatest) in enumerate(zip(self._nulls, self._least, self._greatest, strict=True)):
            column = group.column(index)
            said = column.statistics
            if said is None:
                continue
            bounded = not said.has_min_max or least is None or said.min_raw <= least <= greatest <= said.max_raw
            if not bounded or (said.has_null_count and said.null_count != nulls):
                raise ObjectUnreadable(f"its footer does not tell the values of {column.path_in_schema}")


def _raw(value: Any) -> Any:
    """A value as the footer has it: of text the bytes, whose order is that of the characters."""
    return value.encode() if type(value) is str else value
