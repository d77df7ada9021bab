"""Compose file, Dockerfiles and workflow, as far as they can be read without an engine: pinned, shut in, consistent."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("producer", "scorer", "sink")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def dockerfile(service: str) -> str:
    return (ROOT / SERVICES[service]["build"]["dockerfile"]).read_text(encoding="utf-8")


def test_images_are_pinned_by_their_full_version() -> None:
    for name, service in SERVICES.items():
        tag = service["image"].rpartition(":")[2]
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), name
    assert {SERVICES[name]["image"] for name in OURS} == {f"cutbank-{name}:{PROJECT['version']}" for name in OURS}


def test_every_published_port_is_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == len(SERVICES)
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port) for port in ports), ports
    assert len({re.search(r":-(\d+)", port).group(1) for port in ports}) == len(ports)  # type: ignore[union-attr]


def test_the_broker_says_the_port_that_it_is_published_on() -> None:
    (port,) = SERVICES["redpanda"]["ports"]
    (advertised,) = [word for word in SERVICES["redpanda"]["command"] if word.startswith("--advertise-kafka-addr=")]
    host, outer, inner = re.fullmatch(r"(\S+?):(\$\{\S+\}):(\d+)", port).groups()  # type: ignore[union-attr]
    assert f"external://{host}:{outer}" in advertised
    (listeners,) = [word for word in SERVICES["redpanda"]["command"] if word.startswith("--kafka-addr=")]
    assert f"external://0.0.0.0:{inner}" in listeners


def test_every_service_has_a_health_check_and_waits_for_a_healthy_broker_alone() -> None:
    assert SERVICES["redpanda"]["healthcheck"]["test"]
    for name in OURS:
        assert "HEALTHCHECK" in dockerfile(name)
        waits = dict(SERVICES[name]["depends_on"])
        assert waits.pop("redpanda") == {"condition": "service_healthy"}
        # `up` refuses to start what waits for the health of a service that a broken broker has made unhealthy.
        assert all(wait == {"condition": "service_started"} for wait in waits.values())
    assert "producer" in SERVICES["scorer"]["depends_on"]
    assert "scorer" in SERVICES["sink"]["depends_on"]


def test_ours_run_shut_in_and_end_by_themselves() -> None:
    for name in OURS:
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert int(service["stop_grace_period"].rstrip("s")) > 25, "longer than CUTBANK_GRACE_S"


def test_a_demo_left_alone_fills_no_disk_with_logs() -> None:
    for name, service in SERVICES.items():
        assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}, name


def test_data_is_on_named_volumes_alone() -> None:
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service.get("volumes", ())]
    assert {source for source, *_ in mounts} == set(COMPOSE["volumes"])
    for name in OURS:
        text = dockerfile(name)
        for _, target, *_ in (mount.split(":") for mount in SERVICES[name].get("volumes", ())):
            made = target.replace("/data/", "/volumes/") if target.startswith("/data/") else target
            assert made in text, f"{name}: an empty volume takes its owner from {target} in the image"


@pytest.mark.parametrize("name", OURS)
def test_an_image_installs_its_own_lock_by_hashes_and_runs_as_nobody(name: str) -> None:
    text = dockerfile(name)
    assert re.search(r"^ARG BASE=python:\d+\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "${BASE}"]
    locks = set(re.findall(r"--requirement requirements/(\w+)\.lock", text))
    assert locks == {"build", name}
    assert text.count("--require-hashes") == len(locks)
    assert "\nUSER 10001:10001\n" in text
    assert "# syntax=" not in text, "that pulls an image"
    command = re.search(r'^CMD \["(\w+)"\]$', text, re.MULTILINE)
    assert command is not None
    assert PROJECT["entry-points"]["cutbank.services"][command.group(1)].startswith(f"cutbank_{name}.")


def test_one_base_image_and_one_way_to_build() -> None:
    bases = {re.search(r"^ARG BASE=(\S+)$", dockerfile(name), re.MULTILINE).group(1) for name in OURS}  # type: ignore[union-attr]
    assert len(bases) == 1
    assert {SERVICES[name]["build"]["context"] for name in OURS} == {"."}


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_pins_its_actions_and_may_only_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    used = re.findall(r"uses: (\S+)@(\S+)(.*)", text)
    assert used
    for action, commit, version in used:
        assert re.fullmatch(r"[0-9a-f]{40}", commit), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", version), action
    assert {
        step.get("with", {}).get("persist-credentials") for step in steps(path) if "checkout" in step.get("uses", "")
    } == {False}
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 90, name
        assert re.fullmatch(r"ubuntu-\d+\.\d+", job["runs-on"]), name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_make_target_of_a_workflow_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for step in steps(path) for name in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
    assert {"test", "test-servers", "test-containers"} <= named
    assert named <= targets


def test_the_workflow_leaves_no_server_out_and_counts_from_up() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["env"] == {"SERVERS_OF_TESTS": "required"}
    (first,) = [step["run"] for step in workflow["jobs"]["compose"]["steps"] if "two minutes" in step.get("name", "")]
    assert first.startswith("timeout 120 sh -c 'docker compose up --detach\n")
    (contract,) = [step["run"] for step in workflow["jobs"]["redpanda"]["steps"] if "run" in step]
    for name in ("kafka", "kafka_groups", "kafka_fence_loop", "kafka_topics", "kafka_limits"):
        assert f"tests/contract/test_{name}.py" in contract


def test_the_broker_answers_from_its_log() -> None:
    command = SERVICES["redpanda"]["command"]
    assert command[command.index("--set") + 1] == "redpanda.write_caching_default=false"


def test_the_workflow_tests_the_versions_that_the_package_states() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    stated = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)}
    assert set(versions) <= stated
    assert PROJECT["requires-python"] == f">={min(versions, key=lambda version: int(version[2:]))}"
