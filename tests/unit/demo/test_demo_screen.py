"""Frames, lines and summaries are functions of values: what they show, and that they fit."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from cutbank.cli.demo import screen
from cutbank.cli.demo.screens import Lines, best_picture
from cutbank.cli.demo.view import COLUMNS_MAX, View, row_of, table_columns
from cutbank.pipeline.accounts import Accounts, FindingKind, Quality
from cutbank.pipeline.findings import Finding
from cutbank.pipeline.spec import PipelineSpec

SPEC = PipelineSpec()
COLUMNS = table_columns(SPEC)
ANOMALY = {
    "tickerSymbol": "OXBOW",
    "tradeType": "SELL",
    "price": 251.37,
    "quantity": 288,
    "id": 1_000_000_005,
    "ANOMALY_SCORE": 2.3456,
    "ROWTIME": "2026-11-23T06:12:07.123Z",
}
VIEW = View(
    phase="running",
    elapsed_s=12.3,
    total_s=30.0,
    records=1_200,
    records_total=None,
    records_per_s=99.6,
    scorer_lag=3,
    sink_lag=12,
    anomalies=58,
    errors=1,
    learning=None,
    columns=COLUMNS,
    recent=tuple(row_of(ANOMALY | {"price": n}, COLUMNS, arrival_ms=0) for n in range(50)),
    objects=2,
    newest_object="2026/11/23/06/x.json",
    notes=(),
)
ACCOUNTS = Accounts(
    produced=1_200,
    scored=1_199,
    errors=1,
    errors_by_reason=(("invalid_json", 1),),
    anomalies=58,
    lines=58,
    objects=tuple(f"2026/11/23/06/{n}.json" for n in range(7)),
    past_retention=0,
    findings=(),
    quality=Quality(warm_up=256, true_positives=50, false_positives=8, false_negatives=0, true_negatives=885),
)


def drawn(part: RenderableType, *, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def summed_up(accounts: Accounts, *, objects_root: str, width: int = 100) -> str:
    """The summary as the demo prints it: part by part, no line broken."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    for part in screen.summary(accounts, objects_root=objects_root):
        console.print(part, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_frame_shows_progress_figures_and_the_newest_anomalies() -> None:
    text = drawn(screen.frame(VIEW, lines=30))
    assert "00:12 / 00:30" in text
    assert "41%" in text
    figures = text.splitlines()[4].split()
    assert figures == ["1,200", "100", "3", "58", "1", "2"]
    header = next(line for line in text.splitlines() if "ticker" in line)
    assert header.split() == ["time", "ticker", "side", "price", "quantity", "score"]
    rows = [line for line in text.splitlines() if "OXBOW" in line]
    assert rows[0].split() == ["06:12:07.123", "OXBOW", "SELL", "0", "288", "2.35"]
    assert "newest object: 2026/11/23/06/x.json" in text


@pytest.mark.parametrize("lines", [14, 16, 24, 30, 60])
@pytest.mark.parametrize("notes", [(), ("a died",), ("a", "b", "c", "d", "e" * 500)])
def test_a_frame_fits_the_terminal(lines: int, notes: tuple[str, ...]) -> None:
    view = replace(VIEW, notes=notes, newest_object="2026/" + "x" * 300)
    text = drawn(screen.frame(view, lines=lines), width=80)
    room = max(lines, screen.FRAME_LINES_FIXED + min(len(notes), screen.NOTES_SHOWN_MAX) + 1)
    assert len(text.splitlines()) <= room


def test_only_the_newest_notes_are_shown() -> None:
    text = drawn(screen.frame(replace(VIEW, notes=("one", "two", "three", "four")), lines=40))
    assert "! one" not in text
    assert text.splitlines()[-3:] == ["! two", "! three", "! four"]


def test_text_from_records_is_never_markup() -> None:
    row = row_of(ANOMALY | {"tickerSymbol": "[bold]x[/]"}, COLUMNS, arrival_ms=0)
    assert "[bold]x[/]" in drawn(screen.frame(replace(VIEW, recent=(row,)), lines=30))


def test_control_characters_in_records_do_not_reach_the_terminal() -> None:
    row = row_of(ANOMALY | {"tickerSymbol": "a\x1b[2Jb\nc\x9bd"}, COLUMNS, arrival_ms=0)
    assert row.cells[0] == "a?[2Jb?c?d"


def test_while_the_detector_learns_the_frame_says_so() -> None:
    text = drawn(screen.frame(replace(VIEW, recent=(), learning=(100, 256)), lines=30))
    assert "learning: 100 of the 256 records before the first score" in text


def test_progress_of_an_input_is_by_records_scored() -> None:
    view = replace(VIEW, total_s=None, records=600, records_total=1_000, scorer_lag=100)
    assert view.share_done == 0.5
    assert replace(view, total_s=20.0).share_done == pytest.approx(0.615)
    assert replace(view, records_total=None).share_done is None
    assert replace(view, records_total=0).share_done is None
    assert "12s, 50%" in screen.line(view)
    assert screen.line(replace(view, records_total=None)).startswith("12s  running  600 records")


def test_a_line_says_everything_on_one_line() -> None:
    text = screen.line(VIEW)
    assert text == (
        "12s of 30s  running  1,200 records  100/s  lag 3  58 anomalies  1 errors  2 objects  "
        "latest: 06:12:07.123 ticker=OXBOW side=SELL price=0 quantity=288 score=2.35"
    )


def test_lines_come_every_five_seconds_and_at_the_first_anomaly_and_every_change() -> None:
    out = io.StringIO()
    lines = Lines(Console(file=out))
    quiet = replace(VIEW, recent=())
    for elapsed_s in (0.0, 0.3, 1.0):
        lines.show(replace(quiet, elapsed_s=elapsed_s))
    lines.show(replace(VIEW, elapsed_s=2.0))
    lines.show(replace(VIEW, elapsed_s=4.9))
    lines.show(replace(VIEW, elapsed_s=5.1))
    lines.show(replace(VIEW, elapsed_s=5.4))
    lines.note("the scorer died")
    lines.show(replace(VIEW, elapsed_s=6.0, phase="scoring what is left"))
    shown = [line.split("  ")[0] for line in out.getvalue().splitlines()]
    assert shown == ["0s of 30s", "2s of 30s", "5s of 30s", "! the scorer died", "6s of 30s"]


def test_the_summary_marks_each_equation() -> None:
    text = summed_up(ACCOUNTS, objects_root="data/anomalies", width=60)
    assert text.count("✓") == 2
    assert "✗" not in text
    assert "1,199 + 1" in text
    assert "1 invalid_json" in text
    assert "0.862" in text
    assert "1.000" in text
    assert "7 objects:\n  data/anomalies/2026/11/23/06/0.json\n" in text
    assert text.splitlines()[-1] == "  … and 2 more"


def test_the_summary_counts_errors_in_objects_where_they_are_sunk() -> None:
    sunk = summed_up(replace(ACCOUNTS, error_lines=1), objects_root="d")
    assert re.search(r"= errors in objects\W+1\W+✓", sunk)
    assert "errors in objects" not in summed_up(ACCOUNTS, objects_root="d")
    assert "errors in objects" not in summed_up(replace(ACCOUNTS, errors=0, error_lines=0), objects_root="d")
    missing = Finding(FindingKind.ERROR_MISSING, 1, ("0/17",))
    assert re.search(
        r"= errors in objects\W+0\W+✗",
        summed_up(replace(ACCOUNTS, error_lines=0, findings=(missing,)), objects_root="d"),
    )


def test_a_long_path_stays_in_one_line() -> None:
    root = "a-folder-with-a-long-name/" * 5 + "anomalies"
    lines = summed_up(ACCOUNTS, objects_root=root, width=60).splitlines()
    assert f"  {root}/2026/11/23/06/0.json" in lines


def test_the_summary_names_what_is_wrong() -> None:
    finding = Finding(FindingKind.DOUBLED_LINE, 1, ("2026/x.json line 3: 0/17 (run 1)",))
    text = summed_up(replace(ACCOUNTS, findings=(finding,), quality=None), objects_root="d")
    assert text.count("✓") == 1
    assert (
        "✗ doubled line: 1 (anomalies that are in the objects more than once): 2026/x.json line 3: 0/17 (run 1)" in text
    )
    assert "precision" not in text


def test_a_picture_loads_nothing_and_shows_the_frame() -> None:
    text = screen.picture(VIEW, title="cutbank demo")
    assert text.startswith("<svg")
    assert "OXBOW" in text
    assert "url(" not in text.replace("url(#", "")
    assert "@font-face" not in text


def test_the_best_picture_is_the_last_one_with_anomalies_while_running() -> None:
    quiet = replace(VIEW, recent=())
    assert best_picture(None, quiet) is None
    assert best_picture(None, VIEW) is VIEW
    assert best_picture(VIEW, quiet) is VIEW
    assert best_picture(VIEW, replace(VIEW, phase="done")) is VIEW


def test_wide_records_show_their_features_first_of_all() -> None:
    columns = [{"name": f"c{n}", "type": "DOUBLE"} for n in range(12)]
    spec = PipelineSpec.model_validate({"columns": columns, "features": ["c11", "c3"]})
    names = [column.name for column in table_columns(spec)]
    assert names == ["c0", "c1", "c2", "c3", "c4", "c11"]
    many = PipelineSpec.model_validate({"columns": columns, "features": [f"c{n}" for n in range(8)]})
    assert len(table_columns(many)) == COLUMNS_MAX


def test_a_feature_is_shown_whatever_its_name() -> None:
    spec = PipelineSpec.model_validate({"columns": [{"name": "id", "type": "DOUBLE"}], "features": ["id"]})
    assert [column.name for column in table_columns(spec)] == ["id"]


def test_cells_are_short() -> None:
    row = row_of(ANOMALY | {"tickerSymbol": "x" * 100, "tradeType": None}, COLUMNS, arrival_ms=0)
    assert row.cells[0] == "x" * 23 + "…"
    assert row.cells[1] == ""


def test_numbers_are_shown_to_eight_digits() -> None:
    cells = row_of(ANOMALY | {"price": 246.71846380668546, "quantity": 10**12}, COLUMNS, arrival_ms=0).cells
    assert cells[2:] == ("246.71846", "1000000000000")
