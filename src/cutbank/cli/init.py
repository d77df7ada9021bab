"""`cutbank init`: writes a pipeline spec to edit, and the JSON Schema that lets editors complete it.

Invariant: the file as written loads to exactly the defaults of `PipelineSpec`, and names every field of it with its
documentation, since both are made from the class. Nothing is overwritten unless that is asked for.
"""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import orjson
from pydantic import BaseModel

from cutbank.errors import UsageError
from cutbank.pipeline.spec import PipelineSpec
from cutbank.runtime.command import Command

SPEC_NAME: Final = "cutbank.toml"
SCHEMA_NAME: Final = "cutbank.schema.json"

_WIDTH: Final = 110

_HEAD: Final = f"""\
#:schema ./{SCHEMA_NAME}
# The spec of one Cutbank pipeline: what is scored, how, and where the anomalies go. Every value here is the default.
# Use it: `cutbank score --spec {SPEC_NAME}`, and so with every other service, or set CUTBANK_SPEC.
"""


def spec_toml() -> str:
    """The commented file."""
    return _HEAD + "\n" + "\n".join(_table(PipelineSpec(), ()))


def spec_schema() -> bytes:
    """The JSON Schema of the file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **PipelineSpec.model_json_schema()}
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _table(model: BaseModel, path: tuple[str, ...]) -> Iterator[str]:
    """A model's own values, then its tables: TOML wants them in this order."""
    fields = type(model).model_fields
    tables = {name for name in fields if isinstance(getattr(model, name), BaseModel)}
    for name, field in fields.items():
        if name not in tables:
            yield from _comment(field.description)
            yield from _assignment(name, getattr(model, name))
            yield ""
    for name in fields:
        if name in tables:
            yield from _comment(fields[name].description)
            yield f"[{'.'.join((*path, name))}]"
            yield from _table(getattr(model, name), (*path, name))


def _comment(text: str | None) -> Iterator[str]:
    words = " ".join((text or "").split())
    yield from (f"# {line}" for line in textwrap.wrap(words, _WIDTH))


def _assignment(name: str, value: Any) -> Iterator[str]:
    if value is None:
        yield f"# {name} ="
    elif isinstance(value, tuple | list) and value and isinstance(value[0], BaseModel):
        for part, field in type(value[0]).model_fields.items():
            yield from _comment(f"{part}: {field.description}")
        yield f"{name} = ["
        yield from (f"  {_toml(item)}," for item in value)
        yield "]"
    else:
        yield f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    """A value in TOML's syntax. JSON's is TOML's for strings, booleans and numbers, but for DEL."""
    if isinstance(value, BaseModel):
        pairs = ((name, getattr(value, name)) for name in type(value).model_fields)
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in pairs if item is not None) + " }"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _run(folder: str, *, force: bool) -> None:
    target = Path(folder)
    bodies = {target / SPEC_NAME: spec_toml().encode(), target / SCHEMA_NAME: spec_schema()}
    taken = [str(path) for path in bodies if path.exists()]
    if taken and not force:
        raise UsageError(f"already there: {' and '.join(taken)}; name another folder, or overwrite it with --force")
    target.mkdir(parents=True, exist_ok=True)
    for path, body in bodies.items():
        path.write_bytes(body)
        click.echo(f"wrote {path}")
    click.echo(f"next: edit {target / SPEC_NAME}, check it with `cutbank doctor --spec {target / SPEC_NAME}`")


init = Command(
    "init",
    callback=_run,
    help=f"""Write a commented {SPEC_NAME} into DIR (here), and {SCHEMA_NAME} beside it for editors.

    The spec names every field with its meaning and its default.""",
    params=[
        click.Argument(["folder"], metavar="[DIR]", default="."),
        click.Option(["--force"], is_flag=True, help="Overwrite files that are there."),
    ],
    examples=("cutbank init", "cutbank init pipelines/staging", "cutbank init --force"),
)
