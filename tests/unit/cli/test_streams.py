"""`cutbank streams`: what it makes is what it says, as a table and as JSON."""

import asyncio
import json
from pathlib import Path

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.records import Message
from cutbank.transports import open_transport

from .conftest import Run


def publish(stream: str, partition: int, count: int) -> None:
    async def go() -> None:
        async with open_transport("local://data/log.db", clock=SystemClock(), metrics=NoMetrics()) as log:
            await log.publish([Message(stream, b"x", partition_id=str(partition))] * count)

    asyncio.run(go())


def test_create_then_list_then_describe(cutbank: Run) -> None:
    assert cutbank("streams", "create", "trades", "--partitions", "2", "--retention-hours", "0.5") == (
        0,
        "created trades: 2 partition(s), 0.5 h retention\n",
        "",
    )
    cutbank("streams", "create", "anomalies")
    publish("trades", 1, 7)
    (first, second) = json.loads(cutbank("streams", "list", "--json")[1])
    assert (first["name"], first["partitions"], first["positions"], first["retention_hours"]) == ("anomalies", 1, 0, 24)
    assert (second["name"], second["partitions"], second["positions"]) == ("trades", 2, 7)
    described = json.loads(cutbank("streams", "describe", "trades", "--json")[1])
    assert described["identity"] == second["identity"] != first["identity"]
    assert described["partitions"] == [
        {"partition": "0", "oldest": "0", "end": "0", "positions": 0},
        {"partition": "1", "oldest": "0", "end": "7", "positions": 7},
    ]


def test_the_table_has_a_row_a_stream_and_no_cut_off_name(cutbank: Run) -> None:
    long = "a-stream-with-a-very-long-name-" * 3
    cutbank("streams", "create", long)
    code, out, _ = cutbank("streams", "list")
    head, row = out.splitlines()
    assert code == 0
    assert head.split() == ["name", "retention", "hours", "partitions", "positions"]
    assert row.split() == [long, "24", "1", "0"]


def test_a_group_that_never_committed_has_all_before_it(cutbank: Run) -> None:
    cutbank("streams", "create", "trades")
    publish("trades", 0, 3)
    (row,) = json.loads(cutbank("streams", "describe", "trades", "--group", "p.scorer", "--json")[1])["partitions"]
    assert (row["committed"], row["lag"]) == (None, 3)
    assert cutbank("streams", "describe", "trades", "--group", "p.scorer")[1].splitlines()[-1].split()[-2:] == [
        "-",
        "3",
    ]


def test_creating_again_is_well_if_nothing_differs(cutbank: Run) -> None:
    cutbank("streams", "create", "trades", "--partitions", "2")
    code, out, _ = cutbank("streams", "create", "trades", "--partitions", "2")
    assert (code, out) == (0, "exists already: trades: 2 partition(s), 24 h retention\n")
    code, out, err = cutbank("streams", "create", "trades", "--partitions", "3")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "never changed" in err


def test_an_empty_log_is_said_in_words_and_as_an_empty_list(cutbank: Run) -> None:
    async def make() -> None:
        async with open_transport("local://data/log.db", clock=SystemClock(), metrics=NoMetrics()) as log:
            assert await log.streams() == ()

    asyncio.run(make())
    assert cutbank("streams", "list")[1].startswith("no streams yet")
    assert cutbank("streams", "list", "--json")[1] == "[]\n"


def test_reading_makes_no_log(cutbank: Run) -> None:
    code, out, err = cutbank("streams", "list")
    assert (code, out) == (2, "")
    assert "no log at data/log.db" in err
    assert not Path("data/log.db").exists()


def test_a_stream_that_is_not_there_is_one_line_and_1(cutbank: Run) -> None:
    cutbank("streams", "create", "x")
    for line in ("streams describe y", "tail y"):
        code, out, err = cutbank(*line.split())
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "y" in err


def test_the_option_names_the_log(cutbank: Run, folder: Path) -> None:
    assert cutbank("streams", "create", "x", "--transport-url", f"local://{folder}/mine.db")[0] == 0
    assert (folder / "mine.db").exists()
    assert not (folder / "data").exists()
