"""How a service's failure becomes log lines and an exit code, without a process."""

import io
import json

import pytest

from cutbank.errors import PositionLost, StreamMissing, UsageError
from cutbank.runtime.supervisor import EXIT_FAILED, EXIT_USAGE, report


def logged(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (UsageError("no such file"), EXIT_USAGE),
        (StreamMissing("no stream trades"), EXIT_FAILED),
        (ExceptionGroup("tasks", [UsageError("no such file")]), EXIT_USAGE),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [PositionLost("gone")])]), EXIT_FAILED),
        (ExceptionGroup("tasks", [UsageError("a"), StreamMissing("b")]), EXIT_FAILED),
    ],
)
def test_our_errors_become_one_line_without_traceback(json_log: io.StringIO, failure: Exception, code: int) -> None:
    assert report(failure) == code
    (line,) = logged(json_log.getvalue())
    assert line["event"] == "failed"
    assert line["exit_code"] == code
    assert "exception" not in line


def test_the_line_holds_every_message_once_and_names_the_kind(json_log: io.StringIO) -> None:
    group = ExceptionGroup("tasks", [StreamMissing("gone"), StreamMissing("gone"), PositionLost("past\nretention")])
    report(group)
    (line,) = logged(json_log.getvalue())
    assert line["error"] == "gone; past retention"
    assert line["kind"] == "StreamMissing"


def test_a_bug_is_logged_with_its_traceback_and_fails(json_log: io.StringIO) -> None:
    def buggy() -> None:
        raise KeyError("partition")

    with pytest.raises(KeyError) as caught:
        buggy()
    assert report(ExceptionGroup("tasks", [UsageError("also this"), caught.value])) == EXIT_FAILED
    (line,) = logged(json_log.getvalue())
    assert line["event"] == "failed by a bug"
    assert "in buggy" in line["exception"]
    assert line["error"] == "KeyError: 'partition'"
