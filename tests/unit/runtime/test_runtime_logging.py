"""Log lines: their shape, their levels, both kinds of loggers, and no secret in any."""

import io
import json
import logging
import warnings
from datetime import datetime

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.runtime.logging import configure_logging
from cutbank.runtime.secrets import MASK, mask_secrets


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_time_level_event_service_and_fields(json_log: io.StringIO) -> None:
    structlog.get_logger("cutbank.try").info("claimed", records=3, partition="0")
    (line,) = lines(json_log)
    assert list(line)[:3] == ["time", "level", "event"]
    assert line["level"] == "info"
    assert line["event"] == "claimed"
    assert line["service"] == "scorer"
    assert line["records"] == 3
    assert line["logger"] == "cutbank.try"
    assert datetime.fromisoformat(str(line["time"])).utcoffset().total_seconds() == 0


def test_the_standard_librarys_loggers_have_the_same_shape(json_log: io.StringIO) -> None:
    logging.getLogger("some.library").warning("slow by %d ms", 12, extra={"broker": "b1"})
    (line,) = lines(json_log)
    assert list(line)[:3] == ["time", "level", "event"]
    assert line["event"] == "slow by 12 ms"
    assert line["service"] == "scorer"
    assert line["broker"] == "b1"


def test_warnings_are_logged_too(json_log: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("deprecated thing", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (line,) = lines(json_log)
    assert line["logger"] == "py.warnings"
    assert "deprecated thing" in line["event"]


@pytest.mark.parametrize(("level", "expected"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_decides_what_is_logged_by_either_kind_of_logger(
    own_logging: None, level: str, expected: int
) -> None:
    stream = io.StringIO()
    configure_logging(log_format="json", level=level, stream=stream)
    for logger in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        for method in ("debug", "info", "warning", "error"):
            getattr(logger, method)("said")
    assert len(lines(stream)) == 2 * expected


def test_a_compilers_debug_lines_stay_out(own_logging: None) -> None:
    stream = io.StringIO()
    configure_logging(log_format="json", level="debug", stream=stream)
    logging.getLogger("numba.core.ssa").debug("bytecode")
    logging.getLogger("numba.core.ssa").warning("slow")
    assert [line["event"] for line in lines(stream)] == ["slow"]


def test_auto_is_for_people_on_a_terminal_and_json_elsewhere(own_logging: None) -> None:
    seen = {}
    for stream in (Terminal(), io.StringIO()):
        configure_logging(log_format="auto", stream=stream)
        structlog.get_logger().info("ready", http="off")
        seen[stream.isatty()] = stream.getvalue()
    assert json.loads(seen[False])["event"] == "ready"
    assert "ready" in seen[True]
    assert not seen[True].startswith("{")
    assert seen[True].count("\n") == 1


def test_console_off_a_terminal_has_no_colour_codes(own_logging: None) -> None:
    stream = io.StringIO()
    configure_logging(log_format="console", stream=stream)
    structlog.get_logger().warning("lagging", records=7)
    assert "records=7" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_an_exception_is_one_line_of_json_with_its_traceback(json_log: io.StringIO) -> None:
    try:
        raise OSError("disk on fire")
    except OSError:
        structlog.get_logger().exception("flush")
    (line,) = lines(json_log)
    assert "disk on fire" in line["exception"]
    assert "Traceback" in line["exception"]


def test_secrets_are_masked_in_events_fields_nested_values_and_tracebacks(json_log: io.StringIO) -> None:
    secret = "hunter2"  # noqa: S105  # the one that must not come out
    log = structlog.get_logger()
    url = f"kafka://user:{secret}@broker:9092/x"
    said = f"open {url}"
    log.info(said, url=url, nested={"urls": [url], "sasl_password": secret}, aws_secret=secret)
    logging.getLogger("library").warning("connecting to %s", url)
    try:
        raise ValueError(f"can't reach {url}")
    except ValueError:
        log.exception("failed")
    assert len(lines(json_log)) == 3
    assert secret not in json_log.getvalue()
    assert "kafka://user:***@broker:9092/x" in json_log.getvalue()


def test_what_json_does_not_know_is_written_as_text(json_log: io.StringIO) -> None:
    structlog.get_logger().info("odd", path=object, value=2**70, data=b"\xff", seen={1})
    (line,) = lines(json_log)
    assert line["seen"] == [1]
    assert line["data"] == "b'\\xff'"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("kafka://u:p@h:9092", "kafka://u:***@h:9092"),
        ("https://:p@h/", "https://:***@h/"),
        ("kafka://u:p:q@x@h:9092", "kafka://u:***@h:9092"),
        ("local://data/log.db?durability=process-crash", "local://data/log.db?durability=process-crash"),
        ("kafka://h?sasl_password=x&acks=all", "kafka://h?sasl_password=***&acks=all"),
        ("{'aws_secret_access_key': 'abc'}", "{'aws_secret_access_key': '***'}"),
        ("http://host:9092/a@b", "http://host:9092/a@b"),
    ],
)
def test_masking(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


PASSWORDS = st.text(
    st.characters(codec="ascii", exclude_characters="/?#*", categories=["L", "N", "P", "S"]), min_size=3
)


@settings(deadline=None)
@given(password=PASSWORDS, user=st.from_regex(r"[a-z]{0,8}", fullmatch=True))
def test_no_password_of_a_url_survives(password: str, user: str) -> None:
    masked = mask_secrets(f"to <kafka://{user}:Q{password}Q@broker:9092/topic> now")
    assert f"Q{password}Q" not in masked
    assert MASK in masked
    assert masked.endswith("@broker:9092/topic> now")
