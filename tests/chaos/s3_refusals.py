"""What has to stop a sink loudly, and harm nothing: an object with other content where its own was to be, and a second
cluster that writes to the same root. Event-loop only.
"""

import asyncio
from pathlib import Path

from chaos.crew import Crew, Life
from chaos.s3_kills import replaced
from chaos.s3_stage import S3Stage, create
from chaos.s3_world import S3World
from chaos.stage import through_a_step
from object_servers.requests import Fault, S3Request, What

PLAIN = {"CUTBANK_FORMAT": "ndjson", "CUTBANK_COMPRESSION": "none"}


async def in_the_way(stage: S3Stage, times: int) -> None:
    """Somebody else's object under the name that a claim has just given; then it is moved away."""
    world = stage.world
    for _ in range(times):
        await replaced(stage, 0, PLAIN)
        sink = stage.sinks[0]
        await sink.until_live()
        held: list[S3Request] = []
        rule = stage.rule(Fault.HOLD, **create(What.OBJECT, sink, then=held.append))
        await sink.until(rule.met.is_set, what="an object's put")
        key = held[0].key.partition("/anomalies/")[2]
        await world.store.create(key, b'{"somebody": "else"}\n')
        stage.proxy.remove(rule)
        if not await says(sink, b"is there with other content than its claim says", or_commits=True):
            stage.findings.append("an object in the way was taken for the sink's own")
            return
        await stage.look("an object in the way", but=key)
        await world.store.delete(key)
        await replaced(stage, 0, PLAIN)
        await stage.sinks_at_work("the object was moved out of the way")
        stage.happened["an object in the way: a loud stop, then moved away"] += 1


async def another_cluster(stage: S3Stage, times: int) -> None:
    """A second pipeline of that name, on a log of its own, told the same root: its sink stops loudly, ours goes on."""
    world = stage.world
    for number in range(times):
        folder = world.folder / f"other-{number}"
        other = S3World(
            folder=folder,
            log_folder=folder,
            objects_folder=folder,
            records_per_second=world.records_per_second,
            seed=number,
            endpoint=world.endpoint,
            bucket=world.bucket,
            proxy=world.proxy,
            root=world.root,
            width=world.width,
            state_folder=f"state-of-another-{number}",
        )
        async with other, Crew(other) as crew:
            for role in ("producer", "scorer", "sink"):
                await crew.start(role)
            await says(crew.posts["sink"], b"another stream has taken this name")
            await stage.sinks_at_work("another cluster began on this root")
        stage.happened["a second cluster on the same root: a loud stop"] += 1


async def says(life: Life, what: bytes, *, or_commits: bool = False) -> bool:
    """Until it has said this; False: it has committed before that, if it is to be looked for. Raises Trouble."""
    mark, heard = life.flight.last, False

    async def said() -> bool:
        nonlocal heard
        heard = what in await asyncio.to_thread(Path.read_bytes, life.log)
        return heard or (or_commits and through_a_step(life, mark))

    await life.until_true(said, what=f"the words: {what.decode()}")
    return heard
