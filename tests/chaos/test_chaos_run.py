"""The whole run catches a planted bug: real processes, one kill, and what is wrong is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.long
def test_a_sink_that_commits_before_it_puts_is_caught(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    options = ["--only", "kills", "--quick", "--kills", "0", "--aimed", "1", "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "chaos", *options, "--plant", "commit-before-put", "--result", str(result)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "TMPDIR": str(tmp_path),
        },
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    counted = json.loads(result.read_text())
    assert counted["points"]["between claim and object"] == {"random": 0, "hunted": 0, "exact": 1}
    ahead = [finding for finding in counted["findings"] if "is committed up to" in finding]
    assert ahead, counted["findings"]
    assert "between claim and object: sink: anomalies/" in ahead[0]
    assert counted["scenarios"]["kills"]["written"]["found"] > 0, "the run went on to its end"
