"""What a service is, and what it is given: the seam between the services' packages and the runtime.

A service is one coroutine `run(settings, runtime)`. It returns when its work is done or soon after `runtime.stop` is
set; it raises a CutbankError for what the operator must act on. Signals, the grace period, exit codes, logs and the
health server are the supervisor's business. Event-loop only.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cutbank.clock import Clock
from cutbank.metrics import Metrics
from cutbank.runtime.health import Health
from cutbank.runtime.settings import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)


@dataclass
class Runtime:
    """What a running service is given. A test makes its own: only `clock` and `metrics` have to be named."""

    clock: Clock
    metrics: Metrics
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by SIGTERM or SIGINT: take no new work, finish what is there, return."""
    health: Health = field(default_factory=Health)
    rng: random.Random = field(default_factory=random.Random)
    """For jitter; never for anything that a score depends on."""


@dataclass(frozen=True)
class Service(Generic[S]):
    """One service, as its package declares it: `SERVICE` in `cutbank_<name>/app.py`."""

    name: str
    """Its name in logs."""
    summary: str
    """One sentence for `--help`."""
    examples: tuple[str, ...]
    """Command lines that work, for `--help`; at least one."""
    settings: type[S]
    run: Callable[[S, Runtime], Awaitable[None]]
    """Returns when the work is done, or drained after `runtime.stop`. Raises CutbankError, alone or in a group."""


def run_service(service: Service[S], settings: S) -> int:
    """Run until done, stopped or failed; the exit code. Main thread only: it handles SIGTERM and SIGINT.

    0: done or drained. 1: failed. 2: a wrong setting or spec. 3: cut off by a second signal or the grace period's end.
    """
    from cutbank.runtime.supervisor import supervise

    return supervise(service, settings)


def service_main(service: Service[S], argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """What `python -m cutbank_<name>` does: options and environment to settings, then `run_service`; the exit code.

    `argv` is without the program's name. Wrong use is one line on stderr and 2.
    """
    from cutbank.runtime.command import execute
    from cutbank.runtime.options import service_command

    program = service.settings.__module__.partition(".")[0]
    return execute(service_command(service, environ), argv, program=program)
