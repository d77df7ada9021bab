"""The table of limits against the code and the tests: nothing forgotten, nothing made up, and each row has its test."""

import ast
import importlib.util
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("limits_page", ROOT / "docs/limits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


limits = _module()
SAID: dict[str, Any] = limits.declared()
ROWS: list[dict[str, str]] = SAID["limit"]


def test_every_constant_that_looks_like_a_limit_is_in_the_table_or_said_to_be_none() -> None:
    named = [row["constant"] for row in ROWS]
    none = [constant for group in SAID["not_a_limit"] for constant in group["constants"]]
    twice = [constant for constant, count in Counter(named + none).items() if count > 1]
    assert twice == []
    found = set(limits.constants())
    assert sorted(found - set(named) - set(none)) == [], "new: add them to docs/limits.toml, then `make docs`"
    assert sorted((set(named) | set(none)) - found) == [], "gone from the code"


def test_every_queue_buffer_and_wait_in_the_code_is_in_the_table() -> None:
    found = Counter((place.at, place.call) for place in limits.places())
    said = Counter((row["at"], row["call"]) for row in SAID["place"])
    assert found - said == Counter(), "new: say in docs/limits.toml what bounds it, then `make docs`"
    assert said - found == Counter(), "gone from the code"


def test_every_row_says_what_it_bounds_and_what_happens() -> None:
    known = limits.constants()
    for row in ROWS:
        assert row["kind"] in limits.KINDS, row
        assert row["over"].endswith("."), row
        assert bool(row.get("meaning")) != bool(known[row["constant"]].meaning), f"one meaning: {row['constant']}"
        assert limits.shown(row["constant"].rpartition(".")[2], limits.value_of(row["constant"]))


@cache
def _tests(path: str) -> frozenset[str]:
    """The tests of a file: `test_x`, `TestY::test_z`."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, _FUNCTIONS)}
        elif isinstance(node, _FUNCTIONS):
            found.add(node.name)
    return frozenset(found)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@pytest.mark.parametrize("row", [*ROWS, *SAID["place"]], ids=lambda row: row.get("constant") or row["at"])
def test_the_test_that_a_row_names_is_there(row: dict[str, str]) -> None:
    path, _, name = row["test"].partition("::")
    assert (ROOT / path).is_file()
    assert name in _tests(path)


def test_a_limit_without_a_row_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard guards: a constant, policies with and without a name, a queue and a cache that nobody declared."""
    tree = ast.parse(
        "from collections import deque\nX_MAX = 3\n_Y_BYTES_MAX, OTHER = 1, 2\nZ = RetryPolicy()\nNAME: int = 4\n"
        "class C:\n    def f(self):\n        self.q = deque()\n        self.r = RetryPolicy()\n"
        "@functools.cache\ndef g(): ...\n"
    )
    monkeypatch.setattr(limits, "modules", lambda: iter([("m", tree)]))
    assert sorted(limits.constants()) == ["m.X_MAX", "m.Z", "m._Y_BYTES_MAX"]
    assert [(place.at, place.call) for place in limits.places()] == [
        ("m:C.f", "deque"),
        ("m:C.f", "RetryPolicy"),
        ("m:g", "cache"),
    ]
