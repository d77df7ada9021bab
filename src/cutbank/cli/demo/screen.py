"""Draws the demo: a frame for a terminal, a line for a log file, the summary at the end. Pure functions of values.

Everything from a record is drawn as plain text, never as markup.
"""

import io
import re
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cutbank.cli.demo.view import RECENT_S, View, printable
from cutbank.pipeline.accounts import Accounts, Side

FRAME_LINES_FIXED = 10
"""Lines of a frame beside the table's rows and the notes."""

NOTES_SHOWN_MAX = 3
"""Notes in a frame, the newest."""

ROWS_SHOWN_MAX = 20
"""Rows in the table, however tall the terminal."""

OBJECTS_SHOWN_MAX = 5
"""Objects that the summary names; the rest is counted."""

PICTURE_COLUMNS = 100
PICTURE_LINES = 30
"""Size of the terminal that a picture shows."""


def frame(view: View, *, lines: int) -> RenderableType:
    """A frame that is at most `lines` high (at least one row of the table is always shown)."""
    notes = view.notes[-NOTES_SHOWN_MAX:]
    rows = max(min(lines - FRAME_LINES_FIXED - len(notes), ROWS_SHOWN_MAX), 1)
    parts: list[RenderableType] = [
        Text.assemble(("cutbank demo", "bold"), "  ", (view.phase, "cyan")),
        _progress(view),
        Text(),
        _figures(view),
        Text(),
        _anomalies(view, rows=rows),
    ]
    parts.extend(Text(f"! {note}", style="bold red", no_wrap=True, overflow="ellipsis") for note in notes)
    return Group(*parts)


def line(view: View) -> str:
    """One plain line: where there is no terminal."""
    if view.total_s is not None:
        until = f" of {view.total_s:.0f}s"
    else:
        until = f", {view.share_done:.0%}" if view.share_done is not None else ""
    parts = [
        f"{view.elapsed_s:.0f}s{until}",
        view.phase,
        f"{view.records:,} records",
        f"{view.records_per_s:,.0f}/s",
        f"lag {view.scorer_lag:,}",
        f"{view.anomalies:,} anomalies",
        f"{view.errors:,} errors",
        _plural(view.objects, "object"),
    ]
    if view.recent:
        parts.append("latest: " + anomaly_text(view))
    return "  ".join(parts)


def anomaly_text(view: View) -> str:
    """The newest anomaly in words; there must be one."""
    newest = view.recent[0]
    cells = " ".join(f"{column.heading}={cell}" for column, cell in zip(view.columns, newest.cells, strict=True))
    return f"{newest.time} {cells} score={newest.score:.2f}"


def summary(accounts: Accounts, *, objects_root: str) -> list[RenderableType]:
    """The accounts, equation by equation, and where the objects are.

    Parts to be printed one by one with `soft_wrap`: a path in two lines could not be copied.
    """
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", overflow="fold")
    table.add_column(justify="center")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in accounts.errors_by_reason)
    table.add_row("records produced", f"{accounts.produced:,}", "")
    table.add_row("  = scored + errors", f"{accounts.scored:,} + {accounts.errors:,}", _mark(accounts, Side.RECORDS))
    if reasons:
        table.add_row("  errors by reason", Text(printable(reasons)), "")
    if accounts.error_lines is not None and (accounts.errors or accounts.error_lines):
        table.add_row("  = errors in objects", f"{accounts.error_lines:,}", _mark(accounts, Side.ERRORS))
    table.add_section()
    table.add_row("anomalies scored", f"{accounts.anomalies:,}", "")
    table.add_row("  = anomalies in objects", f"{accounts.lines:,}", _mark(accounts, Side.ANOMALIES))
    if accounts.past_retention:
        table.add_row("  past retention, not checked", f"{accounts.past_retention:,}", "")
    if accounts.quality is not None:
        table.add_section()
        table.add_row("precision", _share(accounts.quality.precision), "")
        table.add_row("recall", _share(accounts.quality.recall), "")
        table.add_row("  warm-up left out", f"{accounts.quality.warm_up:,}", "")
    parts: list[RenderableType] = [Text("Accounts, recounted from the log and the objects", style="bold"), table]
    parts.extend(Text(f"✗ {printable(str(finding))}", style="bold red") for finding in accounts.findings)
    parts.append(Text(_plural(len(accounts.objects), "object") + (":" if accounts.objects else "")))
    parts.extend(Text(f"  {printable(f'{objects_root}/{key}')}") for key in accounts.objects[:OBJECTS_SHOWN_MAX])
    if len(accounts.objects) > OBJECTS_SHOWN_MAX:
        parts.append(Text(f"  … and {len(accounts.objects) - OBJECTS_SHOWN_MAX:,} more"))
    return parts


def picture(view: View, *, title: str) -> str:
    """An SVG of a terminal that shows this view; it loads nothing from anywhere."""
    console = Console(
        record=True,
        file=io.StringIO(),
        width=PICTURE_COLUMNS,
        height=PICTURE_LINES,
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(frame(view, lines=PICTURE_LINES))
    drawn = console.export_svg(title=title)
    # rich's template names a font on a public server; without it the viewer's own monospace font is taken.
    return re.sub(r"@font-face \{.*?\}\n?", "", drawn, flags=re.DOTALL)


def write_picture(path: Path, view: View, *, title: str) -> None:
    """Save `picture`."""
    path.write_text(picture(view, title=title), encoding="utf-8")


def _progress(view: View) -> RenderableType:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    share = view.share_done
    bar = ProgressBar(total=1.0, completed=share or 0.0, pulse=share is None, animation_time=view.elapsed_s)
    done = f"{share:>4.0%}  " if share is not None else ""
    total = f" / {_clock(view.total_s)}" if view.total_s is not None else ""
    grid.add_row(bar, f"{done}{_clock(view.elapsed_s)}{total}")
    return grid


def _figures(view: View) -> RenderableType:
    grid = Table.grid(padding=(0, 3))
    names = ("records", "records/s", "lag", "anomalies", "errors", "objects")
    values = (
        f"{view.records:,}",
        f"{view.records_per_s:,.0f}",
        f"{view.scorer_lag:,}",
        f"{view.anomalies:,}",
        f"{view.errors:,}",
        f"{view.objects:,}",
    )
    for _ in names:
        grid.add_column(justify="right", no_wrap=True)
    grid.add_row(*(Text(name, style="dim") for name in names))
    grid.add_row(*(Text(value, style="bold") for value in values))
    return grid


def _anomalies(view: View, *, rows: int) -> RenderableType:
    table = Table(
        title=f"Anomalies of the last {RECENT_S:.0f} seconds",
        title_justify="left",
        caption=Text(_caption(view), style="dim", no_wrap=True, overflow="ellipsis"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        expand=True,
    )
    table.add_column("time", no_wrap=True)
    for column in view.columns:
        table.add_column(Text(column.heading), justify="right" if column.numeric else "left", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True, style="bold yellow")
    for row in view.recent[:rows]:
        table.add_row(row.time, *(Text(cell) for cell in row.cells), f"{row.score:.2f}")
    return table


def _caption(view: View) -> str:
    if view.learning is not None:
        known, needed = view.learning
        return f"learning: {known:,} of the {needed:,} records before the first score"
    return f"newest object: {view.newest_object}" if view.newest_object else "no object yet"


def _mark(accounts: Accounts, side: Side) -> Text:
    return Text("✓", style="bold green") if accounts.holds(side) else Text("✗", style="bold red")


def _share(value: float | None) -> str:
    return "none to find" if value is None else f"{value:.3f}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:02d}:{rest:02d}"
