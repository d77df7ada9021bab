"""A child is kept running, at a bounded pace and number of times, and is gone when its keeper is."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import pytest

from cutbank.cli.demo import children
from cutbank.cli.demo.children import Child
from cutbank.cli.demo.session import _words
from cutbank.testing.clock import ManualClock

WAIT_S = 20.0

_MODULES = {
    "stays": """
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print("up", flush=True)
        signal.pause()
        """,
    "talks": """
        import os, signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"again\\n"))
        print("up", flush=True)
        while True:
            signal.pause()
        """,
    "deaf": """
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("up", flush=True)
        while True:
            signal.pause()
        """,
    "done": "print('done')",
    "fails": "raise SystemExit('it hurts')",
    "wrong": """
        import sys
        print("STREAM_NAME: no such thing", file=sys.stderr)
        sys.exit(2)
        """,
    "struggles": """
        import sys
        from cutbank.runtime.logging import configure_logging
        import structlog
        configure_logging(log_format="console", stream=sys.stdout, service="sink")
        log = structlog.get_logger("cutbank.pipeline.partitions")
        log.warning("partition taken up again", partition="anomalies/0", role="sink", why="the disk is slow")
        log.info("still here")
        """,
    "parks": """
        import sys
        from cutbank.runtime.logging import configure_logging
        import structlog
        configure_logging(log_format="console", stream=sys.stdout, service="sink")
        log = structlog.get_logger("cutbank.pipeline.partitions")
        log.warning("partition taken up again", partition="anomalies/0", role="sink", why="the disk is slow")
        log.error("partition stopped", partition="anomalies/0", reason="stopped", why="object 'a.json' is gone")
        log.info("still here")
        """,
    "names": "import sys; print(__name__, sys.argv)",
}


class Keeper:
    """A child of one of the modules above, its notes, and a task that supervises it."""

    def __init__(self, folder: Path, module: str, *, ends_by_itself: bool = False) -> None:
        for name, text in _MODULES.items():
            (folder / f"{name}.py").write_text(dedent(text))
        self.log = folder / "child.log"
        self.clock = ManualClock()
        self.notes: list[str] = []
        path = os.pathsep.join([str(folder), *filter(None, sys.path)])
        self.child = Child(
            "scorer",
            module,
            environ={**os.environ, "PYTHONPATH": path},
            log=self.log,
            clock=self.clock,
            note=self.notes.append,
            ends_by_itself=ends_by_itself,
        )

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110  # what processes do sets no event of ours
                await asyncio.sleep(0)

    async def up(self, *, times: int = 1) -> None:
        """Until the process has said so the given number of times."""
        await self.until(lambda: self.log.exists() and self.log.read_text().count("up") >= times)


async def test_a_killed_child_is_started_again_after_a_second_and_it_is_said(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "stays")
    async with asyncio.TaskGroup() as group:
        group.create_task(keeper.child.supervise())
        await keeper.up()
        assert keeper.child.pid is not None
        os.kill(keeper.child.pid, signal.SIGKILL)
        await keeper.until(lambda: keeper.clock.sleepers)
        assert keeper.child.pid is None
        await keeper.clock.advance(children.RESTART_S_MIN)
        await keeper.up(times=2)
        assert keeper.notes == ["scorer was killed by SIGKILL; started again"]
        await keeper.child.stop()
    assert keeper.child.restarts == 1
    assert keeper.child.failure is None
    assert keeper.child.exit_code == 0


async def test_what_a_service_complains_of_is_found_in_its_log(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "struggles", ends_by_itself=True)
    assert (keeper.child.parked(), keeper.child.complaint()) == (None, None)
    await keeper.child.supervise()
    assert (keeper.child.parked(), keeper.child.complaint()) == (None, "the disk is slow")
    assert _words(keeper.child) == f": the disk is slow (see {keeper.log}); if it stays so, --fresh begins anew"


async def test_a_parked_partition_is_found_but_not_that_of_an_earlier_run_whose_log_is_kept(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "parks", ends_by_itself=True)
    await keeper.child.supervise()
    assert keeper.child.parked() == keeper.child.complaint() == "object 'a.json' is gone"
    later = Keeper(tmp_path, "done", ends_by_itself=True)
    await later.child.supervise()
    assert (later.child.parked(), later.child.complaint()) == (None, None)
    assert "partition stopped" in later.log.read_text()


async def test_a_child_that_keeps_dying_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "RESTARTS_MAX", 2)
    keeper = Keeper(tmp_path, "fails")
    async with asyncio.TaskGroup() as group:
        group.create_task(keeper.child.supervise())
        for _ in range(2):
            await keeper.until(lambda: keeper.clock.sleepers)
            await keeper.clock.advance(children.RESTART_S_MIN)
        async with asyncio.timeout(WAIT_S):
            await keeper.child.ended.wait()
    assert keeper.log.read_text().count("it hurts") == 3
    assert keeper.child.failure == f"scorer ended with exit code 1: it hurts (see {keeper.log})"
    assert keeper.notes[-1] == f"{keeper.child.failure}; not started again"


async def test_a_log_over_its_limit_is_set_aside_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOG_BYTES_MAX", 100)
    keeper = Keeper(tmp_path, "talks")
    aside = tmp_path / "child.log.1"
    keeper.log.write_bytes(b"of an earlier run")
    async with asyncio.TaskGroup() as group:
        group.create_task(keeper.child.supervise())
        await keeper.up()
        for turn in range(2):
            with keeper.log.open("ab") as log:
                log.write(b"%d" % turn * 100)
            before = keeper.log.read_bytes()
            keeper.child.trim_log()
            assert (keeper.log.stat().st_size, aside.read_bytes()) == (0, before[-100:])
            assert keeper.child.pid is not None
            os.kill(keeper.child.pid, signal.SIGUSR1)
            await keeper.until(lambda: keeper.log.stat().st_size)
            assert keeper.log.read_bytes() == b"again\n", "it goes on at the beginning, without a hole"
            assert keeper.child._lines() == ["again"], "and what it says is found there"
        await keeper.child.stop()
    keeper.log.write_bytes(b"z" * 100)
    keeper.child.trim_log()
    assert keeper.log.stat().st_size == 100, "at the limit nothing is done"


async def test_a_child_that_is_set_up_wrongly_is_not_started_again(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "wrong")
    async with asyncio.timeout(WAIT_S):
        await keeper.child.supervise()
    assert keeper.child.restarts == 0
    assert keeper.child.failure is not None
    assert "STREAM_NAME: no such thing" in keeper.child.failure


async def test_work_that_is_done_is_no_death(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "done", ends_by_itself=True)
    async with asyncio.timeout(WAIT_S):
        await keeper.child.supervise()
    assert (keeper.notes, keeper.child.failure, keeper.child.exit_code) == ([], None, 0)


async def test_a_service_that_ends_by_itself_is_started_again_where_it_should_not(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "done")
    async with asyncio.TaskGroup() as group:
        group.create_task(keeper.child.supervise())
        await keeper.until(lambda: keeper.clock.sleepers)
        await keeper.child.stop()
    assert keeper.child.restarts == 0
    assert keeper.log.read_text().count("done") == 1


async def test_a_deaf_child_is_killed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "STOP_S_MAX", 0.05)
    keeper = Keeper(tmp_path, "deaf")
    async with asyncio.TaskGroup() as group:
        group.create_task(keeper.child.supervise())
        await keeper.up()
        await keeper.child.stop()
    assert keeper.child.exit_code == -signal.SIGKILL
    assert "did not stop" in keeper.notes[0]


async def test_stopping_before_it_has_started_runs_nothing_for_long(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "stays")
    async with asyncio.TaskGroup() as group:
        group.create_task(keeper.child.supervise())
        async with asyncio.timeout(WAIT_S):
            await keeper.child.stop()
    assert keeper.child.pid is None


async def test_cancelling_kills_the_process(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "deaf")
    task = asyncio.create_task(keeper.child.supervise())
    await keeper.up()
    pid = keeper.child.pid
    assert pid is not None
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert keeper.child.ended.is_set()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_module_runs_as_it_would_alone(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "names", ends_by_itself=True)
    async with asyncio.timeout(WAIT_S):
        await keeper.child.supervise()
    assert keeper.log.read_text() == f"__main__ ['{tmp_path}/names.py']\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
async def test_a_child_ends_when_its_keeper_is_killed(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "stays")
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'cutbank.cli.demo.child', str(os.getpid()), 'stays'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        env=keeper.child._environ,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S):
        pid = int(await process.stdout.readline())
        assert await process.stdout.readline() == b"up\n"
        process.kill()
        await process.wait()
        # The pipe ends only when the child, which holds it too, has ended.
        assert await process.stdout.read() == b""
    await keeper.until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    """Whether the process still does anything; one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
