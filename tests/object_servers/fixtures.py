"""The S3 that tests ask for: one shared by the session, or new ones for a module that stops them. Owns both.

`S3_BUCKET_OF_TESTS` names a bucket that is there already, at the endpoint and with the credentials that the AWS SDK
finds by itself (AWS_ENDPOINT_URL_S3, AWS_PROFILE, ...); else SeaweedFS is started from its `weed` program. Where that
is missing, tests that need it are skipped by name, unless `SERVERS_OF_TESTS=required`. The summary says which it was.
Each test that asks for a fixture of this file gets the marker `servers`, and the server's AWS_* variables as its own
environment. A pytest plugin.
"""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import pytest

from brokers.jars import ServerUnavailable, leave_out
from object_servers.seaweed import REGION, SeaweedFS, environ_of, weed, weed_version

_FIXTURES = ("s3_server", "new_s3_server")
_NAMES = pytest.StashKey[dict[str, None]]()
ACTIONS = ("s3:PutObject", "s3:GetObject", "s3:ListBucket", "s3:DeleteObject")
"""All that Cutbank ever needs."""


@dataclass(frozen=True)
class S3Server:
    """What a test needs to know about the S3 that it runs on."""

    name: str
    """As the summary says it."""
    bucket: str
    endpoint: str | None
    """None where the SDK finds it by itself."""
    process: SeaweedFS | None = None
    """Ours, or None where it was there already: then it can't be stopped, and has no users but the one."""
    region: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    """AWS_* variables for other processes. Tests in this process have them already."""

    def environ_of(self, user: str) -> dict[str, str]:
        """`environ` of another user: `without-PutObject`, ...; skips the test on a server that is not ours."""
        if self.process is None:
            pytest.skip(f"no user {user} on {self.name}")
        return environ_of(user)

    def store_url(self, root: str = "root", *, endpoint: str | None = None, **parameters: object) -> str:
        """The URL of a new, empty store; call it once a store. `endpoint`: another, such as a proxy's.

        `parameters`: more of the URL's, such as `storage_class="STANDARD_IA"`.
        """
        found = {"endpoint": endpoint or self.endpoint, "region": self.region, **parameters}
        words = [f"{name}={quote(str(value), safe='')}" for name, value in found.items() if value is not None]
        return f"s3://{self.bucket}/{uuid.uuid4().hex}/{root}" + ("?" + "&".join(words) if words else "")


@pytest.fixture(scope="session")
def s3_server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 for the session, which no test stops; `store_url` gives each store a root of its own."""
    bucket = os.environ.get("S3_BUCKET_OF_TESTS")
    if bucket:
        name = f"bucket {bucket} at {os.environ.get('AWS_ENDPOINT_URL_S3', 'the endpoint that the AWS SDK chooses')}"
        _note(pytestconfig, name)
        yield S3Server(name, bucket, None, environ={k: v for k, v in os.environ.items() if k.startswith("AWS_")})
        return
    _needs_weed(pytestconfig)
    with SeaweedFS(tmp_path_factory.mktemp("seaweed") / "s3", policies=_without_one()) as server:
        yield _described(pytestconfig, server)


class NewS3Server(Protocol):
    """Starts a server that the module's tests may stop; it is ended after the last of them."""

    def __call__(self, *, policies: Mapping[str, Sequence[Mapping[str, object]]] | None = None) -> S3Server:
        """Returns when it answers. `policies`: other users than `without-...`. Raises RuntimeError."""
        ...


@pytest.fixture(scope="module")
def new_s3_server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewS3Server]:
    """Always SeaweedFS, since nobody may stop an S3 that is there for others."""
    _needs_weed(pytestconfig)
    with ExitStack() as closing:

        def new(*, policies: Mapping[str, Sequence[Mapping[str, object]]] | None = None) -> S3Server:
            folder: Path = tmp_path_factory.mktemp("seaweed") / "s3"
            server = SeaweedFS(folder, policies=_without_one() if policies is None else policies)
            return _described(pytestconfig, closing.enter_context(server))

        yield new


@pytest.fixture(autouse=True)
def _environment_of_s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own variables, for stores opened in the test's process; any server of ours takes the same ones."""
    wanted = set(_FIXTURES).intersection(request.fixturenames)
    if os.environ.get("S3_BUCKET_OF_TESTS"):
        wanted.discard("s3_server")
    for name, value in environ_of().items() if wanted else ():
        monkeypatch.setenv(name, value)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if set(_FIXTURES).intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.servers)


def _without_one() -> dict[str, list[Mapping[str, object]]]:
    """A user for each action who may do all but that one, on any bucket."""

    def statement(action: str) -> Mapping[str, object]:
        resource = "arn:aws:s3:::*" if action == "s3:ListBucket" else "arn:aws:s3:::*/*"
        return {"Effect": "Allow", "Action": [action], "Resource": [resource]}

    return {
        f"without-{missing.removeprefix('s3:')}": [statement(action) for action in ACTIONS if action != missing]
        for missing in ACTIONS
    }


def _described(config: pytest.Config, server: SeaweedFS) -> S3Server:
    name = f"SeaweedFS {weed_version()}, started by the tests"
    _note(config, name)
    return S3Server(name, server.bucket, server.endpoint, server, REGION, environ_of())


def _needs_weed(config: pytest.Config) -> None:
    """Skip the test that asks where no server can be started, saying what is missing."""
    try:
        weed()
    except ServerUnavailable as missing:
        _note(config, f"none, {missing}")
        leave_out("S3", missing)


def _note(config: pytest.Config, name: str) -> None:
    names = config.stash[_NAMES]
    names[name] = None
    if hasattr(config, "workeroutput"):  # a process of pytest-xdist tells the one that prints
        config.workeroutput["object_servers"] = list(names)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_NAMES] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    config = getattr(node, "config", None)
    if isinstance(config, pytest.Config):
        found = getattr(node, "workeroutput", {}).get("object_servers", ())
        config.stash[_NAMES].update(dict.fromkeys(found))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    names = config.stash[_NAMES]
    if names:
        terminalreporter.write_line(f"S3 of the tests: {'; '.join(names)}")
