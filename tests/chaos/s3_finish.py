"""How a fault on S3 ends: all stopped in order, lag 0, what is held made into objects; and what `cutbank verify` says.

Event-loop only.
"""

import asyncio
import os
import sys

from chaos.crew import Life
from chaos.s3_stage import S3Stage
from chaos.s3_world import S3World

VERIFY_S_MAX = 600.0
CLEAN = "clean: every object is as its claim says, nothing is there twice, nothing is foreign"


async def finish(stage: S3Stage) -> None:
    """Stop the producer, let scorer and sinks catch up, stop them: each ends with exit code 0. Raises Trouble."""
    stage.proxy.clear()
    world, crew = stage.world, stage.crew
    stage.check_alive()
    await crew.posts["producer"].terminated()
    scorer = crew.posts["scorer"]
    await scorer.until_none(lambda: world.lag("scorer", world.spec.source), what="lag 0")
    await scorer.terminated()
    # What a sink holds becomes an object when the minute is over. The last one does not wait for it.
    for life in stage.sinks.values():
        await life.until_live()
        await life.terminated()
    last = await crew.start("sink", flush_on_stop=True)
    await last.until_live()
    await last.until_none(lambda: _unread(world, last), what="having read everything")
    await last.terminated()


async def _unread(world: S3World, sink: Life) -> int:
    """Positions of the sunk streams that it has not received; a chain that is taken up begins anywhere."""
    sink.flight.follow()
    parts = [info for stream in world.sunk for info in await world.partitions(stream)]
    return sum(max(0, info.end - sink.flight.reading.get(str(info.partition), 0)) for info in parts)


async def verified(world: S3World) -> list[str]:
    """What `cutbank verify` of the root says against the log, where that is not that all is there."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cutbank.cli", "verify", world.own_store_url, "--stream", world.own_url),
        *("--spec", str(world.spec_path), "--state", world.own_state_url),
        env={**os.environ, **world.environment(client="verify", flush_on_stop=False)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(VERIFY_S_MAX):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    text = said.decode(errors="replace")
    (world.folder / "verify.txt").write_text(text)
    if process.returncode == 0 and CLEAN in text:
        return []
    return [f"cutbank verify found faults, exit code {process.returncode}\n{text[-3000:]}"]
