"""The broker of the session in a container, by testcontainers' RedpandaContainer. Owns nothing beyond its context.

Where images are pulled it is the Redpanda that docker-compose.yml names; elsewhere the same class starts Apache Kafka
in Redpanda's place. Blocking.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from brokers.jars import kafka_version
from containers.engine import REPOSITORY, Engine

START_S = 180
"""Within this a broker in a container is up, also on a busy machine."""
CLIENT = "9092/tcp"


def redpanda_image() -> str:
    """The image that people run."""
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    return str(services["redpanda"]["image"])


@contextmanager
def broker_in_container(engine: Engine) -> Iterator[tuple[str, str]]:
    """Its name for the summary, and host:port. Raises ServerUnavailable, and what testcontainers raises."""
    if engine.pulls:
        image, name = redpanda_image(), f"Redpanda ({redpanda_image()}) in a container"
    else:
        image, name = engine.kafka(), f"Apache Kafka {kafka_version()} in a container, in Redpanda's place"
        # Its reaper is an image to be pulled; and inside a container it looks for the broker at another address.
        alone = {"TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_CONNECTION_MODE": "docker_host"}
        os.environ.update({**engine.environment, **alone})
    from testcontainers.community.kafka import RedpandaContainer  # reads the environment when it is imported

    container = RedpandaContainer(image)
    # Its own way to publish ports opens them to the network; the type does not tell of this one.
    container.ports = {CLIENT: ("127.0.0.1", None)}  # type: ignore[dict-item]
    try:
        container.start(timeout=START_S)
        yield name, container.get_bootstrap_server()
    finally:
        container.stop()
