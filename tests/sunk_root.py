"""A real root for audits: anomalies on an embedded log, sunk by the real sink, and hands to spoil what it wrote."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cutbank.errors import ObjectMissing
from cutbank.metrics import NoMetrics
from cutbank.objects.filesystem import FileSystemStore
from cutbank.pipeline.sinking.claims import ChainId, Claim, decode, encode, link_from_key
from cutbank.pipeline.verifying import Log, Scope, Verdict, verify
from cutbank.testing.clock import ManualClock
from sinking_world import CHAIN, FIRST_MINUTE_MS, MINUTE_MS, World, anomaly

MINUTES = 3
A_MINUTE = 6
"""Anomalies of each minute."""


def at_ms(minute: int, second: int) -> int:
    """A time in one of the minutes."""
    return FIRST_MINUTE_MS + minute * MINUTE_MS + second * 1000


def anomalies(minute: int, *, first: int = 0, pipeline: str = "p") -> list[bytes]:
    """Anomalies of one minute: two a second, of two source partitions, scores neither rising nor falling."""
    return [
        anomaly(
            first + minute * A_MINUTE + index,
            score=1.0 + (index * 7 % 5) / 8,
            source=str(index % 2),
            at_ms=at_ms(minute, 10 + index // 2),
            pipeline=pipeline,
        )
        for index in range(A_MINUTE)
    ]


async def sink(folder: Path, **settings: Any) -> None:
    """Sink a few minutes' anomalies into `folder`/objects."""
    async with World(folder) as world:
        for minute in range(MINUTES):
            await world.publish(*anomalies(minute), minute=minute)
        await world.sink_all(**settings)


def sunk(folder: Path, **settings: Any) -> Path:
    """The root of a finished sink."""
    asyncio.run(sink(folder, **settings))
    return folder / "objects"


def audited(root: Path, *, scope: Scope | None = None, log: Log | None = None) -> Verdict:
    """The audit's verdict on a root."""

    async def run() -> Verdict:
        store = FileSystemStore(root, clock=ManualClock(), metrics=NoMetrics())
        return await verify(store, scope=scope, log=log)

    return asyncio.run(run())


class Late(FileSystemStore):
    """A store in which a file that is taken out of it appears again right after it was missed."""

    def __init__(self, root: Path, path: Path) -> None:
        super().__init__(root, clock=ManualClock(), metrics=NoMetrics())
        self._path, self._body = path, path.read_bytes()
        path.unlink()

    async def read(self, key: str) -> bytes:
        try:
            return await super().read(key)
        except ObjectMissing:
            self._path.write_bytes(self._body)
            raise


def names(verdict: Verdict) -> set[str]:
    """What was found, by name."""
    return {finding.kind.label for finding in verdict.findings}


def claims(root: Path, chain: ChainId = CHAIN) -> list[Claim]:
    """A chain's claims, oldest first."""
    paths = sorted(path for path in (root / chain.prefix).iterdir() if path.name[0] not in "b.")
    keys = [f"{chain.prefix}{path.name}" for path in reversed(paths) if not path.name.endswith(".lost")]
    return [decode((root / key).read_bytes(), Claim, key=key) for key in keys]


def rewrite(root: Path, claim: Claim, **changes: Any) -> Claim:
    """Put a changed claim in a claim's place, or in that of its new start."""
    changed = Claim.model_validate({**dict(claim), **changes})
    assert link_from_key(changed.key) is not None
    (root / changed.key).write_bytes(encode(changed))
    return changed


def data_file(root: Path, index: int = 1, *, chain: ChainId = CHAIN) -> Path:
    """The data object of one of the claims."""
    return root / claims(root, chain)[index].objects[0].key


def edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change an object's lines."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))
