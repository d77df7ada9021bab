"""Logging set up into a buffer, and put back afterwards: it belongs to the process."""

import io
import logging
from collections.abc import Iterator

import pytest
import structlog

from cutbank.runtime.logging import QUIET, configure_logging


@pytest.fixture
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    quiet = {name: logging.getLogger(name).level for name in QUIET}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in quiet.items():
        logging.getLogger(name).setLevel(was)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def json_log(own_logging: None) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(log_format="json", level="info", stream=stream, service="scorer")
    return stream
