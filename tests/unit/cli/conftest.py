"""Commands in an empty folder and an environment without settings."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cutbank.cli import main

Ran = tuple[int, str, str]
Run = Callable[..., Ran]


KEPT = ("COVERAGE", "HOME", "LANG", "LC_", "LD_", "NUMBA_", "PATH", "PYTEST", "PYTHON", "TMPDIR", "VIRTUAL_ENV")
"""Beginnings of the variables that stay: what Python needs, and nothing that could be a setting."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if not name.startswith(KEPT):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cutbank(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: exit code, stdout, stderr."""

    def run(*argv: str) -> Ran:
        capsys.readouterr()
        code = main(argv)
        out, err = capsys.readouterr()
        return code, out, err

    return run
