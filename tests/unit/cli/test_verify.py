"""`cutbank verify`: what is wrong use is one line and exit code 2, before anything is read."""

import os
import pty
import re
import subprocess
import sys
import tty
from contextlib import suppress
from pathlib import Path

import pytest

from cutbank.cli.verify import parse_scope
from cutbank.pipeline.verifying import Scope
from sunk_root import A_MINUTE, MINUTES, at_ms, data_file, sunk

from .conftest import Run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return sunk(tmp_path_factory.mktemp("verified"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["file://nowhere"], "file://nowhere: no such folder"),
        (["ftp://host/root"], "unknown kind"),
        (["."], "no _cutbank/ in it"),
        ([".", "--from", "yesterday"], "--from 'yesterday': give a time such as"),
        ([".", "--to", "2026-13-01"], "--to '2026-13-01': give a time such as"),
        ([".", "--from", "2026-11-22T01:00:00Z", "--to", "2026-11-22"], "is not before --to"),
        ([".", "--spec", "cutbank.toml"], "give --stream too"),
        ([".", "--state", "state"], "give --stream too"),
        ([], "Missing argument 'ROOT'"),
    ],
)
def test_wrong_use_is_one_line(cutbank: Run, words: list[str], why: str) -> None:
    code, out, err = cutbank("verify", *words)
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--stream", "local://none.db"], "no log at none.db"),
        (["--stream", "local://none.db"], "or name the log with --stream\n"),
        (["--stream", "local://none.db", "--spec", "none.toml"], "spec none.toml: No such file"),
    ],
)
def test_a_log_or_spec_that_is_not_there(cutbank: Run, root: Path, words: list[str], why: str) -> None:
    code, _, err = cutbank("verify", str(root), *words)
    assert code == 2
    assert why in err


def test_a_state_store_that_does_not_know_the_pipeline(cutbank: Run, root: Path) -> None:
    assert cutbank("streams", "create", "trades")[0] == 0
    Path("state").mkdir()
    words = ["--stream", "local://data/log.db", "--state", "state"]
    code, _, err = cutbank("verify", str(root), *words)
    assert code == 2
    assert "no births of pipeline 'anomaly-extractor' on stream 'trades'" in err


def test_a_root_is_a_folder_or_a_url(cutbank: Run, root: Path) -> None:
    named = cutbank("verify", str(root))
    assert named[0] == 0
    assert cutbank("verify", f"file://{root}") == named


def test_the_environments_spec_is_for_the_replay_only(
    cutbank: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTBANK_SPEC", "none.toml")
    assert cutbank("verify", str(root))[0] == 0
    code, _, err = cutbank("verify", str(root), "--stream", "local://none.db")
    assert code == 2
    assert "spec none.toml: No such file" in err


def test_the_table_says_what_was_looked_at(cutbank: Run, root: Path) -> None:
    code, out, _ = cutbank("verify", str(root))
    assert code == 0
    header, row, *_ = out.splitlines()
    assert header.split()[:3] == ["chain", "from", "to"]
    assert row.startswith("p/anomalies/0")
    assert f" {MINUTES} " in row


def test_a_finding_says_what_and_where(cutbank: Run, root: Path, tmp_path: Path) -> None:
    path = data_file(root)
    body = path.read_bytes()
    path.unlink()
    try:
        code, out, err = cutbank("verify", str(root))
    finally:
        path.write_bytes(body)
    assert code == 1
    assert str(path.relative_to(root)) in out
    assert err == "1 fault(s) found\n"


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert parse_scope("2026-09-21T14:14", None) == Scope(at_ms(0, 0))
    assert parse_scope("2026-09-21T16:14:00+02:00", str(at_ms(1, 0))) == Scope(at_ms(0, 0), at_ms(1, 0))
    assert parse_scope("20260921", "2026-09-22") == Scope(at_ms(-854, 0), at_ms(586, 0))
    assert parse_scope(None, None).whole


@pytest.mark.parametrize("words", [["--to", "2026-01-01"], ["--from", "2027-01-01"]])
def test_a_span_without_claims_is_not_called_clean(cutbank: Run, root: Path, words: list[str]) -> None:
    code, out, _ = cutbank("verify", str(root), *words)
    assert code == 0
    assert "nothing to audit: no claim" in out
    assert "clean" not in out


def test_names_of_files_are_not_obeyed_by_the_terminal(cutbank: Run, root: Path) -> None:
    path = root / "a\nb\x1b[31m[bold]c"
    path.write_text("mine")
    try:
        code, out, _ = cutbank("verify", str(root))
    finally:
        path.unlink()
    assert code == 1
    assert "a\\x0ab\\x1b[31m[bold]c " in out
    assert "\x1b" not in out


def test_a_missing_object_of_the_newest_claim_may_yet_come(cutbank: Run, root: Path) -> None:
    for index, hint in ((1, False), (-1, True)):
        path = data_file(root, index)
        body = path.read_bytes()
        path.unlink()
        try:
            code, out, _ = cutbank("verify", str(root))
        finally:
            path.write_bytes(body)
        assert code == 1
        assert "missing object" in out
        assert ("a sink that was killed puts it when it starts again" in out) == hint


def test_a_bar_moves_on_a_terminal_and_nothing_is_said_elsewhere(root: Path) -> None:
    """Rate and claims to go; the verdict is on standard output, where the bar is not."""
    ours, theirs = pty.openpty()
    tty.setraw(ours)
    said = b""
    with subprocess.Popen(
        [sys.executable, "-m", "cutbank.cli", "verify", str(root)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        with suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 1 << 16):
                said += piece
        out, _ = process.communicate()
    os.close(ours)
    assert process.returncode == 0
    assert b"clean: every object" in out
    assert b"\x1b" not in out
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", said).decode()
    assert re.search(rf"claims .* {MINUTES}/{MINUTES} .*{MINUTES * A_MINUTE} lines, [\d,]+/s", text)
    quiet = subprocess.run([sys.executable, "-m", "cutbank.cli", "verify", str(root)], capture_output=True, check=False)
    assert (quiet.returncode, quiet.stderr) == (0, b"")
