"""What the lines of a service's log hold at most."""

import asyncio
from typing import Any

from cutbank.runtime.logging import _DEPTH_MAX, _masked
from cutbank.runtime.supervisor import NESTING_MAX, RUNNING_MAX, _place, _running


async def waiting(levels: int) -> None:
    if levels > 1:
        await waiting(levels - 1)
    else:
        await asyncio.Event().wait()


async def test_the_line_about_a_cut_off_names_so_many_tasks() -> None:
    tasks = [asyncio.create_task(waiting(1), name=f"task {number:03}") for number in range(RUNNING_MAX + 5)]
    await asyncio.sleep(0)
    try:
        named = _running({asyncio.current_task()})  # type: ignore[arg-type]
        assert [line.partition(":")[0] for line in named] == [f"task {number:03}" for number in range(RUNNING_MAX)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_and_of_each_so_many_coroutines() -> None:
    task = asyncio.create_task(waiting(NESTING_MAX + 10), name="deep")
    await asyncio.sleep(0)
    try:
        assert _place(task).count("waiting") == NESTING_MAX
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_value_nested_deeper_is_written_as_text_and_its_secrets_are_masked_all_the_same() -> None:
    value: Any = {"url": "kafka://user:hunter2@host"}
    for _ in range(_DEPTH_MAX + 5):
        value = {"inner": value}
    masked = _masked("event", value, 0)
    for _ in range(_DEPTH_MAX):
        masked = masked["inner"]
    assert isinstance(masked, str)
    assert "hunter2" not in masked
