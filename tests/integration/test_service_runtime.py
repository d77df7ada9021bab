"""The supervisor with real signals to real child processes: draining, cutting off, exit codes, health, last words."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PATIENCE_S = 20.0

SOURCE = '''
import asyncio, os, sys, threading
from cutbank.errors import PositionLost, UsageError
from cutbank.runtime.service import Runtime, Service, service_main
from cutbank.runtime.settings import ServiceSettings

class TrySettings(ServiceSettings):
    """Of a service that ends in many ways."""
    mode: str = "drain"
    """How it ends."""

async def drain_slowly():
    await asyncio.Event().wait()

async def fail(error):
    raise error

async def run(settings: TrySettings, runtime: Runtime) -> None:
    match settings.mode:
        case "usage":
            raise UsageError("the spec is wrong at kafka://user:hunter2@broker/")
        case "groups":
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(PositionLost("partition 0: position 5 is past retention")))
        case "bug":
            {}["partition"]
        case "cancels":
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        case "done":
            return
        case "early":
            runtime.health.ready("transport", False, "connecting")
    runtime.health.ready("transport", settings.mode != "early", "connecting")
    runtime.metrics.add("cutbank_anomalies_total", 2.0)
    print("up", flush=True)
    await runtime.stop.wait()
    print("draining", flush=True)
    match settings.mode:
        case "hang":
            async with asyncio.TaskGroup() as group:
                group.create_task(drain_slowly(), name="partition 7")
        case "thread":
            await asyncio.to_thread(threading.Event().wait)
        case "deaf":
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass
        case "late failure":
            raise PositionLost("while draining")
        case "sleepy thread":
            asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    print("drained", flush=True)

SERVICE = Service(name="try", summary="Tries.", examples=("try --mode drain",), settings=TrySettings, run=run)

if __name__ == "__main__":
    sys.exit(service_main(SERVICE, sys.argv[1:], os.environ))
'''


class Child:
    """A service in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self, word: str) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert (await self.process.stdout.readline()).decode().strip() == word

    async def logs(self, event: str) -> dict[str, Any]:
        """The next log line of this event; those before it are skipped."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while raw := await self.process.stderr.readline():
                line: dict[str, Any] = json.loads(raw)
                if line["event"] == event:
                    return line
        raise AssertionError(f"{event} was not logged")

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ends(self) -> tuple[int, str, str]:
        """Exit code, and what is left of stdout and stderr."""
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


Start = Callable[..., Awaitable[Child]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    script = tmp_path / "try_service.py"
    script.write_text(SOURCE)
    children: list[Child] = []

    async def go(*options: str, **environ: str) -> Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            *options,
            cwd=tmp_path,
            env={**{name: text for name, text in os.environ.items() if not name.startswith("CUTBANK_")}, **environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        children.append(Child(process))
        return children[-1]

    yield go
    for child in children:
        if child.process.returncode is None:
            child.process.kill()
            await child.ends()


def events(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_exits_with_0(start: Start, number: signal.Signals) -> None:
    child = await start()
    await child.says("up")
    child.signal(number)
    code, out, err = await child.ends()
    assert (code, out) == (0, "draining\ndrained\n")
    (stopping,) = [line for line in events(err) if line["event"] == "stopping"]
    assert stopping["signal"] == number.name
    assert not [line for line in events(err) if line["level"] in ("error", "critical", "warning")]


async def test_a_service_that_is_done_exits_with_0_and_says_nothing(start: Start) -> None:
    child = await start("--mode", "done")
    assert await child.ends() == (0, "", "")


async def test_the_end_of_the_grace_period_cuts_off_and_names_what_still_ran(start: Start) -> None:
    child = await start("--mode", "hang", "--grace-s", "0.2")
    await child.says("up")
    child.signal()
    code, out, err = await child.ends()
    assert (code, out) == (3, "draining\n")
    (line,) = [line for line in events(err) if line["event"] == "cut off"]
    assert line["why"] == "the grace period of 0.2 s ended"
    assert any(re.match(r"partition 7: drain_slowly .*at locks\.py:\d+", place) for place in line["still_running"])
    assert any(place.startswith("try: ") for place in line["still_running"])
    assert not any(place.startswith(("beat", "guard")) for place in line["still_running"])


async def test_a_second_signal_cuts_off_at_once(start: Start) -> None:
    child = await start("--mode", "hang", "--grace-s", "3600")
    await child.says("up")
    child.signal()
    await child.says("draining")
    child.signal(signal.SIGINT)
    code, _, err = await child.ends()
    assert code == 3
    (line,) = [line for line in events(err) if line["event"] == "cut off"]
    assert line["why"] == "a second signal (SIGINT)"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["thread", "deaf", "sleepy thread"])
async def test_what_ignores_its_cancellation_is_ended_by_the_watchdog(start: Start, mode: str) -> None:
    child = await start("--mode", mode, "--grace-s", "0.1")
    await child.says("up")
    child.signal()
    code, _, err = await child.ends()
    assert code == 3
    (line,) = [line for line in events(err) if line["event"] == "ended by the watchdog"]
    assert line["level"] == "critical"


@pytest.mark.parametrize(
    ("mode", "code", "said"),
    [
        ("usage", 2, "the spec is wrong at kafka://user:***@broker/"),
        ("groups", 1, "partition 0: position 5 is past retention"),
    ],
)
async def test_our_errors_are_one_line_and_their_exit_code(start: Start, mode: str, code: int, said: str) -> None:
    child = await start("--mode", mode)
    ended, _, err = await child.ends()
    (line,) = events(err)
    assert err.count("\n") == 1
    assert (ended, line["error"], line["exit_code"], line["event"]) == (code, said, code, "failed")


async def test_an_error_while_draining_is_a_failure(start: Start) -> None:
    child = await start("--mode", "late failure")
    await child.says("up")
    child.signal()
    code, _, err = await child.ends()
    assert code == 1
    assert events(err)[-1]["error"] == "while draining"


@pytest.mark.parametrize(("mode", "said"), [("bug", "KeyError: 'partition'"), ("cancels", "cancelled its own task")])
async def test_a_bug_has_its_traceback_in_the_log_and_exits_with_1(start: Start, mode: str, said: str) -> None:
    child = await start("--mode", mode)
    code, _, err = await child.ends()
    assert code == 1
    (line,) = events(err)
    assert said in line["error"]
    assert "Traceback" in line["exception"]


async def test_wrong_use_is_one_plain_line(start: Start) -> None:
    for options, environ in ((("--grace-s", "0"), {}), ((), {"CUTBANK_LOG_LEVEL": "loud"}), (("--nope",), {})):
        child = await start(*options, **environ)
        code, out, err = await child.ends()
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert ": error: " in err


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
        yield session


async def test_ready_names_the_address_and_the_endpoints_answer_there(start: Start) -> None:
    child = await start()
    url = (await child.logs("ready"))["http"]
    await child.says("up")
    async with client() as http:
        for path in ("/healthz", "/readyz"):
            async with http.get(url + path) as response:
                assert response.status == 200
        async with http.get(url + "/metrics") as response:
            text = await response.text()
    assert "cutbank_anomalies_total 2.0" in text
    assert "cutbank_ready 1.0" in text
    assert re.search(r'cutbank_build_info\{service="try",version=".+"\} 1\.0', text)
    child.signal()
    assert (await child.ends())[0] == 0


async def test_a_draining_service_lives_but_is_not_ready(start: Start) -> None:
    child = await start("--mode", "hang")
    url = (await child.logs("ready"))["http"]
    await child.says("up")
    child.signal()
    await child.says("draining")
    async with client() as http:
        async with http.get(url + "/healthz") as response:
            assert response.status == 200
        async with http.get(url + "/readyz") as response:
            assert response.status == 503
            assert (await response.json())["why"] == "running: stopping"


async def test_a_port_in_use_is_one_line_and_2(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        child = await start(CUTBANK_HTTP_PORT=str(taken.getsockname()[1]))
        code, out, err = await child.ends()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is in use" in events(err)[0]["error"]


async def test_off_means_no_server(start: Start) -> None:
    child = await start("--http-port", "off")
    assert (await child.logs("ready"))["http"] == "off"
    child.signal()
    assert (await child.ends())[0] == 0


async def test_console_format_is_for_people(start: Start) -> None:
    child = await start("--log-format", "console", "--mode", "usage")
    code, _, err = await child.ends()
    assert code == 2
    assert err.count("\n") == 1
    assert "the spec is wrong" in err
    assert not err.startswith("{")
    assert "hunter2" not in err
