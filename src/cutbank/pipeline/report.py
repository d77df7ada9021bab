"""Draws what a pipeline scored: each feature and the score over time, anomalies marked, as one file that opens offline.

Reads [scores] alone, so the scorer must publish every score (`emit = all`). Memory is bounded: of the normal records
every k-th is kept, k a power of two, so that at most `NORMAL_POINTS_MAX` are drawn; anomalies are never left out, up
to `ANOMALY_POINTS_MAX`, past which the figure says so. Needs the extra `report` (plotly). Event-loop only.
"""

import contextlib
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from cutbank.errors import MissingExtra, UsageError
from cutbank.pipeline.audit import read_all
from cutbank.pipeline.spec import PipelineSpec
from cutbank.transports.base import Transport

NORMAL_POINTS_MAX = 100_000
"""Most normal records drawn."""

ANOMALY_POINTS_MAX = 100_000
"""Most anomalies drawn."""

WEBGL_POINTS_MIN = 20_000
"""From so many points on, they are drawn by the graphics card; below, as vectors, which any browser shows."""

TEXT_CHARACTERS_MAX = 80
"""Longest text that the pointer shows of a record."""

PANEL_HEIGHT_PX = 240
"""Height of a feature's panel."""

NORMAL_COLOUR, ANOMALY_COLOUR, THRESHOLD_COLOUR = "#4c78a8", "#d62728", "#b8860b"
"""Legible on white and on near-black, and told apart by people who see red and green alike: marks differ too."""


TOGETHER_RECORDS_MAX = 10_000
"""Records of one arrival time that are drawn side by side; more begin again at that time."""

TOGETHER_MS_MAX = 1000.0
"""Records of one arrival time are spread up to the next, at most so far; the last ones as far as those before them."""


@dataclass(slots=True)
class Points:
    """Records in the order of the log, as columns of one length."""

    times_ms: list[float] = field(default_factory=list)
    """Where they are drawn, milliseconds since the epoch."""
    scores: list[float] = field(default_factory=list)
    features: list[list[float]] = field(default_factory=list)
    """One list a feature."""
    texts: list[str] = field(default_factory=list)
    """What the pointer shows besides."""

    def __len__(self) -> int:
        return len(self.times_ms)

    def halve(self) -> None:
        """Keep every second record."""
        del self.texts[1::2]
        for column in (self.times_ms, self.scores, *self.features):
            del column[1::2]


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of [scores]."""

    time_ms: int
    score: float
    features: tuple[float, ...]
    text: str


@dataclass(slots=True)
class Scored:
    """What the figure is drawn from. `add` every line in order, then `finish`."""

    spec: PipelineSpec
    normal: Points
    anomalies: Points
    records: int = 0
    """All that were added."""
    every: int = 1
    """Of the normal records each so many-th is drawn."""
    anomalies_left_out: int = 0
    _normal_seen: int = 0
    _gap_ms: float = TOGETHER_MS_MAX
    _together: list[_Row] = field(default_factory=list)

    @classmethod
    def of(cls, spec: PipelineSpec) -> "Scored":
        """Nothing yet."""
        return cls(spec, Points(features=[[] for _ in spec.features]), Points(features=[[] for _ in spec.features]))

    def add(self, line: bytes) -> None:
        """Take a line of [scores]. Raises ValueError, KeyError, TypeError for a line that is none; then nothing is."""
        row = self._row(orjson.loads(line))
        if self._together and (self._together[0].time_ms != row.time_ms or len(self._together) == TOGETHER_RECORDS_MAX):
            self._spread(until_ms=row.time_ms)
        self._together.append(row)

    def finish(self) -> None:
        """No line follows in this partition."""
        if self._together:
            self._spread(until_ms=self._together[0].time_ms + self._gap_ms)

    def _row(self, line: dict[str, Any]) -> _Row:
        others = [column.name for column in self.spec.columns if column.name not in self.spec.features]
        return _Row(
            time_ms=round(datetime.fromisoformat(line["ROWTIME"]).timestamp() * 1000.0),
            score=float(line["ANOMALY_SCORE"]),
            features=tuple(float(line[name]) for name in self.spec.features),
            text=" ".join(str(line[name]) for name in others if line[name] is not None)[:TEXT_CHARACTERS_MAX],
        )

    def _spread(self, *, until_ms: float) -> None:
        """Draw records that arrived at one time side by side, up to the next arrival."""
        began_ms = self._together[0].time_ms
        self._gap_ms = min(max(until_ms - began_ms, 0.0), TOGETHER_MS_MAX)
        step_ms = self._gap_ms / len(self._together)
        for number, row in enumerate(self._together):
            self._place(row, time_ms=began_ms + number * step_ms)
        self._together.clear()

    def _place(self, row: _Row, *, time_ms: float) -> None:
        self.records += 1
        if row.score > self.spec.threshold:
            if len(self.anomalies) == ANOMALY_POINTS_MAX:
                self.anomalies_left_out += 1
                return
            points = self.anomalies
        else:
            self._normal_seen += 1
            if (self._normal_seen - 1) % self.every:
                return
            points = self.normal
        points.times_ms.append(time_ms)
        points.scores.append(row.score)
        points.texts.append(row.text)
        for column, value in zip(points.features, row.features, strict=True):
            column.append(value)
        if len(self.normal) > NORMAL_POINTS_MAX:
            self.normal.halve()
            self.every *= 2


async def read_scored(transport: Transport, spec: PipelineSpec) -> Scored:
    """All of [scores]; lines that are no scores are left to the accounts. Raises StreamMissing, PositionLost."""
    scored = Scored.of(spec)
    partition = None
    async for batch in read_all(transport, await transport.describe(spec.scores)):
        if batch.partition != partition:
            scored.finish()
            partition = batch.partition
        for value in batch.values:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                scored.add(value)
    scored.finish()
    return scored


def require_plotly() -> None:
    """Raise MissingExtra unless the extra `report` is installed: to be asked before a long run, not after it."""
    _plotly()


def write_report(path: Path, scored: Scored, *, subtitle: str = "") -> None:
    """Draw and save; blocking. Raises MissingExtra, UsageError when the file can't be written."""
    text = page(scored, subtitle=subtitle)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"report {path}: {error.strerror}") from None


def page(scored: Scored, *, subtitle: str = "") -> str:
    """The whole file: plotly.js, the data and nothing that is loaded from elsewhere. Raises MissingExtra."""
    drawn = figure(scored).to_html(
        full_html=False,
        include_plotlyjs=True,
        config={"displaylogo": False, "responsive": True},
        div_id="figure",
        post_script=_FOLLOW_THEME,
    )
    title = html.escape(f"{scored.spec.name}: what was scored")
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in (subtitle, *_notes(scored)) if note)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n</head>\n<body>\n'
        f"<h1>{title}</h1>\n{notes}\n{drawn}\n</body>\n</html>\n"
    )


def figure(scored: Scored) -> Any:
    """A plotly Figure: a panel a feature, then the score with its threshold, over one time axis; or MissingExtra."""
    graph_objects, subplots = _plotly()
    spec = scored.spec
    names = [*spec.features, "ANOMALY_SCORE"]
    drawn = subplots.make_subplots(rows=len(names), cols=1, shared_xaxes=True, vertical_spacing=0.08 / len(names))
    webgl = len(scored.normal) + len(scored.anomalies) >= WEBGL_POINTS_MIN
    scatter = graph_objects.Scattergl if webgl else graph_objects.Scatter
    for row, name in enumerate(names, 1):
        for points, label, marker in (
            (scored.normal, "normal", {"color": NORMAL_COLOUR, "size": 4, "opacity": 0.6}),
            (scored.anomalies, "anomaly", {"color": ANOMALY_COLOUR, "size": 8, "symbol": "diamond-open"}),
        ):
            trace = scatter(
                x=_array(points.times_ms),
                y=_array(points.scores if row == len(names) else points.features[row - 1]),
                text=points.texts,
                mode="markers",
                marker=marker,
                name=f"{label} ({len(points):,} drawn)",
                legendgroup=label,
                showlegend=row == 1,
                hovertemplate=f"%{{x|%H:%M:%S.%L}}<br>{html.escape(name)} %{{y}}<br>%{{text}}<extra>{label}</extra>",
            )
            drawn.add_trace(trace, row=row, col=1)
        drawn.update_yaxes(title_text=name, row=row, col=1, zeroline=False)
        drawn.update_xaxes(type="date", row=row, col=1)
    drawn.add_hline(
        y=spec.threshold,
        row=len(names),
        col=1,
        line={"color": THRESHOLD_COLOUR, "dash": "dash"},
        annotation_text=f"threshold {spec.threshold:g}",
        annotation_position="top left",
    )
    drawn.update_xaxes(title_text="ROWTIME (UTC)", row=len(names), col=1)
    drawn.update_layout(
        height=PANEL_HEIGHT_PX * len(names) + 120,
        template="plotly_white",
        margin={"l": 80, "r": 30, "t": 60, "b": 60},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "yref": "paper", "x": 1.0, "xanchor": "right"},
        font={"size": 13},
    )
    return drawn


_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.4 system-ui,sans-serif;margin:1.5rem;background:#fff;color:#222}"
    "h1{font-size:1.3rem;margin:0 0 .3rem}p{margin:.1rem 0}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#eee}}"
)

_FOLLOW_THEME = """
const dark = window.matchMedia('(prefers-color-scheme: dark)');
function follow() {
  const figure = document.getElementById('{plot_id}');
  const ink = dark.matches ? '#eee' : '#222', paper = dark.matches ? '#111' : '#fff';
  const grid = dark.matches ? '#333' : '#e5e5e5';
  const change = {paper_bgcolor: paper, plot_bgcolor: paper, 'font.color': ink};
  for (const axis of Object.keys(figure.layout).filter(key => /^[xy]axis/.test(key))) {
    change[axis + '.gridcolor'] = grid;
    change[axis + '.linecolor'] = grid;
  }
  Plotly.relayout(figure, change);
}
dark.addEventListener('change', follow);
follow();
"""
"""The figure takes the page's colours, light or dark, and follows when they change."""


def _notes(scored: Scored) -> list[str]:
    notes = [f"{scored.records:,} records; times are ROWTIME in UTC, records that arrived together side by side."]
    if scored.every > 1:
        notes.append(f"Of the normal records one in {scored.every} is drawn; of the anomalies every one.")
    if scored.anomalies_left_out:
        notes.append(f"{scored.anomalies_left_out:,} anomalies after the first {ANOMALY_POINTS_MAX:,} are not drawn.")
    if not scored.records:
        notes.append("There are no scores: run the scorer with --emit all.")
    return notes


def _array(values: Sequence[float]) -> Any:
    return np.asarray(values, dtype=np.float64)


def _plotly() -> tuple[Any, Any]:
    try:
        from plotly import graph_objects, subplots
    except ImportError:
        raise MissingExtra("the report needs plotly: install it with pip install 'cutbank[report]'") from None
    return graph_objects, subplots
