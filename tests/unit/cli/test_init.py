"""`cutbank init`: the file is the defaults, all of them, documented; nothing is overwritten unasked."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from cutbank.cli.init import _table, spec_schema, spec_toml
from cutbank.pipeline.spec import Column, DetectorSpec, PipelineSpec, load_spec, parse_spec

from .conftest import Run


def test_what_is_written_loads_to_exactly_the_defaults(cutbank: Run, folder: Path) -> None:
    code, out, err = cutbank("init")
    assert (code, err) == (0, "")
    assert load_spec(folder / "cutbank.toml") == PipelineSpec()
    assert [line.split()[1] for line in out.splitlines()[:2]] == ["cutbank.toml", "cutbank.schema.json"]


def test_the_first_line_points_editors_to_the_schema(cutbank: Run, folder: Path) -> None:
    cutbank("init", "specs/staging")
    target = folder / "specs" / "staging"
    first = (target / "cutbank.toml").read_text().splitlines()[0]
    assert first == "#:schema ./cutbank.schema.json"
    assert json.loads((target / "cutbank.schema.json").read_bytes())["title"] == "PipelineSpec"


def test_every_field_is_set_and_documented() -> None:
    text = spec_toml()
    document = tomllib.loads(text)
    comments = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    models: list[tuple[type[BaseModel], dict[str, object]]] = [
        (PipelineSpec, document),
        (DetectorSpec, document["detector"]),
        (Column, document["columns"][0]),
    ]
    for model, table in models:
        assert list(table.keys() ^ model.model_fields.keys()) == []
        for field in model.model_fields.values():
            assert field.description
            assert " ".join(field.description.split()) in comments


def test_no_line_is_wider_than_an_editor() -> None:
    assert max(map(len, spec_toml().splitlines())) <= 120


def test_each_value_is_read_not_just_defaulted() -> None:
    """Change any value in the file and the spec changes, or refuses: none is a dead letter."""
    document = tomllib.loads(spec_toml())
    document["threshold"] = 2.5
    document["detector"]["shingle_size"] = 4
    document["columns"][0]["name"] = "symbol"
    spec = parse_spec(document, where="test")
    assert (spec.threshold, spec.detector.shingle_size, spec.columns[0].name) == (2.5, 4, "symbol")


def test_the_schema_knows_every_field_and_no_other() -> None:
    schema = json.loads(spec_schema())
    assert schema["properties"].keys() == PipelineSpec.model_fields.keys()
    assert schema["additionalProperties"] is False
    assert all(part["description"] for part in schema["properties"].values())


@pytest.mark.parametrize("there", ["cutbank.toml", "cutbank.schema.json"])
def test_nothing_is_overwritten_unless_forced(cutbank: Run, folder: Path, there: str) -> None:
    (folder / there).write_text("mine")
    code, out, err = cutbank("init")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert there in err
    assert "--force" in err
    assert [path.name for path in folder.iterdir()] == [there]
    assert (folder / there).read_text() == "mine"
    assert cutbank("init", "--force")[0] == 0
    assert load_spec(folder / "cutbank.toml") == PipelineSpec()


def test_a_folder_that_can_t_be_made_is_one_line(cutbank: Run, folder: Path) -> None:
    (folder / "taken").write_text("a file")
    code, out, err = cutbank("init", "taken/below")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "taken" in err


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCALARS = st.one_of(
    TEXTS, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
)


@settings(deadline=None)
@given(value=st.one_of(SCALARS, st.lists(TEXTS, max_size=4), st.lists(st.integers(0, 9), max_size=4)))
def test_any_default_that_a_field_may_get_is_written_as_toml_reads_it(value: object) -> None:
    class Inner(BaseModel):
        """A table."""

        inner: Any = Field(default=value, description="Inner.")

    class Outer(BaseModel):
        """The file."""

        rows: tuple[Inner, ...] = Field(default=(Inner(), Inner()), description="Rows.")
        table: Inner = Field(default=Inner(), description="Table.")
        own: Any = Field(default=value, description="Own.")
        unset: str | None = Field(default=None, description="Unset.")

    text = "\n".join(_table(Outer(), ()))
    assert tomllib.loads(text) == {
        "rows": [{"inner": value}] * 2,
        "table": {"inner": value},
        "own": value,
    }
    assert "# unset =" in text
