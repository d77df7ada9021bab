"""What an audit looks into at most."""

import gzip
from typing import Any

import pytest

from cutbank.pipeline.sinking.claims import Claim, DataObject, FirstRecord, Layout
from cutbank.pipeline.sinking.prefix import folders
from cutbank.pipeline.sinking.rendering import render
from cutbank.pipeline.verifying import contents, files
from cutbank.pipeline.verifying.chains import Scope
from cutbank.pipeline.verifying.contents import examine
from cutbank.pipeline.verifying.faults import Fault
from cutbank.pipeline.verifying.files import Files
from cutbank.pipeline.verifying.index import LAYOUTS_MAX, Index
from cutbank.records import Position

HOUR_MS = 3_600_000
LINE = b'{"a":1}'


def claim(*, layout: Layout, hour: int = 0, line: bytes = LINE) -> Claim:
    made = render(layout, [line])
    return Claim(
        pipeline="p",
        stream="s",
        partition="0",
        start=Position(hour),
        end=Position(hour + 1),
        minute_ms=hour * HOUR_MS,
        layout=layout,
        objects=(made.described(folders(layout, hour * HOUR_MS) + f"p-s-0-{hour}-0.json.gz"),),
        first=FirstRecord(position=Position(hour), sha256="cd" * 32),
        marks_before=(),
        marks_after=(),
    )


def test_an_object_far_larger_than_its_claim_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decompressing ends a little beyond what the claim says: a bomb takes no memory."""
    monkeypatch.setattr(contents, "SLACK_BYTES", 1000)
    asked: list[int] = []
    inner = contents.content

    def noting(layout: Layout, body: bytes, *, bytes_max: int) -> bytes:
        asked.append(bytes_max)
        return inner(layout, body, bytes_max=bytes_max)

    monkeypatch.setattr(contents, "content", noting)
    packed = claim(layout=Layout(compression="gzip"))
    (item,) = packed.objects
    found = examine(packed, item, gzip.compress(bytes(10_000_000)), expelled=lambda _: False)
    assert found.fault is Fault.CHANGED_BYTE
    assert found.lines == ()
    assert asked == [item.line_bytes + 1000]


def test_a_claim_of_more_than_any_object_holds_does_not_end_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "OBJECT_BYTES_MAX", 1000)
    monkeypatch.setattr(contents, "SLACK_BYTES", 1000)
    packed = claim(layout=Layout(compression="gzip"))
    item = packed.objects[0].model_copy(update={"line_bytes": 10**30})
    found = examine(packed, item, gzip.compress(bytes(10_000_000)), expelled=lambda _: False)
    assert found.fault is Fault.CHANGED_BYTE
    assert "exceeds 2000 bytes" in found.detail


def test_layouts_and_hours_looked_into_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LAYOUTS_MAX", 2)
    monkeypatch.setattr(files, "HOURS_MAX", 5)
    nothing: Any = None
    looked = Files(nothing, scope=Scope(from_ms=0, to_ms=100 * HOUR_MS), findings=nothing)
    for number in range(4):
        looked.claimed(claim(layout=Layout(prefix=f"{number}/!{{timestamp:yyyy/MM/dd/HH}}/")))
    looked._folders.clear()
    looked._add_empty_hours()
    assert sorted(looked._folders) == [f"{number}/1970/01/01/0{hour}/" for number in range(2) for hour in range(5)]


def test_layouts_told_apart_are_bounded() -> None:
    """Each has a byte of its own; those beyond share the last."""
    index = Index("p")
    numbers = [index._number(Layout(format="csv", columns=(f"c{number}",))) for number in range(LAYOUTS_MAX + 5)]
    assert numbers[: LAYOUTS_MAX - 1] == list(range(1, LAYOUTS_MAX))
    assert set(numbers[LAYOUTS_MAX - 1 :]) == {LAYOUTS_MAX - 1}


def test_an_object_within_its_claim_is_looked_into() -> None:
    packed = claim(layout=Layout(compression="gzip"))
    item: DataObject = packed.objects[0]
    body = render(packed.layout, [LINE]).body
    assert examine(packed, item, body, expelled=lambda _: False).fault is None
