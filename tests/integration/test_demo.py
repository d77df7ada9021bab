"""`cutbank demo` for real: three processes, a log, objects. Killed, stopped or tampered with, it tells the truth."""

import asyncio
import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pyte
import pytest

WAIT_S = 90.0
"""Longest wait for anything, on a busy machine that may have kernels to compile."""

COMMAND = (sys.executable, "-m", "cutbank.cli", "demo")

ROWS, COLUMNS = 30, 100

FRAMES_LIVE = 4
"""Frames with an anomaly that are waited for."""

ANOMALY_ROW = re.compile(r"\d\d:\d\d:\d\d\.\d{3} +[A-Z]+ +(BUY|SELL) +[\d.]+ +\d+ +\d\.\d\d")

SERVICES = ("producer", "scorer", "sink")


def environ(**more: str) -> dict[str, str]:
    """Ours, with the path that this process has, for children that are started from a source tree."""
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "xterm-256color", **more}


class Demo:
    """A running demo whose lines are read as they come."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def until(self, wanted: str) -> str:
        """The next line that matches."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line.rstrip("\n"))
                if re.search(wanted, line):
                    return line
        raise AssertionError(f"{wanted!r} never came:\n" + self.output)

    async def end(self) -> int:
        """Read on to the end; the exit code."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            rest = (await self.process.stdout.read()).decode()
            self.lines += rest.splitlines()
            return await self.process.wait()

    @property
    def output(self) -> str:
        """Everything so far."""
        return "\n".join(self.lines)

    def child(self, service: str) -> int | None:
        """The process id of a service, None while it does not run."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            if parent == self.process.pid and f"cutbank_{service}".encode() in arguments:
                return int(folder.name)
        return None

    async def another(self, service: str, than: int) -> int:
        """The process id of a service once it is not `than`."""
        async with asyncio.timeout(WAIT_S):
            while (found := self.child(service)) in (None, than):  # noqa: ASYNC110  # /proc sets no event
                await asyncio.sleep(0)
        assert found is not None
        return found


@asynccontextmanager
async def demo(*arguments: object, stdin: bytes | None = None, **more: str) -> AsyncIterator[Demo]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environ(**more),
    )
    if stdin is not None:
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
    try:
        yield Demo(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run(*arguments: object, **more: str) -> tuple[int, str]:
    async with demo(*arguments, stdin=None, **more) as running:
        code = await running.end()
        return code, running.output


def _exists(pid: int | None) -> bool:
    assert pid is not None
    return Path(f"/proc/{pid}").exists()


def figure(output: str, name: str) -> list[int]:
    """The numbers in a row of the summary."""
    row = next(line for line in output.splitlines() if name in line)
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", row.partition(name)[2])]


def assert_balanced(output: str) -> None:
    assert output.count("✓") == (3 if "= errors in objects" in output else 2), output
    assert "✗" not in output
    (produced,) = figure(output, "records produced")
    scored, errors = figure(output, "= scored + errors")
    assert produced == scored + errors > 0
    assert figure(output, "anomalies scored") == figure(output, "= anomalies in objects")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo that has run; nobody may change it."""
    folder = tmp_path_factory.mktemp("finished") / "data"
    code, output = asyncio.run(run("--seconds", 12, "--rate", 500, "--data", folder))
    assert code == 0, output
    assert_balanced(output)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished demo, to be tampered with."""
    return Path(shutil.copytree(finished, tmp_path / "data"))


def the_object(folder: Path) -> Path:
    """The largest data object."""
    found = (path for path in (folder / "anomalies").glob("[0-9]*/**/*.json") if path.is_file())
    return max(found, key=lambda path: path.stat().st_size)


def rewrite(path: Path, change: Callable[[list[bytes]], None]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.unlink()
    path.write_bytes(b"".join(lines))


def test_objects_hold_the_tutorials_columns_under_date_folders(finished: Path) -> None:
    path = the_object(finished)
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\d\d/[^/]+\.json", str(path.relative_to(finished / "anomalies")))
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    expected = ["tickerSymbol", "tradeType", "price", "quantity", "id", "ANOMALY_SCORE", "ROWTIME", "SOURCE"]
    assert all(list(row) == expected for row in rows)
    order = [(row["ROWTIME"][:19], -row["ANOMALY_SCORE"]) for row in rows]
    assert order == sorted(order)


async def test_recounting_alone_gives_the_same_and_draws_a_report(finished: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    code, output = await run("--recount", "--data", finished, "--report", report)
    assert code == 0
    assert_balanced(output)
    assert "the accounts balance" in report.read_text()


async def test_precision_and_recall_are_those_that_the_readme_promises(finished: Path) -> None:
    _, output = await run("--recount", "--data", finished)
    shares = dict(re.findall(r"│ (precision|recall) +│ +([0-9.]+) ", output))
    assert float(shares["recall"]) >= 0.98
    assert float(shares["precision"]) >= 0.50


def _delete_line(lines: list[bytes]) -> None:
    del lines[1]


def _double_line(lines: list[bytes]) -> None:
    lines.insert(1, lines[1])


def _change_score(lines: list[bytes]) -> None:
    row = orjson.loads(lines[1])
    lines[1] = orjson.dumps(row | {"ANOMALY_SCORE": row["ANOMALY_SCORE"] + 1e-9}) + b"\n"


def _add_foreign_line(lines: list[bytes]) -> None:
    row = orjson.loads(lines[1])
    lines.append(orjson.dumps(row | {"SOURCE": row["SOURCE"] | {"position": "999999999"}}) + b"\n")


def _swap_lines(lines: list[bytes]) -> None:
    lines[0], lines[1] = lines[1], lines[0]


def _drop_last_newline(lines: list[bytes]) -> None:
    lines[-1] = lines[-1].removesuffix(b"\n")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_delete_line, "missing line: 1 "),
        (_double_line, "doubled line: 1 "),
        (_change_score, "altered line: 1 "),
        (_add_foreign_line, "foreign line: 1 "),
        (_swap_lines, "object differs from its claim: 1 "),
        (_drop_last_newline, "object differs from its claim: 1 "),
    ],
)
async def test_a_tampered_object_makes_the_exit_code_1(
    copy: Path, change: Callable[[list[bytes]], None], named: str
) -> None:
    rewrite(the_object(copy), change)
    code, output = await run("--recount", "--data", copy)
    assert code == 1
    assert f"✗ {named}" in output


async def test_a_deleted_object_makes_the_exit_code_1_and_is_named(copy: Path) -> None:
    path = the_object(copy)
    path.unlink()
    code, output = await run("--recount", "--data", copy)
    assert code == 1
    assert "✗ missing object: 1 " in output
    assert path.name in output.replace("\n", "")


async def test_removed_claims_make_the_exit_code_1(copy: Path) -> None:
    shutil.rmtree(copy / "anomalies" / "_cutbank")
    code, output = await run("--recount", "--data", copy)
    assert code == 1
    assert "✗ object without a claim: " in output


async def test_a_partition_that_is_stopped_for_good_ends_the_demo_with_its_reason(copy: Path) -> None:
    claims = (copy / "anomalies" / "_cutbank").rglob("*")
    newest = min(path for path in claims if re.fullmatch("[0-9A-F]{64}", path.name))
    newest.unlink()
    newest.write_bytes(b"not a claim")
    earlier = (copy / "logs" / "sink.log").read_bytes()
    code, output = await run("--seconds", 600, "--rate", 200, "--data", copy)
    assert code == 1
    (fault,) = (line for line in output.splitlines() if line.startswith("✗ the sink has stopped: "))
    assert newest.name in fault
    assert f"(see {copy}/logs/sink.log); --fresh begins anew" in fault
    assert (copy / "logs" / "sink.log").read_bytes().startswith(earlier), "what an earlier demo logged is kept"


async def test_a_run_goes_on_with_an_earlier_one_and_sees_what_was_tampered_with(copy: Path) -> None:
    rewrite(the_object(copy), _double_line)
    code, output = await run("--seconds", 3, "--data", copy, "--rate", 200)
    assert code == 1
    assert "Goes on with the log" in output
    assert "✗ doubled line: 1 " in output


async def test_another_spec_is_refused_and_fresh_sets_the_old_one_aside(copy: Path, tmp_path: Path) -> None:
    trades = tmp_path / "few.csv"
    trades.write_text("price,size\n" + "".join(f"{100 + n % 7},{n % 5}\n" for n in range(300)))
    asked = ("--input", trades, "--features", "price,size", "--pace", "max", "--data", copy)
    code, output = await run(*asked)
    assert code == 2
    assert output.count("\n") == 0
    assert "--fresh" in output
    code, output = await run(*asked, "--fresh")
    assert code == 0
    assert_balanced(output)
    assert figure(output, "records produced") == [300]
    (aside,) = (copy / "earlier").iterdir()
    assert the_object(aside).is_file()


@pytest.mark.long
async def test_each_service_killed_in_the_middle_loses_and_repeats_nothing(tmp_path: Path) -> None:
    async with demo("--seconds", 600, "--rate", 300, "--data", tmp_path / "data") as running:
        await running.until(r"latest: ")
        for service in SERVICES:
            killed = running.child(service)
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            await running.until(f"! .*{service} was killed by SIGKILL; started again")
            await running.another(service, killed)
            before = int(re.sub(r"\D", "", (await running.until(r"anomalies")).partition(" anomalies")[0].split()[-1]))
            async with asyncio.timeout(WAIT_S):
                while True:
                    line = await running.until(r"anomalies")
                    if int(re.sub(r"\D", "", line.partition(" anomalies")[0].split()[-1])) > before + 20:
                        break
        running.process.send_signal(signal.SIGINT)
        code = await running.end()
    assert code == 0, running.output
    assert_balanced(running.output)


async def test_a_second_interrupt_stops_at_once_and_leaves_no_service_behind(tmp_path: Path) -> None:
    async with demo("--seconds", 600, "--rate", 300, "--data", tmp_path / "data") as running:
        await running.until(r"0/s")
        running.process.send_signal(signal.SIGINT)
        await running.until(r"! .*asked to stop")
        running.process.send_signal(signal.SIGINT)
        assert await running.end() == 130, running.output
        assert "the next demo goes on from there" in running.output
        assert all(running.child(service) is None for service in SERVICES)


@pytest.mark.long
async def test_a_killed_demo_leaves_no_service_behind_and_the_next_one_balances(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with demo("--seconds", 600, "--rate", 300, "--data", data) as running:
        await running.until(r"latest: ")
        pids = [running.child(service) for service in SERVICES]
        running.process.kill()
        await running.process.wait()
    async with asyncio.timeout(WAIT_S):
        while any(_exists(pid) for pid in pids):  # noqa: ASYNC110  # /proc sets no event
            await asyncio.sleep(0)
    code, output = await run("--seconds", 3, "--rate", 300, "--data", data)
    assert code == 0, output
    assert_balanced(output)


async def test_an_input_with_bad_rows_balances_and_is_not_replayed_twice(tmp_path: Path) -> None:
    trades = tmp_path / "trades.csv"
    rows = [f"{100 + n % 7},{n % 5},A" for n in range(1200)]
    rows[1100] = "high,3,A"  # after the lines that the columns' types are taken from
    rows[1150] = ",3,A"
    trades.write_text("price,size,ticker\n" + "\n".join(rows) + "\n")
    asked = ("--input", trades, "--features", "price,size", "--pace", "max", "--data", tmp_path / "data")
    for again in (False, True):
        code, output = await run(*asked)
        assert code == 0, output
        assert_balanced(output)
        assert figure(output, "= scored + errors") == [1198, 2]
        assert figure(output, "= errors in objects") == [2]
        assert len(list((tmp_path / "data" / "anomalies" / "errors").rglob("*.json"))) >= 1
        assert ("Goes on with the log" in output) is again
    trades.write_text(trades.read_text().replace("100,0,A", "200,0,A"))
    code, output = await run(*asked)
    assert code == 2
    assert "holds another input; begin anew with --fresh, or name another folder with --data" in output
    assert len(output.splitlines()) == 1


async def test_standard_input_is_replayed(tmp_path: Path) -> None:
    lines = b"".join(orjson.dumps({"price": 100 + n % 7, "size": n % 5}) + b"\n" for n in range(300))
    asked = ("--input", "-", "--features", "price,size", "--pace", "max", "--data", tmp_path / "data")
    async with demo(*asked, stdin=lines) as running:
        assert await running.end() == 0, running.output
    assert_balanced(running.output)
    assert figure(running.output, "records produced") == [300]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--input", "no-such-file.csv", "--features", "a"), "no-such-file.csv"),
        (("--input", "x.csv"), "--features"),
        (("--features", "price"), "--input"),
        (("--rate", "fast"), "RECORDS_PER_SECOND"),
        (("--seconds", "0"), "--seconds"),
        (("--pace", "file"), "PACE"),
        (("--recount", "--data", "nothing-here"), "no demo was run here"),
        (("--report", "no/such/folder/report.html"), "no folder"),
    ],
)
async def test_wrong_use_is_one_line_and_exit_code_2_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = await run(*arguments)
    assert code == 2
    assert said in output
    assert len(output.splitlines()) == 1
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240  # one look at an empty folder


def test_on_a_terminal_the_live_table_shows_progress_anomalies_and_objects(tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    arguments = ["--seconds", "60", "--rate", "200", "--data", str(tmp_path / "data"), "--screenshot", str(picture)]
    process, handle = pty.fork()
    if process == 0:
        os.execve(COMMAND[0], [*COMMAND, *arguments], environ())  # noqa: S606  # our own command
    fcntl.ioctl(handle, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    frames: list[str] = []
    live: list[str] = []
    for frame in _frames(handle):
        frames.append(frame)
        if "cutbank demo  running" in frame and ANOMALY_ROW.search(frame):
            live.append(frame)
            if len(live) == FRAMES_LIVE:
                os.write(handle, b"\x03")  # Ctrl-C, as a person types it
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0, frames[-1]
    assert len(live) >= FRAMES_LIVE
    progress = [int(found[1]) for frame in frames if (found := re.search(r"━.* (\d+)%  \d\d:\d\d / 01:00", frame))]
    assert progress == sorted(progress)
    assert progress[-1] > progress[0]
    titles = [line for line in live[0].splitlines() if "ticker" in line]
    assert titles[0].split() == ["time", "ticker", "side", "price", "quantity", "score"]
    assert any("newest object: " in frame and ".json" in frame for frame in frames)
    assert_balanced(frames[-1])
    drawn = picture.read_text()
    assert drawn.startswith("<svg")
    assert "running" in drawn


def _frames(handle: int) -> Iterator[str]:
    """What the terminal showed after each piece of output."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    while True:
        try:
            piece = os.read(handle, 1 << 16)
        except OSError:  # Linux's answer when the other side has gone
            return
        if not piece:
            return
        stream.feed(piece)
        yield "\n".join(line.rstrip() for line in screen.display)
