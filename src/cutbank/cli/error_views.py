"""What the commands about bad records share: the log and spec that they are told of, and how errors are shown.

What records hold is never obeyed by the terminal: control characters are shown. No state.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import click

from cutbank.cli.connect import open_log
from cutbank.cli.tables import HIDDEN
from cutbank.errors import CutbankError
from cutbank.pipeline.error_records import ErrorRecord
from cutbank.pipeline.spec import PipelineSpec, load_spec
from cutbank.runtime.settings import ServiceSettings
from cutbank.transports.base import Transport

HEAD_CHARACTERS: Final = 48
"""How much of a record a table shows."""

Options = Mapping[str, str | None]
"""`--transport-url` and `--spec` as they were given."""


def told(given: Options) -> tuple[str, PipelineSpec]:
    """The log's URL and the spec, from options and environment; other variables are not looked at."""
    environ: Mapping[str, str] = click.get_current_context().obj
    known = {name: environ[name] for name in map(ServiceSettings.environment_name, given) if name in environ}
    settings = ServiceSettings.load(known, **given)
    return settings.transport_url, load_spec(settings.spec)


@asynccontextmanager
async def opened(url: str, spec: PipelineSpec) -> AsyncIterator[Transport]:
    """The log, if it has the error stream."""
    async with open_log(url, may_create=False) as transport:
        if spec.errors not in await transport.streams():
            raise CutbankError(
                f"the log has no stream {spec.errors!r} yet: `cutbank score` makes it; --spec names another pipeline"
            )
        yield transport


def head(error: ErrorRecord) -> str:
    """The first characters of a record, as text that no terminal obeys."""
    text = error.head[: 4 * HEAD_CHARACTERS].decode("utf-8", errors="backslashreplace").translate(HIDDEN)
    return text if len(text) <= HEAD_CHARACTERS and error.whole else text[:HEAD_CHARACTERS] + "…"


def by_reason(counts: Counter[str]) -> str:
    """`12 invalid_json, 3 empty`: the most frequent first."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
