"""`cutbank errors`: what it lists, shows and sends again on a real log, and what it says when it can't."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import OutcomeUnknown
from cutbank.metrics import NoMetrics
from cutbank.pipeline.scoring.decode import Reason
from cutbank.pipeline.scoring.lines import ERROR_PAYLOAD_BYTES_MAX
from cutbank.records import Message
from cutbank.transports import open_transport
from cutbank.transports.base import StreamConfig, Transport
from cutbank.transports.local.lease import LocalLease
from errors_stage import SPEC, Bad, contents, make_streams, report

from .conftest import Run

URL = "local://data/log.db"
NULL, JSON = Reason.NULL_FEATURE, Reason.INVALID_JSON
LONG = b'{"price":null,"pad":"' + b"x" * ERROR_PAYLOAD_BYTES_MAX + b'"}'
BAD = [
    Bad(b'{"price":null}', NULL),
    Bad(b"{\x1b[31m\xff", Reason.INVALID_UTF8),
    Bad(b'{"price":[red]}', JSON, key=b"AMZN"),
    Bad(LONG, NULL),
]


def on_the_log(act: Callable[[Transport], Awaitable[None]], *, days: int = 0) -> None:
    class Later(SystemClock):
        def now_ms(self) -> int:
            return super().now_ms() + days * 24 * 3600 * 1000

    async def go() -> None:
        async with open_transport(URL, clock=Later(), metrics=NoMetrics()) as transport:
            await act(transport)

    asyncio.run(go())


@pytest.fixture
def spec(folder: Path) -> Sequence[str]:
    (folder / "p.toml").write_text('name = "p"\n', encoding="utf-8")
    return ("--spec", "p.toml")


@pytest.fixture
def filled(spec: Sequence[str]) -> Sequence[str]:
    async def fill(transport: Transport) -> None:
        await make_streams(transport)
        await report(transport, BAD)

    on_the_log(fill)
    return spec


def sent() -> list[tuple[bytes, bytes | None]]:
    """What the source stream holds after the first time."""
    found: list[tuple[bytes, bytes | None]] = []

    async def read(transport: Transport) -> None:
        found.extend((await contents(transport, SPEC.source, after=len(BAD)))["0"])

    on_the_log(read)
    return found


def test_a_list_has_the_newest_last_and_counts_all(cutbank: Run, filled: Sequence[str]) -> None:
    code, out, err = cutbank("errors", "list", *filled)
    assert (code, err) == (0, "")
    head, *rows, total = out.splitlines()
    assert head.split() == ["error", "time", "reason", "source", "record", "message"]
    assert [row.split()[:4] for row in rows] == [
        ["0/0", "2026-09-21T14:13:20.000Z", "null_feature", "trades/0/0"],
        ["0/1", "2026-09-21T14:13:21.000Z", "invalid_utf8", "trades/0/1"],
        ["0/2", "2026-09-21T14:13:22.000Z", "invalid_json", "trades/0/2"],
        ["0/3", "2026-09-21T14:13:23.000Z", "null_feature", "trades/0/3"],
    ]
    assert "{\\x1b[31m\\xff" in rows[1]
    assert '{"price":[red]}' in rows[2]
    assert [row.split()[-2:] for row in rows] == [["message", str(number)] for number in range(4)]
    assert rows[3].count("x") < 48
    assert "…" in rows[3]
    assert total == "4 error(s): 2 null_feature, 1 invalid_utf8, 1 invalid_json"


@pytest.mark.parametrize(
    ("options", "places"),
    [
        (["--reason", "null_feature"], ["0/0", "0/3"]),
        (["--reason", "null_feature", "--reason", "invalid_json"], ["0/0", "0/2", "0/3"]),
        (["--reason", "empty"], []),
        (["--from", "2026-09-21T14:13:21Z"], ["0/1", "0/2", "0/3"]),
        (["--from", "1790000001001"], ["0/2", "0/3"]),
        (["--to", "2026-09-21T14:13:22Z"], ["0/0", "0/1"]),
        (["--from", "2026-09-21T14:13:21", "--to", "2026-09-21T16:13:23+02:00", "--limit", "1"], ["0/2"]),
        (["--limit", "2"], ["0/2", "0/3"]),
    ],
)
def test_filters(cutbank: Run, filled: Sequence[str], options: list[str], places: list[str]) -> None:
    code, out, _ = cutbank("errors", "list", "--json", *options, *filled)
    assert code == 0
    assert [json.loads(line)["POSITION"] for line in out.splitlines()] == places
    table = cutbank("errors", "list", *options, *filled)[1].splitlines()
    assert [row.split()[0] for row in table if row.startswith("0/")] == places


def test_json_is_the_error_line_and_its_place(cutbank: Run, filled: Sequence[str]) -> None:
    line = json.loads(cutbank("errors", "list", "--json", "--limit", "1", *filled)[1])
    assert (line["POSITION"], line["ERROR_NAME"], line["DATA_BYTES"]) == ("0/3", "null_feature", len(LONG))
    assert bytes.fromhex(line["DATA_ROW"]) == LONG[:ERROR_PAYLOAD_BYTES_MAX]


def test_a_limit_shows_less_and_says_so(cutbank: Run, filled: Sequence[str]) -> None:
    out = cutbank("errors", "list", "--limit", "1", *filled)[1]
    assert out.endswith("4 error(s): 2 null_feature, 1 invalid_utf8, 1 invalid_json; the newest 1 are shown\n")


def test_other_pipelines_errors_are_left_out_and_said(cutbank: Run, filled: Sequence[str]) -> None:
    out = cutbank("errors", "list")[1]
    assert out == "0 error(s)\n4 line(s) not of pipeline anomaly-extractor are left out; --spec names another\n"


def test_show_says_everything(cutbank: Run, filled: Sequence[str]) -> None:
    code, out, _ = cutbank("errors", "show", "0/2", *filled)
    assert code == 0
    facts, _, payload = out.partition("\n\n")
    told = dict(line.split(":", 1) for line in facts.splitlines())
    assert {name: text.strip() for name, text in told.items() if name != "source"} == {
        "error": "0/2",
        "time": "2026-09-21T14:13:22.000Z",
        "reason": "invalid_json",
        "message": "message 2",
        "pipeline": "p, run 1",
        "bytes": "15",
        "record": "whole, from the stream, key AMZN",
    }
    assert told["source"].split()[0] == "trades/0/2"
    assert payload == '{"price":[red]}\n'


def test_show_gives_hex_where_it_is_no_text(cutbank: Run, filled: Sequence[str]) -> None:
    out = cutbank("errors", "show", "1", *filled)[1]
    assert out.endswith("\n00000000  7b 1b 5b 33 31 6d ff                             {.[31m.\n")


def test_a_cut_record_is_shown_whole_as_long_as_the_stream_has_it(cutbank: Run, filled: Sequence[str]) -> None:
    assert cutbank("errors", "show", "0/3", *filled)[1].endswith("\n\n" + LONG.decode() + "\n")
    assert cutbank("errors", "show", "0/3", "--raw", *filled)[1] == LONG.decode() + "\n"


def test_past_retention_a_cut_record_is_said_to_be_cut_and_never_raw(cutbank: Run, filled: Sequence[str]) -> None:
    expire_source()
    out = cutbank("errors", "show", "0/7", *filled)[1]
    assert "the first 65536 bytes, from the error line; it is no longer in trades" in out
    code, out, err = cutbank("errors", "show", "0/7", "--raw", *filled)
    assert (code, out) == (1, "")
    assert err.startswith("cutbank: error: 0/7: the record is not whole: it is no longer in trades, and the error line")
    assert cutbank("errors", "show", "0/4", "--raw", *filled)[:2] == (0, '{"price":null}\n')
    code, _, err = cutbank("errors", "show", "0/0", *filled)
    assert code == 1
    assert "past retention" in err


def expire_source() -> None:
    """Take all away, then publish the error lines again, at 0/4 to 0/7: as if only they were kept long enough."""
    lines: list[bytes] = []

    async def read(transport: Transport) -> None:
        lines.extend(value for value, _ in (await contents(transport, SPEC.errors))["0"])

    on_the_log(read)

    async def drop(transport: Transport) -> None:
        # Retention counts from the clock of whoever looks, so two days pass for this handle alone.
        from cutbank.transports.local import LocalTransport

        assert isinstance(transport, LocalTransport)
        await transport.expire()
        await transport.publish([Message(SPEC.errors, line) for line in lines])

    on_the_log(drop, days=2)


def test_redrive_sends_each_once(cutbank: Run, filled: Sequence[str]) -> None:
    assert cutbank("errors", "redrive", *filled) == (
        0,
        "4 record(s) sent: 2 null_feature, 1 invalid_utf8, 1 invalid_json\n",
        "",
    )
    assert sent() == [(record.value, record.key) for record in BAD]
    assert cutbank("errors", "redrive", *filled) == (0, "0 record(s) sent\n", "")
    assert len(sent()) == len(BAD)


def test_redrive_of_a_reason_leaves_the_others_for_later(cutbank: Run, filled: Sequence[str]) -> None:
    assert cutbank("errors", "redrive", "--reason", "invalid_json", *filled)[1] == "1 record(s) sent: 1 invalid_json\n"
    assert sent() == [(BAD[2].value, b"AMZN")]
    assert cutbank("errors", "redrive", *filled)[1].startswith("3 record(s) sent")


def test_a_dry_run_shows_what_would_go_and_sends_nothing(cutbank: Run, filled: Sequence[str]) -> None:
    code, out, err = cutbank("errors", "redrive", "--dry-run", "--limit", "2", *filled)
    assert (code, err) == (0, "")
    head, *rows, total, shown = out.splitlines()
    assert head.split() == ["error", "time", "reason", "to", "record", "note"]
    assert [(row.split()[0], row.split()[3]) for row in rows] == [("0/0", "trades/0"), ("0/1", "trades/0")]
    assert total == "4 record(s) would be sent: 2 null_feature, 1 invalid_utf8, 1 invalid_json"
    assert shown == "the first 2 are shown"
    assert sent() == []
    assert cutbank("errors", "redrive", *filled)[1].startswith("4 record(s) sent")


def test_what_is_cut_and_gone_is_said_counted_and_not_sent(cutbank: Run, spec: Sequence[str]) -> None:
    async def fill(transport: Transport) -> None:
        await make_streams(transport)
        await report(transport, BAD)

    on_the_log(fill)
    expire_source()
    code, out, _ = cutbank("errors", "redrive", "--dry-run", "--reason", "null_feature", *spec)
    assert code == 1
    assert out.splitlines()[-1] == "1 record(s) can't be sent and would be passed by: 1 null_feature"
    code, out, err = cutbank("errors", "redrive", *spec)
    assert code == 1
    assert out.splitlines() == [
        "3 record(s) sent: 1 null_feature, 1 invalid_utf8, 1 invalid_json",
        "1 record(s) can't be sent and are passed by: 1 null_feature",
    ]
    assert "not sent: it is no longer in trades, and the error line has only the first 65536" in err
    assert cutbank("errors", "redrive", *spec) == (0, "0 record(s) sent\n", "")


def test_a_run_cut_off_says_how_far_it_came(
    cutbank: Run, filled: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, calls = LocalLease.publish_and_commit, 0

    async def lost(self: LocalLease, *given: object) -> None:
        nonlocal calls
        calls += 1
        await publish(self, *given)  # type: ignore[arg-type]
        if calls == 2:
            raise OutcomeUnknown("the answer was lost")

    monkeypatch.setattr(LocalLease, "publish_and_commit", lost)
    code, out, err = cutbank("errors", "redrive", *filled)
    assert (code, out) == (1, "1 record(s) sent: 1 null_feature\n")
    assert err == (
        "cutbank: error: the answer was lost "
        "(sent before that: 1; the same command goes on there and repeats nothing)\n"
    )
    assert cutbank("errors", "redrive", *filled)[1].startswith("2 record(s) sent")
    assert sent() == [(record.value, record.key) for record in BAD]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["list", "--reason", "nonsense"], "nonsense"),
        (["list", "--from", "yesterday"], "--from 'yesterday': give a time such as"),
        (["list", "--to", "latest"], "--to 'latest': give a time such as"),
        (["list", "--limit", "0"], "--limit"),
        (["list", "--limit", "1001"], "--limit"),
        (["show"], "POSITION"),
        (["show", "0/x"], "'0/x': give PARTITION/POSITION"),
        (["show", "7/0"], "'7/0': give PARTITION/POSITION"),
        (["show", "0/-1"], "'0/-1': give PARTITION/POSITION"),
        (["show", "0/99"], "0/99: errors ends before it"),
        (["redrive", "--reason", ""], "--reason"),
        (["redrive", "--spec", "no.toml"], "no.toml"),
        ([], "Missing command"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(cutbank: Run, filled: Sequence[str], argv: list[str], told: str) -> None:
    code, out, err = cutbank("errors", *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("cutbank: error: ")
    assert told in err


def test_a_line_that_no_scorer_wrote_is_no_error(cutbank: Run, spec: Sequence[str]) -> None:
    async def fill(transport: Transport) -> None:
        await transport.ensure(StreamConfig(SPEC.errors))
        await transport.publish([Message(SPEC.errors, b"{}")])

    on_the_log(fill)
    code, _, err = cutbank("errors", "show", "0", *spec)
    assert (code, err) == (2, "cutbank: error: 0: no error line of a scorer is there\n")


@pytest.mark.parametrize("command", [["list"], ["show", "0/0"], ["redrive"], ["redrive", "--dry-run"]])
def test_without_a_log_or_an_error_stream_it_says_so(cutbank: Run, folder: Path, command: list[str]) -> None:
    code, _, err = cutbank("errors", *command)
    assert code == 2
    assert "no log at data/log.db" in err
    cutbank("streams", "create", "trades")
    code, out, err = cutbank("errors", *command)
    assert (code, out) == (1, "")
    assert err.startswith("cutbank: error: the log has no stream 'errors' yet")
