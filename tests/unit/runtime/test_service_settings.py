"""The settings that every service has."""

from pathlib import Path

import pytest

from cutbank.errors import UsageError
from cutbank.runtime.settings import ServiceSettings


def test_the_defaults_need_nothing() -> None:
    settings = ServiceSettings.load({})
    assert settings.transport_url == "local://data/log.db"
    assert settings.spec is None
    assert settings.http_host == "127.0.0.1"
    assert settings.http_port == 0


def test_the_environment_is_read_under_its_names() -> None:
    environ = {
        "CUTBANK_TRANSPORT_URL": "local:///x/log.db",
        "CUTBANK_SPEC": "my.toml",
        "CUTBANK_HTTP_PORT": "8080",
        "CUTBANK_GRACE_S": "2.5",
        "HTTP_PORT": "1",
    }
    settings = ServiceSettings.load(environ, http_port="9090")
    assert settings.transport_url == "local:///x/log.db"
    assert settings.spec == Path("my.toml")
    assert settings.http_port == 9090
    assert settings.grace_s == 2.5


def test_off_means_no_server_and_an_empty_spec_means_none() -> None:
    settings = ServiceSettings.load({"CUTBANK_HTTP_PORT": "off", "CUTBANK_SPEC": ""})
    assert settings.http_port is None
    assert settings.spec is None


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("http_port", "65536"),
        ("http_port", "-1"),
        ("http_port", "on"),
        ("grace_s", "0"),
        ("grace_s", "inf"),
        ("grace_s", "nan"),
        ("grace_s", "soon"),
        ("log_level", "loud"),
        ("log_format", "xml"),
        ("transport_url", ""),
        ("http_host", ""),
    ],
)
def test_a_wrong_value_is_one_line_that_names_option_or_variable(field: str, text: str) -> None:
    option, variable = "--" + field.replace("_", "-"), "CUTBANK_" + field.upper()
    for environ, given, name in (({}, {field: text}, option), ({variable: text}, {}, variable)):
        with pytest.raises(UsageError) as caught:
            ServiceSettings.load(environ, **given)
        assert str(caught.value).startswith(f"{name}: ")
        assert repr(text) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_field_is_documented() -> None:
    assert all(field.description for field in ServiceSettings.model_fields.values())
