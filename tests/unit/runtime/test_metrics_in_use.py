"""The metrics' table against the code: every use is declared with its kind and labels, every declaration is used."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import cutbank
from cutbank.runtime.metrics import METRICS

KINDS = {"add": "counter", "set": "gauge", "observe": "histogram"}
ROOT = Path(cutbank.__file__).parents[2]


class Use(NamedTuple):
    where: str
    name: str
    kind: str
    labels: frozenset[str] | None
    """None where they are passed on as a whole."""


def uses() -> Iterator[Use]:
    for path in (*(ROOT / "src").rglob("*.py"), *(ROOT / "services").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            first = node.args[0]
            if not (isinstance(first, ast.Constant) and str(first.value).startswith("cutbank_")):
                continue
            if node.func.attr in KINDS:
                names = [keyword.arg for keyword in node.keywords]
                labels = None if None in names else frozenset(name for name in names if name)
                yield Use(f"{path.name}:{node.lineno}", str(first.value), KINDS[node.func.attr], labels)


USES = list(uses())


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.where}-{use.name}")
def test_every_use_is_declared(use: Use) -> None:
    (metric,) = [metric for metric in METRICS if metric.name == use.name]
    assert metric.kind == use.kind
    assert use.labels is None or use.labels == set(metric.labels)


def test_every_declared_metric_is_used() -> None:
    assert {metric.name for metric in METRICS} - {use.name for use in USES} == set()
