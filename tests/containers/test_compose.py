"""docker-compose.yml as shipped, brought up, killed and taken down; Redpanda's image may be a stand-in, see Engine."""

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from brokers.ports import free_ports
from containers.engine import REPOSITORY, Engine, wait_until

FILE = REPOSITORY / "docker-compose.yml"
SERVICES = ("producer", "scorer", "sink")
FIRST_OBJECT_S = 120.0
"""The promise of docs/compose.md: from `up` to the first object, with the images there."""
LOAD_MAX = 5.0
"""On a machine with more work under way for each processor, the promise is stretched: others would break it."""
OBJECT_S = 300.0
"""A further object: a minute, its grace, and a scorer that comes back, on a busy machine."""
UP_S = 400.0
OBJECTS = (
    "import pathlib; print(*(p for p in pathlib.Path('/data/anomalies').rglob('*.json') if '_cutbank' not in p.parts))"
)


class Project:
    """One run of the compose file, under a name and on ports of its own."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.name = f"cutbank-test-{uuid.uuid4().hex[:8]}"
        self._engine = engine
        names = ("CUTBANK_KAFKA_PORT", *(f"CUTBANK_{service.upper()}_PORT" for service in SERVICES))
        self.ports = dict(zip(("redpanda", *SERVICES), free_ports(len(names)), strict=True))
        self._variables = dict(zip(names, map(str, self.ports.values()), strict=True))
        self._files: tuple[str, ...] = ("--file", str(FILE))
        if not engine.pulls:
            override = folder / "override.yml"
            override.write_text(yaml.safe_dump({"services": {"redpanda": {"image": engine.kafka()}}}), encoding="utf-8")
            self._files += ("--file", str(override))

    def compose(self, *words: str, timeout_s: float = UP_S) -> str:
        """What `docker compose` prints. Raises RuntimeError."""
        words = ("compose", "--project-name", self.name, *self._files, *words)
        return self._engine.docker(*words, timeout_s=timeout_s, variables=self._variables)

    def left(self) -> dict[str, list[str]]:
        """Containers, volumes and networks with the project's label."""
        label = f"label=com.docker.compose.project={self.name}"
        listing = {
            "containers": ("ps", "--all", "--quiet"),
            "volumes": ("volume", "ls", "--quiet"),
            "networks": ("network", "ls", "--quiet"),
        }
        return {what: self._engine.docker(*words, "--filter", label).split() for what, words in listing.items()}

    def containers(self) -> dict[str, dict[str, object]]:
        """Each service's container, as the engine describes it."""
        found = json.loads(self._engine.docker("inspect", *self.left()["containers"]))
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in found}

    def objects(self) -> set[str]:
        """Paths in the sink's volume."""
        try:
            return set(self.compose("exec", "-T", "sink", "python3", "-c", OBJECTS).split())
        except RuntimeError:  # the sink is not up (again) yet
            return set()

    def ready(self, service: str) -> bool:
        """Whether it says so on its published port."""
        try:
            with urlopen(f"http://127.0.0.1:{self.ports[service]}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, ConnectionError, TimeoutError):
            return False


@pytest.fixture(scope="module")
def images(engine: Engine) -> None:
    """Our own images under the tags that the compose file names, from the base that is to be had."""
    services = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]
    base = None if engine.pulls else engine.base()
    with ThreadPoolExecutor(max_workers=2) as builders:
        builds = [
            builders.submit(
                engine.build,
                services[name]["image"],
                REPOSITORY,
                dockerfile=REPOSITORY / services[name]["build"]["dockerfile"],
                base=base,
            )
            for name in SERVICES
        ]
    for build in builds:
        build.result()


@pytest.fixture
def project(engine: Engine, images: None, tmp_path: Path) -> Iterator[Project]:
    project = Project(engine, tmp_path)
    try:
        yield project
    finally:
        try:
            sys.stdout.write(project.compose("logs", "--no-color", "--tail", "100"))  # shown if the test failed
        finally:
            project.compose("down", "--volumes", "--timeout", "5")


def test_up_gives_an_object_in_two_minutes_survives_kills_and_leaves_nothing(
    project: Project, note: Callable[[str], None]
) -> None:
    project.compose("pull", "--quiet", "--ignore-buildable", "--policy", "missing", timeout_s=1800)
    begun = time.monotonic()
    project.compose("up", "--detach")
    wait_until("an object", lambda: bool(project.objects()), timeout_s=5 * FIRST_OBJECT_S)
    took_s = time.monotonic() - begun
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    note(f"docker compose up: the first object after {took_s:.0f} s, load {load:.1f} for each processor")
    assert took_s < FIRST_OBJECT_S * max(1.0, load / LOAD_MAX)

    found = project.containers()
    assert set(found) == {"redpanda", *SERVICES}
    for service, container in found.items():
        _is_shut_in(service, container)
    for service in SERVICES:
        wait_until(f"{service} is ready", partial(project.ready, service), timeout_s=UP_S)
    assert "root=file:///data/anomalies" in project.compose("logs", "--no-color", "sink")

    # All but the producer crash at once; what the broker has acknowledged has to be there again.
    first = project.objects()
    project.compose("kill", "--signal", "SIGKILL", "scorer", "sink", "redpanda")
    project.compose("up", "--detach")
    wait_until("another object", lambda: bool(project.objects() - first), timeout_s=OBJECT_S)
    for service in SERVICES:
        wait_until(f"{service} is ready again", partial(project.ready, service), timeout_s=UP_S)

    # Whole, and byte for byte what scoring the source again gives.
    proof = ("--stream", "kafka://redpanda:9092", "--state", "file:///data/state")
    project.compose("exec", "-T", "scorer", "cutbank", "verify", "/data/anomalies", *proof)

    project.compose("down", "--volumes")
    assert project.left() == {"containers": [], "volumes": [], "networks": []}


def _is_shut_in(service: str, container: dict[str, object]) -> None:
    """Loopback only; ours neither as root, nor with capabilities, nor with anything to write on but volumes."""
    host, config, network = (container[key] for key in ("HostConfig", "Config", "NetworkSettings"))
    assert isinstance(host, dict)
    assert isinstance(config, dict)
    assert isinstance(network, dict)
    published = [place for places in network["Ports"].values() for place in places or ()]
    assert published
    assert {place["HostIp"] for place in published} == {"127.0.0.1"}
    if service in SERVICES:
        assert config["User"] == "10001:10001"
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
