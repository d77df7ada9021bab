"""Every way a command can end: its exit code, and what it says on stderr."""

from collections.abc import Callable

import click
import pytest

from cutbank.errors import MissingExtra, StoreUnavailable, StreamMissing, UsageError
from cutbank.runtime.command import Command, Group, execute

Ends = Callable[[], object]


def command_that(ends: Ends) -> Command:
    return Command("do", callback=lambda **_: ends(), params=[click.Option(["--n"], type=int)], examples=("do --n 3",))


def fails_with(error: BaseException) -> Ends:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (lambda: "text", 0, ""),
        (fails_with(UsageError("no such file: x.toml")), 2, "prog: error: no such file: x.toml\n"),
        (fails_with(MissingExtra("needs kafka")), 2, "prog: error: needs kafka\n"),
        (fails_with(StreamMissing("no stream\ntrades")), 1, "prog: error: no stream trades\n"),
        (fails_with(StoreUnavailable("at s3://u:secret@h/")), 1, "prog: error: at s3://u:***@h/\n"),
        (fails_with(PermissionError(13, "Permission denied", "x")), 1, "[Errno 13] Permission denied: 'x'\n"),
        (fails_with(click.BadParameter("too small")), 2, "prog: error: Invalid value: too small (see prog --help)\n"),
        (fails_with(KeyboardInterrupt()), 130, ""),
        (fails_with(click.Abort()), 130, ""),
        (fails_with(click.exceptions.Exit(4)), 4, ""),
    ],
)
def test_ends(capsys: pytest.CaptureFixture[str], ends: Ends, code: int, said: str) -> None:
    assert execute(command_that(ends), [], program="prog") == code
    told = capsys.readouterr().err
    assert told.endswith(said)
    assert told.count("\n") == bool(said)


@pytest.mark.parametrize("argv", [["--m"], ["--n"], ["--n", "x"], ["extra"], ["--n=1", "--help=3"]])
def test_wrong_use_is_one_line(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert execute(command_that(lambda: 0), argv, program="prog") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("prog: error: ")
    assert argv[-1].partition("=")[0] in err
    assert err.count("\n") == 1


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        execute(command_that(lambda: 1 // 0), [], program="prog")


def test_help_ends_in_the_examples_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(command_that(lambda: 1), ["--help"], program="prog") == 0
    assert capsys.readouterr().out.endswith("\nExamples:\n  do --n 3\n")


def test_a_group_without_a_command_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    group = Group("all", commands=[command_that(lambda: 5)], examples=("all do",))
    assert execute(group, ["do"], program="prog") == 5
    assert execute(group, [], program="prog") == 2
    assert capsys.readouterr().err == "prog: error: Missing command (see prog --help)\n"


def test_the_object_reaches_the_command() -> None:
    seen: list[object] = []
    command = command_that(lambda: seen.append(click.get_current_context().obj))
    execute(command, [], program="prog", obj={"CUTBANK_SPEC": "x"})
    assert seen == [{"CUTBANK_SPEC": "x"}]
