"""What docs/testing.md shows runs as it stands there, and its tables are complete."""

import re
import runpy
from pathlib import Path

import pytest

from cutbank.testing.faults import Kind

PAGE = (Path(__file__).parents[3] / "docs/testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_faulty_store_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.py").write_text(BLOCKS[0], encoding="utf-8")
    runpy.run_path(str(tmp_path / "page.py"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "reports/2 is there"
    assert printed[1].endswith("fail after at create reports/2")


def test_the_whole_pipeline_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.py").write_text(BLOCKS[1], encoding="utf-8")
    runpy.run_path(str(tmp_path / "page.py"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("seed ")]
    figures = [re.fullmatch(r"seed \d: (\d+) anomalies, each once, through (\d+) events", line) for line in lines]
    assert len(figures) == 2
    for found in figures:
        assert found is not None
        assert int(found[1]) > 100
        assert int(found[2]) > 100


def test_every_kind_of_fault_is_in_the_table() -> None:
    table = set(re.findall(r"^\| `Fault\.(\w+)", PAGE, re.MULTILINE))
    assert {name.upper() for name in table} == {kind.name for kind in Kind}


def test_every_module_that_the_page_names_is_there() -> None:
    modules = set(re.findall(r"`testing\.(\w+)`", PAGE))
    assert len(modules) >= 9
    folder = Path(__file__).parents[3] / "src/cutbank/testing"
    assert [name for name in sorted(modules) if not (folder / f"{name}.py").exists()] == []
