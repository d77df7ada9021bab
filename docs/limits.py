"""Makes the page of all limits from the code's own constants and from limits.toml, which says what each one bounds.

The code is read, not asked: every named constant that looks like a limit, and every place where something can wait,
has to be in limits.toml; tests/unit/test_limits_table.py fails for one that is not. Reads files; writes none.
"""

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from cutbank.objects.s3.settings import S3Settings
from cutbank.retry import RetryPolicy
from cutbank.settings import Settings
from cutbank.transports.kafka.settings import KafkaSettings
from cutbank.transports.local.settings import LocalSettings

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
SOURCES = (
    ROOT / "src",
    ROOT / "services/producer",
    ROOT / "services/scorer",
    ROOT / "services/sink",
)
TOOLS = "cutbank.testing"
"""What helps tests runs in no service: it is left out."""

NAMED = re.compile(
    r"_?([A-Z0-9_]+_)?(MAX|TRIES|KEPT|READERS|RETRY)(_[A-Z]+)?|_?[A-Z0-9_]+_(S|MS|BYTES|RECORDS|LINES|ENTRIES|KIB)"
)
"""Constants that look like limits by their name. What is no limit is named in limits.toml as such."""

WAITING = frozenset(
    {"Queue", "SimpleQueue", "LifoQueue", "PriorityQueue", "deque", "OrderedDict", "lru_cache", "cache"}
    | {"Semaphore", "BoundedSemaphore", "ThreadPoolExecutor", "ProcessPoolExecutor", "timeout", "wait_for", "Timer"}
)
"""Calls and bare decorators that make a queue, a buffer or a wait."""

KINDS = {
    "size": "Sizes: what is larger is refused or cut, always said",
    "memory": "Memory: what is held at once",
    "queue": "Queues and counts",
    "retry": "Retries",
    "wait": "Waits",
}
"""Kind -> heading, in the page's order."""

_HEAD = """# Limits

Everything that is bounded, where, and what happens at the bound. Written by `make docs` from the constants in the code
and from `docs/limits.toml`; a test fails when a constant, a queue or a wait in the code is not here, and each row names
the test that goes over its limit. What a user may set, with its range, is in [settings](settings.md) and, for the
URLs of the logs, in the last tables. Tests are below `tests/`.
"""

_MEMORY = """
## What a process takes

Constants and settings together give the memory of a process, whatever the lag and however long an outage lasts:

- **scorer**: the models, at most `models_bytes_max`, each of the size that `cutbank doctor` prints. A snapshot takes
  the model's state besides, a third to a half of the model: one a partition until it is stored, and once more while
  one is made, in each of `threads` threads. Then the batches of all partitions together, about `batches_bytes_max`.
  On Kafka what is fetched and not taken yet besides, about `fetches_bytes_max`: a partition's equal part, or 64 KiB,
  or one batch of the log, however large the producer made that. To take a partition up takes twice its model's state
  besides, for a moment.
- **sink**: `held_bytes_max` for records and the bodies made of them, all partitions together; a single stretch that is
  larger is let in when it is alone.
- **producer**: `RECORDS_PER_BATCH` records, and of an input at most `PORTION_BYTES_MAX` and one record.
"""


@dataclass(frozen=True, slots=True)
class Constant:
    """A named constant of the code."""

    module: str
    name: str
    meaning: str
    """The text below it; empty where it has none."""

    @property
    def path(self) -> str:
        """`cutbank.transports.base.RECORD_BYTES_MAX`."""
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Place:
    """A call in the code that makes a queue, a buffer or a wait, or a retry without a name."""

    at: str
    """Module and function: `cutbank.transports.local.workers:Worker.__init__`."""
    call: str


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the library and the services, parsed."""
    for source in SOURCES:
        for path in sorted(source.rglob("*.py")):
            name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
            if not name.startswith(TOOLS):
                yield name, ast.parse(path.read_text(encoding="utf-8"))


def constants() -> dict[str, Constant]:
    """Every constant that looks like a limit, by path: by its name, or because it is a RetryPolicy."""
    found = {}
    for module, tree in modules():
        for index, node in enumerate(tree.body):
            target = node.target if isinstance(node, ast.AnnAssign) else None
            if isinstance(node, ast.Assign):
                (target,) = node.targets
            if target is None:
                continue
            policy = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == RetryPolicy.__name__
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            for name in (item.id for item in names if isinstance(item, ast.Name)):
                if policy or NAMED.fullmatch(name):
                    constant = Constant(module, name, _text_after(tree.body, index))
                    found[constant.path] = constant
    return found


def _text_after(body: list[ast.stmt], index: int) -> str:
    following = body[index + 1] if index + 1 < len(body) else None
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return " ".join(str(following.value.value).split())
    return ""


def places() -> list[Place]:
    """Every call that makes a queue, a buffer, a wait or a nameless retry, in the order of the code."""
    found: list[Place] = []

    def note(made: ast.expr, at: str) -> None:
        name = getattr(made, "attr", getattr(made, "id", ""))
        if name in WAITING or (name == RetryPolicy.__name__ and ":" in at):
            found.append(Place(at, name))

    def look(node: ast.AST, at: str) -> None:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            at = f"{at}{'.' if ':' in at else ':'}{node.name}"
            for decorator in node.decorator_list:
                note(decorator, at)
        if isinstance(node, ast.Call):
            note(node.func, at)
        for child in ast.iter_child_nodes(node):
            look(child, at)

    for module, tree in modules():
        look(tree, module)
    return found


def declared() -> dict[str, Any]:
    """What limits.toml says."""
    return tomllib.loads((FOLDER / "limits.toml").read_text(encoding="utf-8"))


def value_of(path: str) -> Any:
    """A constant's value."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def shown(name: str, value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, RetryPolicy):
        times = "without end" if value.attempts_max is None else f"{value.attempts_max} attempts"
        return f"{times}; pauses up to {value.delay_s_first:g} s, doubling to {value.delay_s_max:g} s"
    if isinstance(value, int) and "BYTES" in name:
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value >= size and value * 100 % size == 0:
                return f"{value / size:g} {unit}"
    return f"{value:,}" if isinstance(value, int) and value < 10**15 else f"{value:g}"


def page() -> str:
    """The page."""
    said, known = declared(), constants()
    parts = [_HEAD]
    for kind, heading in KINDS.items():
        parts.append(f"\n## {heading}\n\n| Limit | Value | Meaning | One over | Test |\n|---|---|---|---|---|\n")
        parts.extend(_limit(row, known) for row in said["limit"] if row["kind"] == kind)
    parts.append(
        "\n## Where things wait, and what bounds it\n\n| Place | What | Bounded by | Test |\n|---|---|---|---|\n"
    )
    parts.extend(
        f"| `{row['at'].replace(':', '` `')}` | {row['call']} | {row['by']} | {_tests(row['test'])} |\n"
        for row in said["place"]
    )
    parts.append(_MEMORY)
    for scheme, settings in (("local", LocalSettings), ("kafka", KafkaSettings), ("s3", S3Settings)):
        parts.append(
            f"\n## Parameters of `{scheme}://` URLs\n\n| Parameter | Default | Range | Meaning |\n|---|---|---|---|\n"
        )
        parts.extend(_parameters(settings))
    return "".join(parts)


def _limit(row: dict[str, str], known: dict[str, Constant]) -> str:
    """A limit's line."""
    module, _, name = row["constant"].rpartition(".")
    value = shown(name, value_of(row["constant"]))
    meaning = row.get("meaning") or known[row["constant"]].meaning
    cells = (f"`{name}`<br>{module}", value, meaning, row["over"], _tests(row["test"]))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _tests(named: str) -> str:
    path, _, test = named.partition("::")
    return f"{test.replace('::', ' ')} in `{path.removeprefix('tests/')}`"


def _parameters(settings: type[Settings]) -> Iterator[str]:
    for name, field in settings.model_fields.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        default = None if default == () else default
        default = f"{default:,}" if isinstance(default, int) else default
        meaning = inspect.cleandoc(field.description or "").replace("\n", " ")
        yield f"| `{name}` | {'' if default is None else default} | {_span(field)} | {meaning} |\n"


def _span(field: FieldInfo) -> str:
    """The values that a parameter may have."""
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    kind = kinds[0] if get_origin(field.annotation) is UnionType else field.annotation
    if kind is bool:
        return "true, false"
    if get_origin(kind) is Literal:
        return ", ".join(str(value) for value in get_args(kind))
    bounds = {type(bound).__name__: bound for bound in field.metadata}
    least, most = bounds.get("Ge"), bounds.get("Le")
    if least and most:
        return f"{least.ge:,} to {most.le:,}"
    shortest, longest = bounds.get("MinLen"), bounds.get("MaxLen")
    if longest:
        return f"{shortest.min_length if shortest else 0} to {longest.max_length:,} characters"
    return "a file" if Path in get_args(field.annotation) else "text"
