"""The root of the command line: which commands there are. Imports none of them until it is asked for.

A command's context carries the environment in `obj`, a mapping; no command reads the process's own.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Final

import click

from cutbank import __version__
from cutbank.cli.services import SERVICES, load_service_command
from cutbank.errors import MissingExtra
from cutbank.runtime.command import Group

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "demo": ("cutbank.cli.demo:demo", "Run producer, scorer and sink together and prove the accounts."),
    "streams": ("cutbank.cli.streams:streams", "Create, list and describe streams."),
    "tail": ("cutbank.cli.tail:tail", "Print a stream's records."),
    "errors": ("cutbank.cli.errors:errors", "List and show bad records, send them again after a fix."),
    "replay": ("cutbank.cli.replay:replaying", "Score a stretch of the source again, into another stream."),
    "verify": ("cutbank.cli.verify:verify", "Audit the objects: nothing missing, doubled or foreign."),
    "query": ("cutbank.cli.query:query", "Ask the objects by SQL; table definitions for other engines."),
    "init": ("cutbank.cli.init:init", "Write a commented cutbank.toml and its JSON Schema."),
    "doctor": ("cutbank.cli.doctor:doctor", "Check log, stores, settings, spec and machine."),
    "settings": ("cutbank.cli.settings:settings", "Print every setting of every service."),
    "warm": ("cutbank.cli.warm:warm", "Compile the detectors' kernels now, not at the first record."),
}
"""A command's name: where it is, and its line in the list of commands."""


class _Root(Group):
    """Finds the commands above and the services, and loads only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's interface
        """All names, in the order in which a newcomer needs them."""
        return [*SERVICES, *(name for name, (where, _) in COMMANDS.items() if find_spec(where.partition(":")[0]))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now; None if there is no such command."""
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            if find_spec(module) is None:
                return None
            try:
                command = getattr(import_module(module), attribute)
            except ModuleNotFoundError as error:  # an image of one service has what that service needs
                if (error.name or "").partition(".")[0] == "cutbank":
                    raise
                raise MissingExtra(
                    f"cutbank {cmd_name} needs the Python package {error.name}, which is not installed here: run it in "
                    "the scorer's image, or pip install cutbank"
                ) from None
            assert isinstance(command, click.Command), f"{cmd_name} is a click command"
            return command
        return load_service_command(cmd_name, ctx.obj or {})

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by the summaries kept here, so that none has to be imported."""
        names = self.list_commands(ctx)
        summaries = {**SERVICES, **{name: summary for name, (_, summary) in COMMANDS.items()}}
        with formatter.section("Commands"):
            formatter.write_dl([(name, summaries[name]) for name in names])


cutbank = _Root(
    "cutbank",
    help="""Extract anomalous events from a live stream: nothing lost, nothing twice, the same score always.

    Exit codes: 0 done, 1 failed, 2 wrong use, 3 cut off before it had drained, 130 interrupted.""",
    examples=(
        "cutbank demo                       producer, scorer and sink for 2 minutes, with proof",
        "cutbank init                       a pipeline spec of your own to edit",
        "cutbank doctor                     what is missing before the services can run",
        "cutbank score --spec cutbank.toml  one service, until SIGTERM",
        "cutbank tail anomalies --follow    what it found",
    ),
)
click.version_option(__version__, prog_name="cutbank", message="%(prog)s %(version)s")(cutbank)
