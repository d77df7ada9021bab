"""The brokers that tests ask for: one shared by the session, or new ones for a module that stops them. Owns both.

`KAFKA_BOOTSTRAP_SERVERS` names a shared one that is there already; `KAFKA_OF_TESTS=container` has testcontainers run
one (Redpanda, or Kafka in its place where images can't be pulled); else Apache Kafka is started from its jars. Where
Java or Maven are missing, tests that need them are skipped by name, unless `SERVERS_OF_TESTS=required`. The summary
says which broker it was. Each test that asks for a fixture of this file gets the marker `servers`: `make test` leaves
it to `make test-servers`. A pytest plugin.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import pytest

from brokers.jars import ServerUnavailable, java, kafka_jars, kafka_version, leave_out
from brokers.kafka_server import KafkaCluster
from brokers.secured import SecuredKafka

_FIXTURES = {"broker", "new_cluster", "secured"}
_NAMES = pytest.StashKey[dict[str, None]]()


@dataclass(frozen=True)
class Broker:
    """What a test needs to know about the broker that it runs on."""

    name: str
    """As the summary says it."""
    bootstrap_servers: str
    """host:port, with commas."""
    cluster: KafkaCluster | None
    """Ours, or None where it was there already: then it can't be stopped. Tests that do so start one of their own."""

    @property
    def url(self) -> str:
        """The transport's URL without options."""
        return f"kafka://{self.bootstrap_servers}"


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker (or cluster) for the session, which no test stops; topics and groups need names of their own."""
    there = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if there:
        name = f"what is at {there}"
        _note(pytestconfig, name)
        yield Broker(name, there, None)
        return
    if os.environ.get("KAFKA_OF_TESTS") == "container":
        from containers.broker import broker_in_container
        from containers.fixtures import engine_of

        with ExitStack() as closing:
            name, there = closing.enter_context(broker_in_container(engine_of(closing)))
            _note(pytestconfig, name)
            yield Broker(name, there, None)
        return
    _needs_kafka(pytestconfig)
    with KafkaCluster(tmp_path_factory.mktemp("kafka")) as cluster:
        name = f"Apache Kafka {kafka_version()}, started by the tests"
        _note(pytestconfig, name)
        yield Broker(name, cluster.bootstrap_servers, cluster)


class NewCluster(Protocol):
    """Starts a cluster that the module's tests may stop; it is closed after the last of them."""

    def __call__(
        self, *, brokers: int = 1, properties: Mapping[str, str] | None = None, version: str | None = None
    ) -> KafkaCluster:
        """Returns when it answers; not inside an event loop. Raises RuntimeError."""
        ...


@pytest.fixture(scope="module")
def new_cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewCluster]:
    """Always Apache Kafka from its jars, since nobody may stop a broker that is there for others."""
    _needs_kafka(pytestconfig)
    with ExitStack() as closing:

        def new(
            *, brokers: int = 1, properties: Mapping[str, str] | None = None, version: str | None = None
        ) -> KafkaCluster:
            _needs_kafka(pytestconfig, version)
            folder = tmp_path_factory.mktemp("kafka")
            cluster = KafkaCluster(folder, brokers=brokers, properties=properties, version=version)
            _note(pytestconfig, f"Apache Kafka {version or kafka_version()}, started by the tests")
            return closing.enter_context(cluster)

        yield new


@pytest.fixture(scope="session")
def secured(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """One broker with users, certificates and permissions, always ours; no test stops it."""
    _needs_kafka(pytestconfig)
    try:
        kafka = SecuredKafka(tmp_path_factory.mktemp("secured"))
    except ServerUnavailable as missing:
        leave_out("Kafka with certificates", missing)
    with kafka:
        _note(pytestconfig, f"Apache Kafka {kafka_version()}, started by the tests")
        yield kafka


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.servers)


def _needs_kafka(config: pytest.Config, version: str | None = None) -> None:
    """Skip the test that asks where no Kafka can be started, saying what is missing."""
    try:
        java()
        kafka_jars(version)
    except ServerUnavailable as missing:
        _note(config, f"none, {missing}")
        leave_out("Kafka", missing)


def _note(config: pytest.Config, name: str) -> None:
    names = config.stash[_NAMES]
    names[name] = None
    if hasattr(config, "workeroutput"):  # a process of pytest-xdist tells the one that prints
        config.workeroutput["brokers"] = list(names)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_NAMES] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    config = getattr(node, "config", None)
    if isinstance(config, pytest.Config):
        config.stash[_NAMES].update(dict.fromkeys(getattr(node, "workeroutput", {}).get("brokers", ())))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    names = config.stash[_NAMES]
    if names:
        terminalreporter.write_line(f"Kafka of the tests: {'; '.join(names)}")
