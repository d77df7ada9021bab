"""One declaration gives variable, option, default and documentation; faults are one line that names the place."""

from collections.abc import Mapping
from typing import ClassVar

import pytest
from pydantic import Field, ValidationError

from cutbank.errors import UsageError
from cutbank.settings import Settings


class Example(Settings):
    environment_names: ClassVar[Mapping[str, str]] = {"stream_name": "STREAM_NAME"}

    stream_name: str = "trades"
    """Where records go."""
    records_per_second: float = Field(default=100.0, ge=0.0)
    """Rate, records a second; 0 for no limit."""


def test_defaults_hold_without_an_environment() -> None:
    assert Example.load({}) == Example()


def test_an_option_wins_over_the_environment_and_none_is_not_given() -> None:
    environ = {"STREAM_NAME": "from-environment", "CUTBANK_RECORDS_PER_SECOND": "7"}
    assert Example.load(environ).stream_name == "from-environment"
    assert Example.load(environ, stream_name="from-option", records_per_second=None) == Example(
        stream_name="from-option", records_per_second=7.0
    )


def test_foreign_variables_are_left_alone() -> None:
    assert Example.load({"PATH": "/bin", "CUTBANK_STREAM_NAME": "not the name of this field"}) == Example()


def test_a_wrong_variable_is_one_line_that_names_it() -> None:
    with pytest.raises(UsageError) as caught:
        Example.load({"CUTBANK_RECORDS_PER_SECOND": "fast"})
    assert str(caught.value).startswith("CUTBANK_RECORDS_PER_SECOND: ")
    assert "'fast'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_option_is_named_as_an_option_and_all_faults_are_told() -> None:
    with pytest.raises(UsageError) as caught:
        Example.load({"STREAM_NAME": "x"}, records_per_second=-1, colour="red")
    assert "--records-per-second: " in str(caught.value)
    assert "--colour: " in str(caught.value)


def test_settings_are_frozen_and_documented() -> None:
    settings = Example()
    with pytest.raises(ValidationError):
        settings.stream_name = "other"  # type: ignore[misc]
    assert Example.model_fields["stream_name"].description == "Where records go."


def test_a_long_wrong_value_is_cut() -> None:
    with pytest.raises(UsageError) as caught:
        Example.load({"CUTBANK_RECORDS_PER_SECOND": "x" * 10_000})
    assert len(str(caught.value)) < 300
