"""The scorer as a service: its settings in the environment, and `run` from a URL to scored records."""

import asyncio
import gc
import sys
from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import UsageError
from cutbank.runtime.service import Runtime
from cutbank_scorer.app import SERVICE
from cutbank_scorer.settings import ScorerSettings
from scoring_stage import Recorder, Stage, trades

SPEC = """
name = "p"
threshold = 0.0
[detector]
name = "rcf"
number_of_trees = 5
sub_sample_size = 10
"""


def test_settings_have_defaults_and_variables() -> None:
    assert ScorerSettings.load({}).state_url == "file://data/state"
    settings = ScorerSettings.load({"CUTBANK_STATE_URL": "file:///x", "CUTBANK_EMIT": "all", "CUTBANK_GRACE_S": "3"})
    assert (settings.state_url, settings.emit, settings.grace_s) == ("file:///x", "all", 3.0)


def test_every_setting_is_documented() -> None:
    for name, field in ScorerSettings.model_fields.items():
        assert field.description, name


def test_a_wrong_setting_is_one_line() -> None:
    with pytest.raises(UsageError, match="CUTBANK_EMIT"):
        ScorerSettings.load({"CUTBANK_EMIT": "none"})


async def test_runs_from_its_settings_and_stops_when_told(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    async with Stage(tmp_path).opened() as stage:
        await stage.publish(trades(40))
        settings = ScorerSettings.load(
            {
                "CUTBANK_TRANSPORT_URL": f"local://{tmp_path}/log.db",
                "CUTBANK_STATE_URL": f"file://{tmp_path}/other-state",
                "CUTBANK_SPEC": str(tmp_path / "spec.toml"),
                "CUTBANK_EMIT": "all",
                "CUTBANK_THREAD_SWITCH_MS": "0.25",
            }
        )
        usual_s = sys.getswitchinterval()
        runtime = Runtime(clock=SystemClock(), metrics=Recorder())
        running = asyncio.create_task(SERVICE.run(settings, runtime))
        while await stage.committed() != 40:
            assert not running.done()
        assert runtime.health.is_ready
        assert sys.getswitchinterval() == pytest.approx(0.00025)
        assert gc.get_freeze_count() > 0, "what was loaded by then is no work for the collector"
        runtime.stop.set()
        await running
        assert sys.getswitchinterval() == usual_s
        assert gc.get_freeze_count() == 0
        assert len(await stage.lines("scores")) == 40
        assert list((tmp_path / "other-state/p/trades/0/00000001").iterdir())
