"""The `cutbank` command as people run it: a process with pipes, signals, a terminal's end, and services behind it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.records import Message
from cutbank.transports import open_transport

PATIENCE_S = 60.0

Process = asyncio.subprocess.Process
Start = Callable[..., Awaitable[Process]]

KEPT = ("COVERAGE", "HOME", "LANG", "LC_", "LD_", "NUMBA_", "PATH", "PYTHON", "TMPDIR", "VIRTUAL_ENV")


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts `cutbank …` in an empty folder; what still runs at the end is killed."""
    started: list[Process] = []

    async def go(*argv: str, module: str = "cutbank.cli", **environ: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *argv,
            cwd=tmp_path,
            env={**{name: text for name, text in os.environ.items() if name.startswith(KEPT)}, **environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield go
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def ended(process: Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def ran(start: Start, *argv: str, **environ: str) -> tuple[int | None, str, str]:
    return await ended(await start(*argv, **environ))


@pytest.fixture
async def trades(start: Start) -> int:
    """A log with 5000 trades."""
    code, _, err = await ran(start, "produce", "--records-max", "5000", "--records-per-second", "0")
    assert code == 0, err
    return 5000


async def test_what_was_produced_is_listed_and_printed(start: Start, trades: int) -> None:
    (stream,) = json.loads((await ran(start, "streams", "list", "--json"))[1])
    assert (stream["name"], stream["positions"]) == ("trades", trades)
    code, out, err = await ran(start, "tail", "trades")
    assert (code, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == trades
    assert list(found[0]) == ["tickerSymbol", "tradeType", "price", "quantity", "id"]
    assert len({record["id"] for record in found}) == trades
    _, counted, _ = await ran(start, "tail", "trades", "--count", "7")
    assert counted.splitlines() == out.splitlines()[:7]


async def test_a_reader_that_goes_away_is_no_error(start: Start, trades: int) -> None:
    process = await start("tail", "trades", "--follow")
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        assert (await process.stdout.readline()).startswith(b"{")
        # Half a megabyte does not fit into the pipe, so the command is writing, or about to.
        process.stdout._transport.close()  # type: ignore[attr-defined]
        said = await process.stderr.read()
        assert (await process.wait(), said) == (0, b"")


async def test_ctrl_c_ends_tail_quietly_with_130(start: Start, trades: int) -> None:
    process = await start("tail", "trades", "--follow", "--verbose")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(trades):
            line = await process.stdout.readline()
        assert line.startswith(b"trades/0\t4999\t")
        process.send_signal(signal.SIGINT)
    code, out, err = await ended(process)
    assert (code, out, err) == (130, "", "")


async def test_follow_prints_what_comes(start: Start) -> None:
    assert (await ran(start, "streams", "create", "trades"))[0] == 0
    process = await start("tail", "trades", "--follow", "--count", "3")
    assert (await ran(start, "produce", "--records-max", "3"))[0] == 0
    code, out, err = await ended(process)
    assert (code, out.count("\n"), err) == (0, 3, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_service_drains_on_a_signal_and_exits_with_0(start: Start, number: signal.Signals) -> None:
    process = await start("produce", "--records-per-second", "1000")
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while True:
            line = json.loads(await process.stderr.readline())
            if line["event"] == "ready":
                break
        process.send_signal(number)
    code, _, err = await ended(process)
    assert code == 0, err
    assert "stopping" in [json.loads(line)["event"] for line in err.splitlines()]


@pytest.mark.parametrize("module", ["cutbank_producer", "cutbank_scorer", "cutbank_sink"])
async def test_every_service_runs_as_a_module_too(start: Start, module: str) -> None:
    code, out, err = await ended(await start("--help", module=module))
    assert (code, err) == (0, "")
    assert "--transport-url" in out
    assert "\nExamples:\n" in out
    code, out, err = await ended(await start("--grace-s", "0", module=module))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"{module}: error: --grace-s: ")


@pytest.mark.parametrize("command", ["produce", "score", "sink"])
async def test_a_spec_that_is_not_there_is_one_line_and_2(start: Start, command: str) -> None:
    code, out, err = await ran(start, command, "--spec", "nope.toml", CUTBANK_LOG_FORMAT="console")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "nope.toml" in err


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_the_doctor_finds_a_new_machine_well(start: Start, tmp_path: Path) -> None:
    code, out, err = await ran(start, "doctor")
    assert (code, err) == (0, ""), out
    lines = out.splitlines()
    assert {line[:6] for line in lines} == {"ok    "}
    for what in ("python", "service produce", "service score", "service sink", "environment", "spec", "detector"):
        assert sum(line.startswith(f"ok    {what}: ") for line in lines) == 1
    for what in ("log", "object store", "state store"):
        assert sum(line.startswith(f"ok    {what}: ") for line in lines) == 1
    assert files(tmp_path) == []


async def test_the_doctor_names_what_is_wrong_and_exits_with_1(start: Start, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text("threshold = -1\n")
    (tmp_path / "file").write_text("no folder")
    code, out, err = await ran(
        start,
        "doctor",
        "--store-url",
        "file://file/below",
        CUTBANK_SPEC="spec.toml",
        CUTBANK_TRANSPORT_URL="local://file/log.db",
        CUTBANK_TRANSPRT_URL="x",
        CUTBANK_GRACE_S="25",
    )
    assert (code, err) == (1, "3 check(s) failed\n")
    failed = [line for line in out.splitlines() if line.startswith("FAIL  ")]
    assert [line.split()[1].rstrip(":") for line in failed] == ["spec", "log", "object"]
    assert "threshold" in failed[0]
    (warned,) = [line for line in out.splitlines() if line.startswith("warn  ")]
    assert "did you mean CUTBANK_TRANSPORT_URL?" in warned


async def test_warm_says_that_it_is_done(start: Start) -> None:
    code, out, err = await ran(start, "warm")
    assert (code, err) == (0, "")
    assert out.startswith("kernels ready after ")


def on_a_terminal(folder: Path, *argv: str) -> tuple[int, str]:
    """Runs `cutbank …` with a pseudo-terminal as stdout and stderr; exit code and what was shown."""
    ours, theirs = os.openpty()
    environ = {name: text for name, text in os.environ.items() if name.startswith(KEPT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "cutbank.cli", *argv],
        cwd=folder,
        env={**environ, "TERM": "xterm", "COLUMNS": "100"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # EIO: the other side has closed
        pass
    finally:
        os.close(ours)
    return process.wait(PATIENCE_S), shown.decode()


async def test_no_record_steers_the_terminal(start: Start, tmp_path: Path) -> None:
    assert (await ran(start, "streams", "create", "errors"))[0] == 0
    url = f"local://{tmp_path}/data/log.db"
    async with open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as log:
        await log.publish([Message("errors", b'\x1b]0;owned\x07{"a":1}\x1b[2J')])
    code, shown = await asyncio.to_thread(on_a_terminal, tmp_path, "tail", "errors")
    assert (code, shown) == (0, '\\x1b]0;owned\\x07{"a":1}\\x1b[2J\r\n')


async def test_on_a_terminal_logs_are_for_people(tmp_path: Path) -> None:
    code, shown = await asyncio.to_thread(on_a_terminal, tmp_path, "produce", "--records-max", "5")
    assert code == 0
    assert "ready" in shown
    assert "\x1b[" in shown
    assert not any(line.startswith("{") for line in shown.splitlines())


async def test_on_a_terminal_the_doctor_has_colours_and_elsewhere_none(start: Start, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text('[detector]\nname = "hst"\n')
    argv = ("doctor", "--transport-url", "foo://x", "--spec", "spec.toml")
    _, shown = await asyncio.to_thread(on_a_terminal, tmp_path, *argv)
    assert "\x1b[31mFAIL\x1b[0m  log: " in shown
    _, out, _ = await ran(start, *argv)
    assert "FAIL  log: " in out
    assert "\x1b" not in out


async def test_wrong_use_on_a_terminal_is_the_same_line(tmp_path: Path) -> None:
    code, shown = await asyncio.to_thread(on_a_terminal, tmp_path, "tail")
    assert (code, shown) == (2, "cutbank: error: Missing argument 'STREAM' (see cutbank tail --help)\r\n")
