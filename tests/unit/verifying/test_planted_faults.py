"""Every planted fault is found by its own name and by no other, and a root without one is clean."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cutbank.cli import main
from cutbank.objects.base import OBJECT_BYTES_MAX
from cutbank.pipeline.sinking.claims import DataObject
from cutbank.pipeline.sinking.rendering import render
from cutbank.pipeline.verifying.contents import SLACK_BYTES
from cutbank.records import Position
from sinking_world import MINUTE_MS
from sunk_root import A_MINUTE, MINUTES, audited, claims, data_file, edit, names, rewrite, sunk

Plant = Callable[[Path], None]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sunk(tmp_path_factory.mktemp("sunk"))


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "root"))


def described(root: Path, index: int, lines: list[bytes]) -> DataObject:
    """What a claim would say of an object with these lines."""
    claim = claims(root)[index]
    return render(claim.layout, [line.rstrip(b"\n") for line in lines]).described(claim.objects[0].key)


def missing_object(root: Path) -> None:
    data_file(root).unlink()


def missing_last_object(root: Path) -> None:
    data_file(root, -1).unlink()


def doubled_line(root: Path) -> None:
    edit(data_file(root), lambda lines: [*lines, lines[2]])


def doubled_neighbour(root: Path) -> None:
    edit(data_file(root), lambda lines: [*lines[:3], lines[2], *lines[3:]])


def doubled_from_before(root: Path) -> None:
    line = data_file(root, 0).read_bytes().splitlines(keepends=True)[0]
    edit(data_file(root), lambda lines: [line, *lines])


def doubled_from_later(root: Path) -> None:
    line = data_file(root, 2).read_bytes().splitlines(keepends=True)[0]
    edit(data_file(root), lambda lines: [*lines, line])


def doubled_and_claimed(root: Path) -> None:
    """By a sink that did not see that it had this one before."""
    path, line = data_file(root), data_file(root, 0).read_bytes().splitlines(keepends=True)[0]
    edit(path, lambda lines: [line, *lines])
    rewrite(root, claims(root)[1], objects=(described(root, 1, path.read_bytes().splitlines()),))


def doubled_in_its_object_and_claimed(root: Path) -> None:
    path = data_file(root)
    edit(path, lambda lines: [lines[0], *lines])
    rewrite(root, claims(root)[1], objects=(described(root, 1, path.read_bytes().splitlines()),))


def anothers_line_and_claimed(root: Path) -> None:
    """By a sink that kept what is another pipeline's."""
    path = data_file(root)
    edit(path, lambda lines: [*lines[:-1], lines[-1].replace(b'"pipeline":"p"', b'"pipeline":"q"')])
    last = claims(root)[1]
    rewrite(root, last, objects=(described(root, 1, path.read_bytes().splitlines()),))


def cut_object(root: Path) -> None:
    path = data_file(root)
    path.write_bytes(path.read_bytes()[:-50])


def cut_at_a_line(root: Path) -> None:
    edit(data_file(root), lambda lines: lines[:-1])


def cut_in_the_middle(root: Path) -> None:
    edit(data_file(root), lambda lines: [*lines[:2], *lines[3:]])


def cut_last_newline(root: Path) -> None:
    path = data_file(root)
    path.write_bytes(path.read_bytes()[:-1])


def emptied_object(root: Path) -> None:
    data_file(root).write_bytes(b"")


def flip(path: Path, part: bytes, other: bytes) -> None:
    body = path.read_bytes()
    assert len(part) == len(other)
    assert part in body
    path.write_bytes(body.replace(part, other, 1))


def changed_byte(root: Path) -> None:
    flip(data_file(root), b'"ANOMALY_SCORE":1.', b'"ANOMALY_SCORE":2.')


def changed_source(root: Path) -> None:
    flip(data_file(root), b'"position":"', b'"position"!"')


def changed_newline(root: Path) -> None:
    flip(data_file(root), b"}\n{", b"} {")


def grown_object(root: Path) -> None:
    """By more than is looked into, and without a line more."""
    os.truncate(data_file(root), SLACK_BYTES + (1 << 20))


def object_too_large_to_be_read(root: Path) -> None:
    os.truncate(data_file(root), OBJECT_BYTES_MAX + 1)  # without its blocks, so it takes no disk


def overlapping_claims(root: Path) -> None:
    first = claims(root)[0]
    rewrite(root, first, end=Position(first.end + 2))


def overlapping_copy(root: Path) -> None:
    """A second claim from the middle of another one on."""
    second = claims(root)[1]
    rewrite(
        root, second, start=Position(second.start + 1), first={**dict(second.first or {}), "position": second.end - 1}
    )


def wrong_folder(root: Path) -> None:
    path = data_file(root)
    other = path.parent.parent / "99"
    other.mkdir()
    path.rename(other / path.name)


def wrong_minute_by_its_lines(root: Path) -> None:
    """As a sink would that takes a clock of its own for the broker's: an hour early, file and claim alike."""
    first = claims(root)[0]
    (item,) = first.objects
    folder, _, name = item.key.rpartition("/")
    moved = f"{folder[:-2]}{int(folder[-2:]) - 1:02}/{name}"
    (root / moved).parent.mkdir()
    (root / item.key).rename(root / moved)
    rewrite(root, first, minute_ms=first.minute_ms - 60 * MINUTE_MS, objects=(item.model_copy(update={"key": moved}),))


def wrong_minute_of_a_claim(root: Path) -> None:
    last = claims(root)[2]
    rewrite(root, last, minute_ms=last.minute_ms - MINUTE_MS)


def foreign_file(root: Path) -> None:
    (root / "2026/notes.txt").write_text("mine")


def foreign_copy(root: Path) -> None:
    path = data_file(root)
    (path.parent / "copy-of.json").write_bytes(path.read_bytes())


def foreign_object(root: Path) -> None:
    """Named like an object, and no claim names it."""
    path = data_file(root)
    (path.parent / path.name.replace("-0.json", "-7.json")).write_bytes(path.read_bytes())


def foreign_claim(root: Path) -> None:
    (root / "_cutbank/p/notes.txt").write_text("mine")


def wrong_order(root: Path) -> None:
    edit(data_file(root), lambda lines: [lines[1], lines[0], *lines[2:]])


def wrong_order_and_claimed(root: Path) -> None:
    path = data_file(root)
    edit(path, lambda lines: [*lines[1:], lines[0]])
    rewrite(root, claims(root)[1], objects=(described(root, 1, path.read_bytes().splitlines()),))


THE_EIGHT: list[tuple[Plant, str]] = [
    (missing_object, "missing object"),
    (doubled_line, "doubled line"),
    (cut_object, "cut object"),
    (changed_byte, "changed byte"),
    (overlapping_claims, "overlapping claims"),
    (wrong_folder, "wrong minute"),
    (foreign_file, "foreign file"),
    (wrong_order, "wrong order"),
]


@pytest.mark.parametrize(("plant", "name"), THE_EIGHT, ids=[plant.__name__ for plant, _ in THE_EIGHT])
def test_the_command_names_each_fault_and_only_that(
    root: Path, plant: Plant, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(root)
    assert main(["verify", str(root)]) == 1
    out, err = capsys.readouterr()
    named = {other for _, other in THE_EIGHT if f"\n{other} " in out}
    assert named == {name}
    assert "1 fault(s) found" in err
    assert names(audited(root)) == {name}


MORE: list[tuple[Plant, str]] = [
    (missing_last_object, "missing object"),
    (doubled_neighbour, "doubled line"),
    (doubled_from_before, "doubled line"),
    (doubled_from_later, "doubled line"),
    (doubled_and_claimed, "doubled line"),
    (doubled_in_its_object_and_claimed, "doubled line"),
    (cut_at_a_line, "cut object"),
    (cut_in_the_middle, "cut object"),
    (cut_last_newline, "cut object"),
    (emptied_object, "cut object"),
    (changed_source, "changed byte"),
    (changed_newline, "changed byte"),
    (grown_object, "changed byte"),
    (object_too_large_to_be_read, "changed byte"),
    (overlapping_copy, "overlapping claims"),
    (wrong_minute_by_its_lines, "wrong minute"),
    (wrong_minute_of_a_claim, "wrong minute"),
    (foreign_copy, "foreign file"),
    (foreign_object, "foreign file"),
    (foreign_claim, "foreign file"),
    (wrong_order_and_claimed, "wrong order"),
]


@pytest.mark.parametrize(("plant", "name"), MORE, ids=[plant.__name__ for plant, _ in MORE])
def test_other_ways_to_the_same_fault_have_its_name(root: Path, plant: Plant, name: str) -> None:
    plant(root)
    assert names(audited(root)) == {name}


def test_a_clean_root_is_clean(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(root)]) == 0
    out, err = capsys.readouterr()
    assert "clean: " in out
    assert err == ""
    (account,) = audited(root).chains
    assert (account.claims, account.objects, account.lines) == (MINUTES, MINUTES, MINUTES * A_MINUTE)
    assert account.bytes == sum(path.stat().st_size for path in root.rglob("*.json"))


class TestChains:
    def test_a_hole_between_two_claims(self, root: Path) -> None:
        claim = claims(root)[1]
        (root / claim.key).unlink()
        verdict = audited(root)
        assert names(verdict) == {"missing claim", "foreign file"}

    def test_the_first_claim_is_gone(self, root: Path) -> None:
        claim = claims(root)[0]
        (root / claim.key).unlink()
        (root / claim.objects[0].key).unlink()
        assert names(audited(root)) == {"missing claim"}

    def test_a_missing_birth(self, root: Path) -> None:
        next(root.glob("_cutbank/*/*/*/birth")).unlink()
        assert names(audited(root)) == {"missing birth"}

    def test_an_unreadable_birth(self, root: Path) -> None:
        next(root.glob("_cutbank/*/*/*/birth")).write_bytes(b"{}")
        assert names(audited(root)) == {"unreadable claim"}

    @pytest.mark.parametrize("index", range(MINUTES))
    def test_an_unreadable_claim_is_the_only_thing_said_of_it(self, root: Path, index: int) -> None:
        (root / claims(root)[index].key).write_bytes(b"not a claim")
        verdict = audited(root)
        assert [(finding.kind.label, finding.count) for finding in verdict.findings] == [("unreadable claim", 1)]

    def test_marks_that_do_not_follow(self, root: Path) -> None:
        claim = claims(root)[1]
        rewrite(root, claim, marks_before=claim.marks_after)
        assert "wrong marks" in names(audited(root))

    def test_marks_that_are_not_those_of_the_lines(self, root: Path) -> None:
        last = claims(root)[2]
        mark = last.marks_after[0]
        raised = mark.model_copy(update={"position": Position(mark.position + 9)})
        rewrite(root, last, marks_after=(raised, *last.marks_after[1:]))
        assert names(audited(root)) == {"wrong marks"}

    def test_a_line_of_another_pipeline(self, root: Path) -> None:
        anothers_line_and_claimed(root)
        verdict = audited(root)
        assert names(verdict) == {"foreign line", "wrong marks"}  # without it the marks are not those of the lines
        assert [finding.count for finding in verdict.findings if finding.kind.label == "foreign line"] == [1]

    def test_another_count_with_the_right_bytes(self, root: Path) -> None:
        claim = claims(root)[1]
        (item,) = claim.objects
        rewrite(root, claim, objects=(item.model_copy(update={"count": A_MINUTE + 1}),))
        assert names(audited(root)) == {"wrong count"}

    def test_an_object_under_another_name(self, root: Path) -> None:
        claim = claims(root)[1]
        (item,) = claim.objects
        other = item.key.replace("-0.json", "-5.json")
        (root / item.key).rename(root / other)
        rewrite(root, claim, objects=(item.model_copy(update={"key": other}),))
        assert names(audited(root)) == {"wrong name"}


def test_several_faults_are_each_counted_and_named(root: Path) -> None:
    missing_object(root)
    edit(data_file(root, 0), lambda lines: lines[::-1])
    for number in range(9):
        (root / f"foreign-{number}").write_text("mine")
    found = {finding.kind.label: finding for finding in audited(root).findings}
    assert {name: finding.count for name, finding in found.items()} == {
        "missing object": 1,
        "wrong order": 1,
        "foreign file": 9,
    }
    assert len(found["foreign file"].examples) == 5
    assert "…" in str(found["foreign file"])
