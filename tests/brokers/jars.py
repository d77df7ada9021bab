"""Apache Kafka's jars: copied by Maven once, kept in .cache below the repository. Owns that folder.

Invariant: a folder under its final name is complete, since it is renamed there; who comes second throws its own away.
Blocking; any number of processes at once.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree as ET

import pytest

POM = Path(__file__).with_name("pom.xml")
CACHE = Path(__file__).parents[2] / ".cache"
MAVEN_S = 600.0
"""How long Maven may take; it copies 54 MB."""


class ServerUnavailable(Exception):
    """No real broker can be started here; the message says what is missing."""


class NotOnThisMachine(ServerUnavailable):
    """It lacks a program or a right that a test can't give itself."""


def leave_out(what: str, missing: ServerUnavailable) -> NoReturn:
    """Skip the test, saying what is missing; where a commit is judged (`CI`), what the machine has must work.

    `SERVERS_OF_TESTS=required`: nothing may be missing.
    """
    required = os.environ.get("SERVERS_OF_TESTS") == "required"
    if required or ("CI" in os.environ and not isinstance(missing, NotOnThisMachine)):
        pytest.fail(f"no {what}: {missing}", pytrace=False)
    pytest.skip(f"no {what}: {missing}")


def kafka_version() -> str:
    """As the pom has it."""
    version = ET.parse(POM).findtext(".//{*}kafka.version")  # noqa: S314  # our own file
    assert version is not None
    return version


def java() -> str:
    """Path of the `java` to run. Raises ServerUnavailable."""
    return program("java", "install a Java 17 runtime")


def kafka_jars(version: str | None = None) -> Path:
    """The folder with all jars, filled if need be (seconds, or minutes on a slow line). Raises ServerUnavailable.

    `version`: another than the pom's.
    """
    version = version or kafka_version()
    folder = CACHE / f"kafka-{version}"
    if folder.is_dir():
        return folder
    maven = program("mvn", "install Maven, or copy Kafka's jars to " + str(folder))
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="kafka-") as scratch:
        shutil.copy(POM, scratch)
        copy = ("dependency:copy-dependencies", "-DoutputDirectory=jars", f"-Dkafka.version={version}")
        command = [maven, "-q", "-B", *copy]
        try:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=MAVEN_S, check=False)
        except subprocess.TimeoutExpired:
            raise ServerUnavailable(f"mvn did not copy Kafka's jars within {MAVEN_S:g} s") from None
        if done.returncode != 0:
            raise ServerUnavailable(f"mvn could not copy Kafka's jars: {(done.stdout + done.stderr)[-2000:]}")
        try:
            os.rename(Path(scratch) / "jars", folder)  # noqa: PTH104  # never replaces a folder that has files
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def program(name: str, otherwise: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise NotOnThisMachine(f"{name} is missing: {otherwise}")
    return path
