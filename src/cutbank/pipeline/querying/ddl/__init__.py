"""Table definitions for other engines, which read the folders as the newest claims lay them out.

No settings are needed: the claims know pipeline, prefix, format and compression. What a definition can't read (older
layouts, columns without a name there) its comments say.
"""

from collections.abc import Sequence
from typing import Final

from cutbank.errors import ObjectMissing, PartitionStopped, UsageError
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.querying.claimed import Claimed, Links, listed, read_claim
from cutbank.pipeline.querying.ddl import athena, duckdb, trino
from cutbank.pipeline.querying.ddl.folders import Layouts, Place
from cutbank.pipeline.querying.tables import anomalies_table, errors_table
from cutbank.pipeline.sinking.claims import ChainId
from cutbank.pipeline.sinking.inspect import chains
from cutbank.pipeline.spec import PipelineSpec

_ENGINES: Final = {"athena": athena.define, "trino": trino.define, "duckdb": duckdb.define}

ENGINES: Final = tuple(_ENGINES)
"""For which definitions are written."""

LOOKED_MAX = 32
"""Claims of a chain that are looked at, from the oldest to the newest, for layouts that are no longer used."""


async def definition(store: ObjectStore, spec: PipelineSpec, *, pipeline: str, engine: str, errors: bool) -> str:
    """The statements that define the anomalies' table, and with `errors` theirs. Raises UsageError: no objects yet."""
    wanted = [(spec.destination, anomalies_table(spec)), *([(spec.errors, errors_table())] if errors else [])]
    found = [chain async for chain in chains(store)]
    statements = []
    for stream, table in wanted:
        ours = [chain for chain in found if (chain.pipeline, chain.stream) == (pipeline, stream)]
        layouts = await _layouts(store, ours)
        if layouts is None:
            raise UsageError(
                f"{store.url}: no objects of stream {stream} of pipeline {pipeline}: a definition follows from what a "
                "sink has written; --pipeline or --spec names another"
            )
        statements.append(_ENGINES[engine](Place(store.url, pipeline, stream), table, layouts))
    return "\n\n".join(statements)


async def _layouts(store: ObjectStore, ours: Sequence[ChainId]) -> Layouts | None:
    """Of the newest claim with objects, and the others that were met; None: there is none."""
    seen: list[Claimed] = []
    count = 0
    for chain in ours:
        links = await listed(store, chain, minute_first_ms=None)
        count += len(links.starts)
        seen += await _some(store, links)
    if not seen:
        return None
    newest = max(seen, key=lambda claim: claim.minute_ms)
    others = {claim.layout for claim in seen} - {newest.layout}
    return Layouts(
        newest=newest.layout,
        others=tuple(sorted(others, key=lambda layout: layout.model_dump_json())),
        first_ms=min(claim.minute_ms for claim in seen),
        whole=len(seen) == count,
    )


async def _some(store: ObjectStore, links: Links) -> list[Claimed]:
    """The newest claim, the oldest, and some between, of those that have objects and can be read."""
    last = len(links.starts) - 1
    indices = sorted({round(step * last / (LOOKED_MAX - 1)) for step in range(LOOKED_MAX)}) if last >= 0 else []
    found = []
    for index in indices:
        try:
            claim = await read_claim(store, links, links.starts[index])
        except (PartitionStopped, ObjectMissing):
            continue
        if claim.objects:
            found.append(claim)
    return found
