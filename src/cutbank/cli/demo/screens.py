"""Where the demo shows itself: a terminal, redrawn in place, or plain lines where there is none.

Event-loop only; drawing is quick and done where it stands.
"""

from typing import Protocol, Self

from rich.console import Console
from rich.live import Live

from cutbank.cli.demo import screen
from cutbank.cli.demo.view import RUNNING, View

LINE_S = 5.0
"""Seconds between two plain lines."""


class Screen(Protocol):
    """A place to show views and notes, between entry and exit."""

    picture: View | None
    """The view that says most of this run: the last one with recent anomalies while records came in."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *failure: object) -> None: ...

    def show(self, view: View) -> None:
        """A new state of things."""
        ...

    def note(self, text: str) -> None:
        """Something that people should see, now."""
        ...


class Terminal:
    """Redraws one frame in place; the last one stays."""

    def __init__(self, console: Console) -> None:
        self.picture: View | None = None
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.stop()

    def show(self, view: View) -> None:
        """Redraw."""
        self.picture = best_picture(self.picture, view)
        self._live.update(screen.frame(view, lines=self._console.size.height - 1), refresh=True)

    def note(self, text: str) -> None:
        """Nothing: the next frame carries it."""


class Lines:
    """A line every `LINE_S` seconds, one at the first anomaly, and one for every note."""

    def __init__(self, console: Console) -> None:
        self.picture: View | None = None
        self._console = console
        self._due_s = 0.0
        self._phase = ""
        self._anomaly_shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None: ...

    def show(self, view: View) -> None:
        """Print a line if one is due, or the phase has changed, or the first anomaly has come."""
        self.picture = best_picture(self.picture, view)
        first = bool(view.recent) and not self._anomaly_shown
        if not (first or view.elapsed_s >= self._due_s or view.phase != self._phase):
            return
        if view.elapsed_s >= self._due_s:
            self._due_s = view.elapsed_s - view.elapsed_s % LINE_S + LINE_S
        self._phase = view.phase
        self._anomaly_shown = self._anomaly_shown or bool(view.recent)
        self._print(screen.line(view))

    def note(self, text: str) -> None:
        """Print it."""
        self._print(f"! {text}")

    def _print(self, text: str) -> None:
        # Straight to the stream: no wrapping at a width that nobody has, and each line at once.
        self._console.file.write(text + "\n")
        self._console.file.flush()


def screen_for(console: Console) -> Screen:
    """The terminal's, if this is one."""
    return Terminal(console) if console.is_terminal else Lines(console)


def best_picture(before: View | None, view: View) -> View | None:
    """The later of two views that show anomalies at work; while records come in, rather than while draining."""
    if not view.recent or view.records_per_s <= 0:
        return before
    if before is not None and before.phase == RUNNING and view.phase != RUNNING:
        return before
    return view
