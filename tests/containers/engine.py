"""A Docker engine for tests: the one that answers, or one of the tests' own. Owns the latter, with all it holds.

Where an engine answers, images are pulled as people do it (`IMAGES_OF_TESTS=made` says otherwise). Where none does, but
its program is installed and we may run it, the tests start one, which reaches no registry of images: its images come
from Debian's packages, from Kafka's jars and from our own Dockerfiles.
Invariant: what the tests' own engine started is gone when it is closed. Blocking; one engine at a time.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from brokers.jars import CACHE, NotOnThisMachine, ServerUnavailable, kafka_jars, kafka_version, program

REPOSITORY = Path(__file__).parents[2]
COMPOSE = "v2.40.3"
"""Docker Compose that is built where the client has none."""
BASE = "cutbank-base:local"
DEBIAN = "bookworm"
ENGINE_S = 60.0
"""Within this a started engine answers."""
BUILD_S = 1800.0
"""An image, or the compose program, is built within this, also on a busy machine."""
CALL_S = 300.0
_PAUSE_S = 0.3
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_RUN = (  # the engine is told to end when we do, however that comes
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


def wait_until(what: str, is_so: Callable[[], bool], *, timeout_s: float) -> float:
    """Ask until it is so; how long it took, seconds. Raises TimeoutError that says `what`."""
    begun = time.monotonic()
    pause = threading.Event()
    while not is_so():
        if time.monotonic() - begun > timeout_s:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        pause.wait(_PAUSE_S)
    return time.monotonic() - begun


@dataclass(frozen=True)
class Engine:
    """How to talk to the engine."""

    client: str
    """Path of the `docker` to run."""
    environment: Mapping[str, str]
    """What the client and the Python library need to find it."""
    pulls: bool
    """Whether images come from a registry; else they are made here."""

    @property
    def name(self) -> str:
        """As a summary says it."""
        version = self.docker("version", "--format", "{{.Server.Version}}").strip()
        return f"Docker {version}, {'with images from a registry' if self.pulls else 'without a registry'}"

    def docker(self, *words: str, timeout_s: float = CALL_S, variables: Mapping[str, str] | None = None) -> str:
        """What the command prints. Raises RuntimeError with its last words."""
        done = subprocess.run(
            [self.client, *words],
            env={**os.environ, **self.environment, **(variables or {})},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"docker {' '.join(words)}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}"
            )
        return done.stdout

    def build(self, tag: str, context: Path, *, dockerfile: Path | None = None, base: str | None = None) -> None:
        """Build an image of the context, on the base that its Dockerfile names unless `base` says another."""
        words = ["build", "--quiet", "--tag", tag, *(("--file", str(dockerfile)) if dockerfile else ())]
        words += ("--build-arg", f"BASE={base}") if base else ()
        # The classic builder is in Debian's engine and needs no plugin.
        variables = None if self.pulls else {"DOCKER_BUILDKIT": "0"}
        self.docker(*words, str(context), timeout_s=BUILD_S, variables=variables)

    def has(self, image: str) -> bool:
        """Whether the image is here."""
        return bool(self.docker("images", "--quiet", image).strip())

    def kafka(self) -> str:
        """The tag of Apache Kafka in Redpanda's place, made unless it is there. Raises ServerUnavailable."""
        tag = f"cutbank-kafka:{kafka_version()}"
        with tempfile.TemporaryDirectory(prefix="cutbank-image-") as scratch:
            shutil.copytree(Path(__file__).with_name("kafka"), scratch, dirs_exist_ok=True)
            shutil.copytree(kafka_jars(), Path(scratch) / "libs")
            self.build(tag, Path(scratch), base=self.base())
        return tag

    def base(self) -> str:
        """The tag of a small Debian with Python, made unless it is there. Raises ServerUnavailable."""
        if self.has(BASE):
            return BASE
        debootstrap = program("debootstrap", "install Debian's debootstrap")
        with tempfile.TemporaryDirectory(prefix="cutbank-root-") as scratch:
            root = Path(scratch) / "root"
            packages = "--include=ca-certificates,python3,python3-venv"
            _run([debootstrap, "--variant=minbase", packages, DEBIAN, str(root)])
            for folder in (root / "var/cache/apt/archives", root / "var/lib/apt/lists"):
                shutil.rmtree(folder)
                (folder / "partial").mkdir(parents=True)
            if _CERTIFICATES.is_file():  # the machine's own may hold one that its package index needs
                shutil.copy(_CERTIFICATES, root / _CERTIFICATES.relative_to("/"))
            archive = Path(scratch) / "root.tar"
            _run(["tar", "-C", str(root), "-cf", str(archive), "."])
            setting = f"ENV PIP_CERT={_CERTIFICATES} SSL_CERT_FILE={_CERTIFICATES}"
            self.docker("import", "--change", setting, str(archive), BASE, timeout_s=BUILD_S)
        return BASE


@contextmanager
def running_engine() -> Iterator[Engine]:
    """An engine that answers, and has a compose plugin. Raises ServerUnavailable, saying what is missing."""
    client = shutil.which("docker")
    if client is not None and _answers(client, {}):
        pulls = os.environ.get("IMAGES_OF_TESTS", "pulled") != "made"
        with tempfile.TemporaryDirectory(prefix="cutbank-docker-") as scratch:
            yield Engine(client, _with_compose(client, {}, Path(scratch)), pulls=pulls)
        return
    dockerd = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if client is None or dockerd is None or sys.platform != "linux" or os.geteuid() != 0:
        raise NotOnThisMachine("no Docker engine answers; start one, or be root with Debian's docker.io installed")
    with _own_engine(dockerd) as (host, scratch):
        if Path("/usr/bin/docker").exists():  # the engine's own client, where there is a newer one besides
            client = "/usr/bin/docker"
        variables = {"DOCKER_HOST": host}
        with ThreadPoolExecutor(max_workers=1) as beside:  # one waits for processors, the other for packages
            plugin = beside.submit(_with_compose, client, variables, scratch)
            Engine(client, variables, pulls=False).base()
        yield Engine(client, plugin.result(), pulls=False)


@contextmanager
def _own_engine(dockerd: str) -> Iterator[tuple[str, Path]]:
    """Its address, and a folder for what goes with it. Its images stay in .cache."""
    data = CACHE / "engine"
    data.mkdir(parents=True, exist_ok=True)
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="cutbank-docker-") as scratch:
        folder = Path(scratch)
        host = f"unix://{folder}/docker.sock"
        places = ("--data-root", str(data), "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid")
        command = [sys.executable, "-S", "-c", _RUN, str(os.getpid()), dockerd, "--host", host, *places]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            found = shutil.which("docker") or "docker"

            def up() -> bool:
                if process.poll() is not None:
                    raise NotOnThisMachine(f"dockerd does not run here: {(folder / 'log').read_text()[-1500:]}")
                return _answers(found, {"DOCKER_HOST": host})

            wait_until("dockerd answers", up, timeout_s=ENGINE_S)
            yield host, folder
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(ENGINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _with_compose(client: str, variables: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The variables, and a client's configuration that has the compose plugin if its own has none."""
    try:
        _run([client, "compose", "version"], variables)
        return dict(variables)
    except ServerUnavailable:
        plugins = scratch / "client" / "cli-plugins"
        plugins.mkdir(parents=True)
        (plugins / "docker-compose").symlink_to(_compose())
        return {**variables, "DOCKER_CONFIG": str(plugins.parent)}


def _compose() -> Path:
    """The compose program, built from its Go module the first time (minutes)."""
    built = CACHE / f"docker-compose-{COMPOSE}"
    if built.exists():
        return built
    go = program("go", "install Docker's compose plugin, or Go 1.24 or newer to build it")
    module = "github.com/docker/compose/v2"
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="compose-") as scratch:
        flags = f"-s -w -X {module}/internal.Version={COMPOSE}"
        for words in (
            ("mod", "init", "tools/compose"),
            ("get", f"{module}/cmd@{COMPOSE}"),
            ("build", "-ldflags", flags, "-o", "docker-compose", f"{module}/cmd"),
        ):
            _run([go, *words], folder=Path(scratch))
        (Path(scratch) / "docker-compose").replace(built)
    return built


def _answers(client: str, variables: Mapping[str, str]) -> bool:
    environment = {**os.environ, **variables}
    command = [client, "version", "--format", "{{json .Server}}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode == 0 and bool(json.loads(done.stdout or "null"))


def _run(command: list[str], variables: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, **(variables or {})},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    if done.returncode != 0:
        raise ServerUnavailable(f"{' '.join(command[:3])} failed: {(done.stdout + done.stderr)[-2000:]}")
