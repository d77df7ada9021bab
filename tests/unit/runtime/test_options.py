"""Options made from settings: each field has one, with its docstring, variable and default; text goes through."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, create_model

from cutbank.runtime.options import SettingRow, options, setting_rows
from cutbank.runtime.settings import ServiceSettings
from cutbank.settings import Settings


class Sample(Settings):
    environment_names = {"stream_name": "STREAM_NAME"}  # noqa: RUF012  # as services write it

    batch_records: int = Field(default=100, ge=1)
    """Records a batch, at least 1."""
    share: float = 0.05
    """Share of anomalies,
    0 to 1."""
    emit: Literal["anomalies", "all"] = "anomalies"
    """What is published."""
    embed: bool = False
    """Whether to embed."""
    input: Path | None = None
    """File to read."""
    seed: Annotated[int, Field(ge=0)] = 7
    """Seed."""
    names: tuple[str, ...] = ("a", "b")
    """Names."""
    stream_name: str
    """Where to publish."""


def row(field: str) -> SettingRow:
    return next(row for row in setting_rows(Sample) if row.field == field)


@pytest.mark.parametrize(
    ("field", "kind", "default", "variable"),
    [
        ("batch_records", "INTEGER", "100", "CUTBANK_BATCH_RECORDS"),
        ("share", "NUMBER", "0.05", "CUTBANK_SHARE"),
        ("emit", "anomalies|all", "anomalies", "CUTBANK_EMIT"),
        ("embed", "BOOLEAN", "false", "CUTBANK_EMBED"),
        ("input", "PATH", "none", "CUTBANK_INPUT"),
        ("seed", "INTEGER", "7", "CUTBANK_SEED"),
        ("names", "TEXT", "a,b", "CUTBANK_NAMES"),
        ("stream_name", "TEXT", "required", "STREAM_NAME"),
    ],
)
def test_a_row_shows_type_default_and_variable(field: str, kind: str, default: str, variable: str) -> None:
    shown = row(field)
    assert (shown.kind, shown.default, shown.variable) == (kind, default, variable)
    assert shown.option == "--" + field.replace("_", "-")


def test_a_docstring_over_several_lines_becomes_one() -> None:
    assert row("share").meaning == "Share of anomalies, 0 to 1."


def parsed(settings: type[Settings], *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    click.Command("try", params=options(settings), callback=lambda **given: found.update(given)).main(
        list(argv), standalone_mode=False
    )
    return found


def test_what_is_not_given_is_none_so_that_the_environment_counts() -> None:
    found = parsed(Sample)
    assert set(found) == set(Sample.model_fields)
    assert set(found.values()) == {None}
    loaded = Sample.load({"STREAM_NAME": "x", "CUTBANK_SEED": "9", "CUTBANK_EMBED": "true"}, **found)
    assert (loaded.stream_name, loaded.seed, loaded.embed) == ("x", 9, True)


def test_an_option_overrides_the_environment() -> None:
    found = parsed(Sample, "--seed", "3", "--no-embed", "--stream-name", "y", "--emit", "all")
    loaded = Sample.load({"STREAM_NAME": "x", "CUTBANK_SEED": "9", "CUTBANK_EMBED": "true"}, **found)
    assert (loaded.stream_name, loaded.seed, loaded.embed, loaded.emit) == ("y", 3, False, "all")


def test_only_some_fields() -> None:
    assert [option.name for option in options(ServiceSettings, only={"spec", "transport_url"})] == [
        "transport_url",
        "spec",
    ]


def test_the_process_s_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Sample.model_fields:
        monkeypatch.setenv(Sample.environment_name(field), "5")
    assert set(parsed(Sample).values()) == {None}


KINDS: dict[Any, Callable[[], st.SearchStrategy[Any]]] = {
    int: lambda: st.integers(-(2**62), 2**62),
    float: lambda: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans,
    str: lambda: st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1),
}
NAMES = st.from_regex(r"[a-z]{1,8}(_[a-z]{1,8}){0,2}", fullmatch=True).filter(
    lambda name: not name.startswith("model") and not name.startswith("no") and not hasattr(Settings, name)
)


@st.composite
def settings_classes(draw: st.DrawFn) -> type[Settings]:
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    fields: dict[str, Any] = {}
    for name in names:
        kind = draw(st.sampled_from(list(KINDS)))
        about = draw(st.from_regex(r"[A-Z][a-z]{1,12}( [a-z]{1,12}){0,5}\.", fullmatch=True))
        fields[name] = (kind, Field(default=draw(KINDS[kind]()), description=about))
    return create_model("Made", __base__=Settings, **fields)


@settings(max_examples=40, deadline=None)  # a class an example takes time
@given(made=settings_classes())
def test_every_field_has_an_option_that_tells_all(made: type[Settings]) -> None:
    by_name = {option.name: option for option in options(made)}
    assert list(by_name) == list(made.model_fields)
    for shown in setting_rows(made):
        option = by_name[shown.field]
        assert isinstance(option, click.Option)
        assert shown.option in option.opts
        assert option.help is not None
        assert option.help.startswith(shown.meaning)
        assert f"[{shown.variable}; default: {shown.default}]" in option.help


@settings(max_examples=40, deadline=None)  # a class an example takes time
@given(made=settings_classes())
def test_a_default_given_as_it_is_shown_changes_nothing(made: type[Settings]) -> None:
    """What help shows as the default is what one would have to type to get it."""
    argv: list[str] = []
    for shown in setting_rows(made):
        if shown.kind == "BOOLEAN":
            argv.append(shown.option if shown.default == "true" else f"--no-{shown.option[2:]}")
        elif shown.kind != "NUMBER":  # shown with six digits
            argv.append(f"{shown.option}={shown.default}")
    assert made.load({}, **parsed(made, *argv)) == made.load({})
