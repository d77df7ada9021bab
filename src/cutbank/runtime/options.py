"""Command-line options made from settings classes: one declaration gives option, variable, default and help.

A field's docstring, default and variable become its option's help; its text goes to `Settings.load` as it was given,
so command line and environment are checked by the same rules. The environment is passed in, never read. No state.
"""

import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from cutbank.runtime.command import Command
from cutbank.runtime.service import Service, run_service
from cutbank.runtime.settings import ServiceSettings
from cutbank.settings import Settings

_KINDS: Mapping[Any, str] = {bool: "BOOLEAN", int: "INTEGER", float: "NUMBER", Path: "PATH"}


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting, as help and documentation show it."""

    field: str
    option: str
    variable: str
    kind: str
    """INTEGER, NUMBER, PATH, TEXT, BOOLEAN, or the choices: `auto|json|console`."""
    default: str
    meaning: str

    @property
    def spellings(self) -> tuple[str, ...]:
        """The option as it is typed; a yes-or-no setting has one for each."""
        return (self.option, f"--no-{self.option[2:]}") if self.kind == "BOOLEAN" else (self.option,)


def setting_rows(settings: type[Settings]) -> tuple[SettingRow, ...]:
    """Every setting of a class, in the order of its fields, those of its base first."""
    return tuple(
        SettingRow(
            field=name,
            option="--" + name.replace("_", "-"),
            variable=settings.environment_name(name),
            kind=_kind(field.annotation),
            default="required" if field.is_required() else _text(field.get_default(call_default_factory=True)),
            meaning=" ".join((field.description or "").split()),
        )
        for name, field in settings.model_fields.items()
    )


def options(settings: type[Settings], *, only: Collection[str] | None = None) -> list[click.Parameter]:
    """A click option for every setting, or for those named; each passes its text on, or None where it was not given."""
    return [_option(row) for row in setting_rows(settings) if only is None or row.field in only]


def _option(row: SettingRow) -> click.Option:
    told = f"{row.meaning}  [{row.variable}; default: {row.default}]"
    if row.kind == "BOOLEAN":
        return click.Option(["/".join(row.spellings), row.field], default=None, help=told)
    metavar = f"[{row.kind}]" if "|" in row.kind else row.kind
    return click.Option([row.option, row.field], default=None, metavar=metavar, help=told)


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(_kind(part) for part in get_args(annotation) if part is not type(None)))
    if origin is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    return _KINDS.get(annotation, "TEXT")


def _text(default: Any) -> str:
    if default is None or default in ("", ()):
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple | list):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def service_command(service: Service[Any], environ: Mapping[str, str], *, name: str | None = None) -> Command:
    """The command that runs a service with its settings as options; its result is the exit code."""

    def run(**given: Any) -> int:
        settings: ServiceSettings = service.settings.load(environ, **given)
        code = run_service(service, settings)
        _leave(code)
        return code

    return Command(
        name or service.name,
        params=options(service.settings),
        callback=run,
        help=service.summary,
        examples=service.examples,
    )


def _leave(code: int) -> None:
    from cutbank.runtime.supervisor import leave

    leave(code)
