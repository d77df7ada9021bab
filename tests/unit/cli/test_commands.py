"""What holds for every command: help with examples, and wrong use that is one line."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cutbank.cli import main, root
from cutbank.cli.root import COMMANDS
from cutbank.cli.root import cutbank as root_command
from cutbank.cli.services import SERVICES, load_service

from .conftest import Run


def paths() -> Iterator[tuple[str, ...]]:
    """Every command, groups and their commands too, as it is typed after `cutbank`."""
    context = click.Context(root_command, info_name="cutbank", obj={})
    yield ()
    for name in root_command.list_commands(context):
        yield (name,)
        if name in SERVICES:
            continue
        command = root_command.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, child) for child in command.commands)


@pytest.mark.parametrize("path", list(paths()), ids=lambda path: " ".join(path) or "cutbank")
def test_help_has_examples_that_name_the_command(cutbank: Run, path: tuple[str, ...]) -> None:
    code, out, err = cutbank(*path, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: {' '.join(('cutbank', *path))} ")
    _, found, examples = out.rpartition("\nExamples:\n")
    assert found
    assert f"  {' '.join(('cutbank', *path))}" in examples


def examples() -> Iterator[str]:
    """Every example of every command, without the words beside it and what is before or after a pipe."""
    context = click.Context(root_command, info_name="cutbank", obj={})
    for path in paths():
        command: click.Command = root_command
        for name in path:
            assert isinstance(command, click.Group)
            found = command.get_command(context, name)
            assert found is not None
            command = found
        for example in getattr(command, "examples", ()):
            line = re.split(r"\s{2,}", example)[0]
            yield next(part.strip() for part in line.split("|") if "cutbank " in part)


@pytest.mark.parametrize("example", sorted(set(examples())))
def test_every_example_is_a_line_that_the_command_understands(folder: Path, example: str) -> None:
    """Parsed to the end, settings too, and not run."""
    words = shlex.split(example)
    environ = dict(word.split("=", 1) for word in words[: words.index("cutbank")])
    argv = words[words.index("cutbank") + 1 :]
    context = root_command.make_context("cutbank", argv, obj=environ)
    command: click.Command = root_command
    rest = argv
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, found.make_context(name, list(rest), parent=context)
    if command.name in SERVICES:
        assert command.name is not None
        service = load_service(command.name)
        assert service is not None
        service.settings.load(environ, **context.params)


def test_all_commands_of_ours_are_there(cutbank: Run) -> None:
    _, out, _ = cutbank("--help")
    listed = out.partition("\nCommands:\n")[2].partition("\n\n")[0].splitlines()
    assert {line.split()[0] for line in listed} == {*SERVICES, *COMMANDS}


def test_the_version_is_one_line(cutbank: Run) -> None:
    code, out, _ = cutbank("--version")
    assert code == 0
    assert out.startswith("cutbank ")
    assert out.count("\n") == 1


WRONG = [
    "",
    "nope",
    "--nope",
    "score --nope",
    "score extra",
    "score --grace-s 0",
    "score --grace-s soon",
    "score --http-port 70000",
    "score --log-format xml",
    "score --log-level",
    "sink --grace-s -1",
    "sink --log-level loud",
    "produce --records-per-batch 0",
    "produce --records-per-second nan",
    "produce --partition-by nope",
    "produce --pace file",
    "streams",
    "streams nope",
    "streams list extra",
    "streams create",
    "streams create x --partitions 0",
    "streams create x --partitions 1001",
    "streams create x --partitions many",
    "streams create x --retention-hours 0",
    "streams create x --retention-hours nan",
    "streams create x --transport-url nowhere",
    "streams create x --transport-url foo://x",
    "streams create x --transport-url local://",
    "streams create x --transport-url local://a.db?nope=1",
    "streams create bad/name",
    "streams list --transport-url local://missing.db",
    "streams describe",
    "streams describe trades",
    "tail",
    "tail trades",
    "tail trades --count 0",
    "tail trades --count x",
    "tail trades --from yesterday",
    "tail trades --follow=yes",
    "tail trades extra",
    "tail trades --transport-url kafka://user:hunter2@b:9092",
    "init --nope",
    "init a b",
    "doctor extra",
    "settings --json",
    "warm now",
]


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_is_one_line_on_stderr_and_exit_code_2(cutbank: Run, folder: Path, line: str) -> None:
    code, out, err = cutbank(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("cutbank: error: ")
    assert len(err) > len("cutbank: error: \n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "hunter2" not in err
    assert list(folder.iterdir()) == [], "wrong use leaves nothing behind"


@pytest.mark.parametrize(
    ("variable", "text", "line"),
    [
        ("CUTBANK_GRACE_S", "x", "score"),
        ("CUTBANK_HTTP_PORT", "-5", "sink"),
        ("RECORDS_PER_BATCH", "many", "produce"),
        ("CUTBANK_TRANSPORT_URL", "", "streams list"),
        ("CUTBANK_TRANSPORT_URL", "foo://x", "tail trades"),
    ],
)
def test_a_wrong_variable_is_named(
    cutbank: Run, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, line: str
) -> None:
    monkeypatch.setenv(variable, text)
    code, out, err = cutbank(*line.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert (variable in err) or (text and text in err)


def test_a_tool_does_not_mind_variables_that_it_does_not_use(cutbank: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTBANK_GRACE_S", "x")
    assert cutbank("streams", "create", "trades")[0] == 0
    assert cutbank("streams", "list")[0] == 0


def test_a_command_whose_module_is_missing_is_no_command_and_no_crash(
    cutbank: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root, "COMMANDS", {**COMMANDS, "gone": ("cutbank.cli.gone:gone", "Not installed.")})
    assert "gone" not in cutbank("--help")[1]
    code, _, err = cutbank("gone")
    assert (code, err) == (2, "cutbank: error: No such command 'gone' (see cutbank --help)\n")


HEAVY = ("aiohttp", "numba", "numpy", "orjson", "prometheus_client", "pydantic", "rich", "river", "structlog")


def test_help_imports_nothing_heavy(folder: Path) -> None:
    """This is what keeps it quick; a time would measure the machine."""
    program = (
        "import sys; from cutbank.cli import main; assert main(['--help']) == 0; "
        f"sys.exit(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stderr.strip() == ""
    assert "Commands:" in ended.stdout


def test_a_missing_dependency_is_one_line(folder: Path) -> None:
    program = (
        "import sys; sys.modules['orjson'] = None; from cutbank.cli import main; sys.exit(main(['score', '--help']))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "cutbank score needs the Python package orjson" in ended.stderr


def test_main_takes_the_process_s_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cutbank", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("cutbank ")
