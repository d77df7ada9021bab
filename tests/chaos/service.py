"""One service as a process of its own, with a flight recorder around its transport and its store.

`python -m chaos.service ROLE RING PARENT [PLANT]` runs the very code of `python -m cutbank_ROLE`, with the settings
from the environment; only what the registries open is wrapped. Killed when its parent is gone.
"""

import ctypes
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from chaos.flight import Recorder
from cutbank.clock import Clock
from cutbank.metrics import Metrics
from cutbank.objects.base import ObjectStore
from cutbank.objects.registry import STORES
from cutbank.runtime.service import Service, service_main
from cutbank.testing.taps import TappedStore, TappedTransport
from cutbank.transports.base import Tell, Transport, tell_nobody
from cutbank.transports.registry import TRANSPORTS, Opener

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Be killed when the parent ends; end now if it has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)


def tap(recorder: Recorder) -> None:
    """Every transport and store that this process opens is recorded from now on."""

    def transport(
        opener: Opener,
        url: str,
        *,
        clock: Clock,
        metrics: Metrics,
        client_id: str | None = None,
        tell: Tell = tell_nobody,
    ) -> Transport:
        return TappedTransport(opener(url, clock=clock, metrics=metrics, client_id=client_id, tell=tell), recorder)

    def store(opener: Any, url: str, clock: Clock, metrics: Metrics) -> ObjectStore:
        return TappedStore(opener(url, clock, metrics), recorder)

    for scheme in TRANSPORTS:
        TRANSPORTS[scheme] = partial(transport, TRANSPORTS[scheme])
    for scheme in STORES:
        STORES[scheme] = partial(store, STORES[scheme])


def service_of(role: str) -> Service[Any]:
    """Imported here, so that a process loads what its own role needs."""
    if role == "producer":
        from cutbank_producer.app import SERVICE as PRODUCER

        return PRODUCER
    if role == "scorer":
        from cutbank_scorer.app import SERVICE as SCORER

        return SCORER
    from cutbank_sink.app import SERVICE as SINK

    return SINK


def plant(name: str) -> None:
    """Plant a bug into this process; those on S3 need its client, which others may not have."""
    from chaos.plants import PLANTS

    if name in PLANTS:
        PLANTS[name]()
        return
    from chaos.s3_plants import S3_PLANTS

    S3_PLANTS[name]()


def main(arguments: list[str]) -> int:
    """`arguments`: role, ring, parent's process id, and perhaps the name of a bug to plant."""
    role, ring, parent, *plants = arguments
    die_with(int(parent))
    tap(Recorder(Path(ring)))
    service = service_of(role)
    for name in plants:
        plant(name)
    return service_main(service, [], os.environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
