"""The figure shows every anomaly, thins the rest, and opens offline."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest

from cutbank.errors import MissingExtra, UsageError
from cutbank.metrics import NoMetrics
from cutbank.pipeline import report
from cutbank.pipeline.report import Scored, figure, page, read_scored, require_plotly, write_report
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Message
from cutbank.testing.clock import START_MS, ManualClock
from cutbank.transports.base import StreamConfig
from cutbank.transports.local import open_local

SPEC = PipelineSpec()


def line(number: int, score: float, *, time_ms: int, ticker: str = "OXBOW") -> bytes:
    rowtime = datetime.fromtimestamp(time_ms / 1000.0, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return orjson.dumps(
        {
            "tickerSymbol": ticker,
            "tradeType": None,
            "price": 100.0 + number,
            "quantity": number,
            "id": number,
            "ANOMALY_SCORE": score,
            "ROWTIME": rowtime,
        }
    )


def scored_of(lines: Iterator[bytes] | list[bytes]) -> Scored:
    scored = Scored.of(SPEC)
    for text in lines:
        scored.add(text)
    scored.finish()
    return scored


def test_records_that_arrive_together_are_drawn_side_by_side_until_the_next() -> None:
    scored = scored_of([line(n, 0.7, time_ms=START_MS + n // 4 * 200) for n in range(8)])
    began = [time - START_MS for time in scored.normal.times_ms]
    assert began == [0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 350.0]
    assert scored.normal.features == [[100.0 + n for n in range(8)], [float(n) for n in range(8)]]
    assert scored.normal.texts[0] == "OXBOW 0"


def test_a_pause_does_not_stretch_what_came_before_it() -> None:
    scored = scored_of(
        [line(0, 0.7, time_ms=START_MS), line(1, 0.7, time_ms=START_MS), line(2, 0.7, time_ms=START_MS + 90_000)]
    )
    assert [time - START_MS for time in scored.normal.times_ms] == [0.0, 500.0, 90_000.0]


def test_thinning_keeps_every_anomaly_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "NORMAL_POINTS_MAX", 100)
    scored = scored_of(line(n, 2.0 if n % 10 == 0 else 0.7, time_ms=START_MS + n) for n in range(1000))
    assert len(scored.anomalies) == 100
    assert scored.anomalies.features[1] == [float(n) for n in range(0, 1000, 10)]
    assert scored.every == 16
    normal = [n for n in range(1000) if n % 10]
    assert scored.normal.features[1] == [float(n) for n in normal[:: scored.every]]
    assert scored.records == 1000
    text = page(scored)
    assert "one in 16 is drawn; of the anomalies every one" in text


def test_anomalies_past_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "ANOMALY_POINTS_MAX", 5)
    scored = scored_of(line(n, 2.0, time_ms=START_MS + n) for n in range(8))
    assert len(scored.anomalies) == 5
    assert scored.anomalies_left_out == 3
    assert "3 anomalies after the first 5 are not drawn" in page(scored)


def test_more_records_at_one_time_than_are_held_begin_again_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "TOGETHER_RECORDS_MAX", 4)
    scored = scored_of(line(n, 0.7, time_ms=START_MS) for n in range(6))
    assert len(scored.normal) == 6
    assert scored.normal.times_ms[4] == START_MS


def test_a_panel_for_each_feature_and_the_score_with_its_threshold() -> None:
    drawn = figure(scored_of([line(0, 0.7, time_ms=START_MS), line(1, 2.0, time_ms=START_MS + 5)]))
    titles = [drawn.layout[axis].title.text for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert titles == ["price", "quantity", "ANOMALY_SCORE"]
    assert [trace.type for trace in drawn.data] == ["scatter"] * 6
    assert list(drawn.data[5].y) == [2.0]
    (threshold,) = drawn.layout.shapes
    assert (threshold.y0, threshold.y1, threshold.yref) == (1.0, 1.0, "y3")
    assert drawn.layout.annotations[-1].text == "threshold 1"


def test_many_points_are_left_to_the_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "WEBGL_POINTS_MIN", 10)
    drawn = figure(scored_of(line(n, 0.7, time_ms=START_MS + n) for n in range(10)))
    assert {trace.type for trace in drawn.data} == {"scattergl"}


class _Loads(HTMLParser):
    """What a page would load or link to, and the text outside of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {name}={value}" for name, value in attrs if name in {"src", "href", "data"}]


def test_the_page_is_whole_and_loads_nothing() -> None:
    text = page(scored_of([line(0, 2.0, time_ms=START_MS)]), subtitle="1 record; <b>balances</b>")
    parser = _Loads()
    parser.feed(text)
    assert parser.loads == []
    assert "plotly.js v" in text
    assert "MathJax.js" not in text.split("plotly.js v")[0]
    assert "1 record; &lt;b&gt;balances&lt;/b&gt;" in text
    assert "prefers-color-scheme" in text


def test_text_of_a_record_cannot_end_the_script() -> None:
    text = page(scored_of([line(0, 2.0, time_ms=START_MS, ticker="</script><img src=x>")]))
    parser = _Loads()
    parser.feed(text)
    assert parser.loads == []


def test_an_empty_log_says_what_to_do() -> None:
    assert "run the scorer with --emit all" in page(scored_of([]))


async def test_it_reads_the_scores_and_leaves_what_is_none(tmp_path: Path) -> None:
    async with open_local(f"local://{tmp_path}/log.db", clock=ManualClock(), metrics=NoMetrics()) as log:
        await log.ensure(StreamConfig(SPEC.scores, partitions=2))
        await log.publish(
            [Message(SPEC.scores, line(n, 0.7, time_ms=START_MS + n), partition_id=str(n % 2)) for n in range(10)]
            + [Message(SPEC.scores, b"nonsense"), Message(SPEC.scores, b"{}"), Message(SPEC.scores, b"[1]")]
        )
        scored = await read_scored(log, SPEC)
    assert scored.records == 10
    assert sorted(scored.normal.features[1]) == [float(n) for n in range(10)]


def test_a_missing_plotly_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingExtra, match=r"cutbank\[report\]"):
        require_plotly()


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        write_report(tmp_path / "no" / "report.html", scored_of([]))
