"""`cutbank settings`: prints every setting of every service, from the classes that hold them.

One row a variable: a setting that several services share is printed once, with their names. The same table is in the
documentation, made with --markdown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from cutbank.cli.services import load_services
from cutbank.runtime.command import Command
from cutbank.runtime.options import SettingRow, setting_rows
from cutbank.runtime.service import Service


@dataclass(frozen=True, slots=True)
class SharedRow:
    """One setting and the services that have it, alike in everything."""

    services: tuple[str, ...]
    row: SettingRow


def shared_rows(services: dict[str, Service[Any]]) -> list[SharedRow]:
    """All settings; those of all services first, each service's own after them, in the order of their fields."""
    owners: dict[SettingRow, list[str]] = {}
    for name, service in services.items():
        for row in setting_rows(service.settings):
            owners.setdefault(row, []).append(name)
    found = [SharedRow(tuple(names), row) for row, names in owners.items()]
    return sorted(found, key=lambda shared: -len(shared.services))


def markdown(rows: list[SharedRow]) -> str:
    """The table as Markdown."""
    return "\n".join(_markdown(rows))


def _markdown(rows: list[SharedRow]) -> Iterator[str]:
    yield "| Variable | Option | Services | Type | Default | Meaning |"
    yield "|---|---|---|---|---|---|"
    for shared in rows:
        row = shared.row
        kind, meaning = row.kind.replace("|", " \\| "), row.meaning.replace("|", "\\|")
        spellings = ", ".join(f"`{spelling}`" for spelling in row.spellings)
        yield (
            f"| `{row.variable}` | {spellings} | {', '.join(shared.services)} | {kind} | `{row.default}` | {meaning} |"
        )


def _plain(rows: list[SharedRow]) -> Iterator[str]:
    """For terminals of any width: two lines a setting."""
    owners: tuple[str, ...] = ()
    for shared in rows:
        if shared.services != owners:
            owners = shared.services
            yield from ("", click.style(", ".join(owners), bold=True))
        row = shared.row
        yield f"  {row.variable}  {' '.join(row.spellings)} {row.kind}  default: {row.default}"
        yield f"      {row.meaning}"


def _run(*, as_markdown: bool) -> None:
    rows = shared_rows(load_services())
    click.echo(markdown(rows) if as_markdown else "\n".join(_plain(rows)).strip())


settings = Command(
    "settings",
    callback=_run,
    help="""Print every setting of every service: variable, option, type, default and meaning.

    An option overrides its variable, which overrides the default.""",
    params=[click.Option(["--markdown", "as_markdown"], is_flag=True, help="Print a Markdown table instead.")],
    examples=("cutbank settings", "cutbank settings --markdown"),
)
