"""Rows give back what was put in, on every cut."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.transports.local.rows import decode_keys, decode_values, rows_of, value_offsets

RECORDS = st.lists(st.tuples(st.none() | st.binary(max_size=20), st.binary(max_size=50)), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(records=RECORDS, data=st.data())
def test_any_cut_of_a_row_gives_its_records(records: list[tuple[bytes | None, bytes]], data: st.DataObject) -> None:
    keys, values = [key for key, _ in records], [value for _, value in records]
    (row,) = rows_of(values, keys)
    assert row.count == len(records)
    first = data.draw(st.integers(0, len(records) - 1))
    stop = data.draw(st.integers(first + 1, len(records)))
    offsets = value_offsets(row.body, row.count)
    assert decode_values(row.body, offsets, first=first, stop=stop) == values[first:stop]
    assert decode_keys(row.body, offsets, first=first, stop=stop) == keys[first:stop]
