"""Each service as a process, started with what can't work on Kafka: exit code 2, and one line that says why."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.admin import NewTopic

from brokers.secured import FULL, LIMITED, SecuredKafka
from brokers.topics import make

EXIT_USAGE = 2
END_S = 60.0
GRACE_S = 40
"""What is told to stop while it waits ends before this, and not because of it."""
SERVICES = ("producer", "scorer", "sink")


def started(folder: Path, service: str, url: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"cutbank_{service}", "--transport-url", url, "--log-format", "json", *options]
    return subprocess.Popen(command, cwd=folder, env=dict(os.environ), stderr=subprocess.PIPE, text=True)


def failure(process: subprocess.Popen[str]) -> str:
    """The one line of its end."""
    try:
        _, errors = process.communicate(timeout=END_S)
    finally:
        process.kill()
    assert process.returncode == EXIT_USAGE, errors
    lines = [json.loads(line) for line in errors.splitlines()]
    (failed,) = [line for line in lines if line["level"] == "error"]
    return str(failed["error"])


@pytest.mark.parametrize("service", SERVICES)
def test_nobody_there(tmp_path: Path, service: str) -> None:
    said = failure(started(tmp_path, service, "kafka://127.0.0.1:1?start_wait_ms=300"))
    assert "127.0.0.1:1" in said
    assert "transport URL" in said


@pytest.mark.parametrize("service", SERVICES)
def test_a_wrong_password(secured: SecuredKafka, tmp_path: Path, service: str) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("hunter2")
    url = secured.url("SASL", security="SASL_PLAINTEXT", username=FULL, password_file=wrong)
    said = failure(started(tmp_path, service, url))
    assert "password_file" in said


@pytest.mark.parametrize("service", SERVICES)
def test_a_user_without_permissions(secured: SecuredKafka, tmp_path: Path, service: str) -> None:
    said = failure(started(tmp_path, service, secured.sasl_url(LIMITED, prefix=f"t{uuid4().hex[:12]}-")))
    assert "lacks permission" in said


@pytest.mark.parametrize(
    ("service", "wait", "stream"), [("scorer", "--source-wait-s", "trades"), ("sink", "--stream-wait-s", "anomalies")]
)
def test_a_stream_that_does_not_come(
    secured: SecuredKafka, tmp_path: Path, service: str, wait: str, stream: str
) -> None:
    url = secured.url(prefix=f"t{uuid4().hex[:12]}-")
    said = failure(started(tmp_path, service, url, wait, "0.5"))
    assert f"'{stream}' did not appear" in said


@pytest.mark.parametrize(("service", "stream"), [("producer", "trades"), ("scorer", "trades"), ("sink", "anomalies")])
async def test_a_stream_without_arrival_times(secured: SecuredKafka, tmp_path: Path, service: str, stream: str) -> None:
    prefix = f"t{uuid4().hex[:12]}-"
    topic = NewTopic(f"{prefix}{stream}", 1, 1, topic_configs={"message.timestamp.type": "CreateTime"})
    await make(secured.servers(), topic)
    said = failure(started(tmp_path, service, secured.url(prefix=prefix)))
    assert "message.timestamp.type=LogAppendTime" in said


@pytest.mark.parametrize("service", SERVICES)
def test_told_to_stop_while_it_waits(tmp_path: Path, service: str) -> None:
    process = started(tmp_path, service, "kafka://127.0.0.1:1", "--grace-s", str(GRACE_S))
    assert process.stderr is not None
    try:
        while "waiting for Kafka" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=GRACE_S - 1)
    finally:
        process.kill()
    assert process.returncode == 0
