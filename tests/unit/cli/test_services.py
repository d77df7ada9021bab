"""Services are found by entry point, loaded one by one, and what is missing is one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from cutbank.cli.services import SERVICES, load_service, load_service_command, load_services
from cutbank.runtime.service import Service
from cutbank.runtime.settings import ServiceSettings

EXTRA = """
from cutbank.runtime.service import Runtime, Service
from cutbank.runtime.settings import ServiceSettings

async def run(settings: ServiceSettings, runtime: Runtime) -> None:
    print("ran with", settings.grace_s)

SERVICE = Service(name="extra", summary="Does more.", examples=("cutbank extra",), settings=ServiceSettings, run=run)
"""


@pytest.mark.parametrize("name", list(SERVICES))
def test_our_services_are_whole(name: str) -> None:
    service = load_service(name)
    assert isinstance(service, Service)
    assert issubclass(service.settings, ServiceSettings)
    assert service.summary.endswith(".")
    assert service.examples
    assert all(f"cutbank {name}" in example for example in service.examples)


def test_all_services_in_the_order_of_a_record_s_way() -> None:
    assert list(load_services()) == ["produce", "score", "sink"]


def test_no_service_of_that_name_is_none() -> None:
    assert load_service("nope") is None
    assert load_service_command("nope", {}) is None


def test_the_command_has_the_name_that_was_typed() -> None:
    command = load_service_command("produce", {})
    assert command is not None
    assert command.name == "produce"


def install(folder: Path, target: str) -> None:
    """A distribution of somebody else's, as an installer would leave it on the path."""
    (folder / "extra_service.py").write_text(EXTRA)
    info = folder / "extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cutbank.services]\nextra = {target}\n")


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path.insert(0, {str(folder)!r}); from cutbank.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, check=False, cwd=folder
    )


def test_another_package_s_service_runs_as_a_command(folder: Path) -> None:
    install(folder, "extra_service:SERVICE")
    ended = run(folder, "extra", "--grace-s", "7", "--http-port", "off")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ran with 7.0\n", "")


def test_a_service_whose_package_is_missing_is_one_line(folder: Path) -> None:
    install(folder, "gone_service:SERVICE")
    ended = run(folder, "extra")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "cutbank: error: cutbank extra needs the Python package gone_service, "
        "which is not installed: pip install cutbank\n"
    )


def test_a_command_whose_package_is_missing_is_one_line(folder: Path) -> None:
    (folder / "numpy.py").write_text("raise ModuleNotFoundError(name='numpy')\n")
    ended = run(folder, "verify", "data/anomalies")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "cutbank: error: cutbank verify needs the Python package numpy, which is not installed here: "
        "run it in the scorer's image, or pip install cutbank\n"
    )
