"""The built wheel, in an empty environment of each Python that the machine has, gives a working `cutbank`."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
STATED = ("3.11", "3.12", "3.13", "3.14")
OURS = f"{sys.version_info.major}.{sys.version_info.minor}"


def interpreters() -> dict[str, str | None]:
    """Each stated version and an interpreter of it, where the machine has one that runs."""
    found: dict[str, str | None] = {}
    for version in STATED:
        candidates = [sys.executable, shutil.which(f"python{version}"), *sorted(pyenv(version))]
        found[version] = next((path for path in candidates if path and runs(path, version)), None)
    return found


def pyenv(version: str) -> Iterator[str]:
    """Interpreters that pyenv keeps outside the path."""
    for path in Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(f"versions/{version}.*/bin/python3"):
        yield str(path)


def runs(path: str, version: str) -> bool:
    """Whether this interpreter is of that version and can make environments."""
    check = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != ({version.replace('.', ', ')}))"
    return subprocess.run([path, "-c", check], check=False, capture_output=True).returncode == 0


def trades() -> str:
    """A CSV of 1,000 trades, every twentieth with three times the price and quantity."""
    rng = random.Random(1)
    rows = ["price,quantity"]
    for number in range(1000):
        factor = 3 if number % 20 == 19 else 1
        rows.append(f"{factor * rng.uniform(90, 110):.2f},{factor * rng.randint(80, 120)}")
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            UV,
            "build",
            "--quiet",
            "--wheel",
            "--no-build-isolation",
            "--python",
            sys.executable,
            "--out-dir",
            folder,
            ROOT,
        ],
        check=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_library_the_services_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "cutbank/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "cutbank",
        "cutbank_producer",
        "cutbank_scorer",
        "cutbank_sink",
    }
    assert not [name for name in names if name.endswith((".nbi", ".nbc", ".pyc"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "version",
    [pytest.param(version, marks=() if version == OURS else pytest.mark.long) for version in STATED],
)
def test_the_demo_runs_from_the_wheel(wheel: Path, version: str) -> None:
    python = interpreters()[version]
    if python is None:
        pytest.skip(f"no Python {version} with venv on this machine")
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder, "environment")
        subprocess.run([UV, "venv", "--quiet", "--python", python, environment], check=True)
        install: list[str | Path] = [UV, "pip", "install", "--quiet", "--python", environment / "bin/python"]
        subprocess.run([*install, "--require-hashes", "-r", ROOT / "requirements/demo.lock"], check=True)
        subprocess.run([*install, "--no-deps", wheel], check=True)
        cutbank = environment / "bin/cutbank"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("CUTBANK_", "PYTHON"))}
        shown = subprocess.run(
            [cutbank, "--version"], check=True, capture_output=True, text=True, cwd=folder, env=clean, timeout=60
        )
        assert shown.stdout.startswith("cutbank 0")
        # An input ends by itself: how slowly a cold machine starts changes nothing.
        Path(folder, "trades.csv").write_text(trades())
        demo = subprocess.run(
            [cutbank, "demo", "--input", "trades.csv", "--features", "price,quantity", "--pace", "max"],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
            env=clean,
            timeout=300,
        )
        assert demo.returncode == 0, demo.stdout + demo.stderr
        objects = [
            path for path in Path(folder, "data/input-trades/anomalies").rglob("*.json") if "_cutbank" not in path.parts
        ]
        lines = [json.loads(line) for path in objects for line in path.read_text().splitlines()]
        assert all(line["ANOMALY_SCORE"] > 1.0 for line in lines)
        assert lines
