"""Tables as commands print them. What they show is never obeyed by the terminal: control characters are shown."""

import sys
from collections.abc import Iterable, Sequence
from typing import Final

_WIDTH: Final = 1000
"""Of a table that no terminal shows, characters: nothing in it is folded."""

HIDDEN: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
"""Control characters, as `str.translate` shows them."""

Cell = str | int | tuple[str, ...]
"""A tuple is one cell of several lines."""


def print_table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print a table; on no terminal a line is never folded. Numbers stand at the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, header_style="bold", pad_edge=False)
    for name in header:
        grid.add_column(name, overflow="fold")
    for row in rows:
        for column, cell in zip(grid.columns, row, strict=True):
            column.justify = "right" if isinstance(cell, int) else "left"
        grid.add_row(*(Text(_shown(cell)) for cell in row))  # Text: rich's own markup is not looked for
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(grid)


def _shown(cell: Cell) -> str:
    if isinstance(cell, int):
        return f"{cell:,}"
    return "\n".join(line.translate(HIDDEN) for line in ((cell,) if isinstance(cell, str) else cell))
