"""The whole run catches a planted bug: real processes, one kill, and what is wrong is named."""

from pathlib import Path

import pytest

from chaos.command import chaos


@pytest.mark.long
def test_a_sink_that_commits_before_it_puts_is_caught(tmp_path: Path) -> None:
    options = ["--only", "kills", "--quick", "--kills", "0", "--aimed", "1", "--seed", "1"]
    ended = chaos(tmp_path, *options, "--plant", "commit-before-put")
    assert ended.code == 1, ended.output
    counted = ended.counted
    assert counted["points"]["between claim and object"] == {"random": 0, "hunted": 0, "exact": 1}
    ahead = [finding for finding in counted["findings"] if "is committed up to" in finding]
    assert ahead, counted["findings"]
    assert "between claim and object: sink: anomalies/" in ahead[0]
    assert counted["scenarios"]["kills"]["written"]["found"] > 0, "the run went on to its end"
