"""`python -m chaos` as tests run it: in a process of its own, its folders below the test's. Blocks. Owns nothing."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]

RUN_S_MAX = 1200.0


@dataclass(frozen=True)
class Ended:
    """What a run came to."""

    code: int
    output: str
    counted: dict[str, Any]
    """Its `--result`."""


def chaos(folder: Path, *options: str, module: str = "chaos") -> Ended:
    """One run."""
    result = folder / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", module, *options, "--result", str(result)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "TMPDIR": str(folder),
        },
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
    )
    output = done.stdout + done.stderr
    assert result.exists(), output
    return Ended(done.returncode, output, json.loads(result.read_text(encoding="utf-8")))
