"""The Docker engine that tests ask for, one for the session. Owns nothing but its start and end. A pytest plugin.

Where a machine can't have one, tests that need it are skipped by name (`brokers.jars.leave_out` says when that fails
them instead). Each test that asks for it gets the markers `containers` and `servers`: `make test-containers` runs them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from brokers.jars import ServerUnavailable, leave_out
from containers.engine import Engine, running_engine

_NAMES = pytest.StashKey[list[str]]()


def engine_of(closing: ExitStack) -> Engine:
    """An engine until `closing` closes; else the test is left out."""
    try:
        return closing.enter_context(running_engine())
    except ServerUnavailable as missing:
        leave_out("containers", missing)


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Iterator[Engine]:
    """An engine with a compose plugin; whether it pulls images it says itself."""
    with ExitStack() as closing:
        found = engine_of(closing)
        pytestconfig.stash[_NAMES].append(found.name)
        yield found


@pytest.fixture
def note(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Puts a line into the summary."""
    return pytestconfig.stash[_NAMES].append


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "engine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.servers)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_NAMES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name in config.stash[_NAMES]:
        terminalreporter.write_line(f"Containers of the tests: {name}")
