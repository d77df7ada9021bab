"""The benchmark on Kafka: a mistake in its arithmetic would be a figure that nobody measured."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _loaded(name: str) -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Data classes look their own module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


figures = _loaded("kafka_figures")


def results(**changed: Any) -> dict[str, Any]:
    """Every figure just at its limit."""
    return {
        "throughput": {"share_of_reader_and_detector": 0.8, "replay_over_live": 1.0},
        "constant": {"share_of_bare_reader": 0.5},
        "scaling": {"two_over_one_records_per_cpu_s": 0.9},
        "latency": {"p50_ms": 20.0, "p99_ms": 100.0},
        "memory": {"behind_1000000": {"peak_mb": 350.0}, "behind_10000000": {"peak_mb": 350.0}},
        **changed,
    }


def test_all_eight_figures_of_the_issue_are_there_and_met_at_their_limits() -> None:
    told = figures.told_figures(results())
    assert len(told) == 8
    assert [name for name, row in told.items() if not row["met"]] == []
    assert [name for name, row in told.items() if row.get("aim_met")] == []


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (
            {"throughput": {"share_of_reader_and_detector": 0.79, "replay_over_live": 1.0}},
            "share of reader and detector",
        ),
        ({"throughput": {"share_of_reader_and_detector": 0.8, "replay_over_live": 0.99}}, "replay over live"),
        ({"constant": {"share_of_bare_reader": 0.49}}, "constant detector over reader"),
        ({"latency": {"p50_ms": 20.1, "p99_ms": 100.0}}, "arrival to visible, p50 ms"),
        ({"latency": {"p50_ms": 20.0, "p99_ms": 100.1}}, "arrival to visible, p99 ms"),
        ({"scaling": {}}, "two scorers over one, records per CPU-s"),
        ({"scaling": {"two_over_one_records_per_cpu_s": None}}, "two scorers over one, records per CPU-s"),
        (
            {"memory": {"behind_1000000": {"peak_mb": 350.1}, "behind_10000000": {"peak_mb": 1.0}}},
            "memory behind 1000000, MB",
        ),
    ],
)
def test_a_miss_or_nothing_at_all_is_not_met(changed: dict[str, Any], name: str) -> None:
    told = figures.told_figures(results(**changed))
    assert [each for each, row in told.items() if not row["met"]] == [name]


def test_less_is_better_where_it_says_so() -> None:
    told = figures.told_figures(results(latency={"p50_ms": 10.0, "p99_ms": 40.1}))
    assert told["arrival to visible, p50 ms"] == {
        "found": 10.0,
        "at_most": 20.0,
        "met": True,
        "aim": 10.0,
        "aim_met": True,
    }
    assert told["arrival to visible, p99 ms"]["aim_met"] is False


def test_reader_and_detector_in_turn_are_slower_than_either() -> None:
    assert figures.ideal_records_per_s(300.0, 600.0) == pytest.approx(200.0)


def test_medians_are_of_all_passes_or_none() -> None:
    passes = [{"a": 3.0, "b": None}, {"a": 1.0, "b": 0.5}, {"a": 2.0009, "b": 0.5}]
    assert figures.medians(passes, "a", "b") == {"a": 2.001, "b": None, "passes": passes}


def test_a_replay_is_held_against_the_same_stretch_alone() -> None:
    replay = {"records_per_s": 300.0, "records": 1000}
    assert figures.replay_over_live(replay, records=1000, live_per_s=200.0) == 1.5
    assert figures.replay_over_live(replay, records=1001, live_per_s=200.0) is None
    assert figures.replay_over_live(None, records=1000, live_per_s=200.0) is None


def test_percentiles_are_of_the_records_seen() -> None:
    took = figures.percentiles([float(number) for number in range(1001)])
    assert took == {"p50_ms": 500.0, "p99_ms": 990.0, "p999_ms": 999.0, "max_ms": 1000.0, "records": 1001}
    assert figures.percentiles([7.0, 9.0])["p999_ms"] <= 9.0, "never beyond what was seen"


def test_a_replays_pace_is_its_records_over_the_time_between_its_two_lines() -> None:
    began = [{"time": "2026-11-23T10:00:00.500Z", "start": 100, "end": 5_100}]
    ended = [{"time": "2026-11-23T10:00:02.500Z"}]
    assert figures.replay_pace(began, ended) == {"records_per_s": 2_500, "records": 5_000, "seconds": 2.0}
    assert figures.replay_pace([], []) is None


def test_a_replay_is_held_against_the_live_way_from_the_first_record_on() -> None:
    live = [{"time": "1970-01-01T00:01:40Z"}]
    assert figures.pace_since(live, 5_000, 102.5) == pytest.approx(2_000.0)


def test_latency_is_looked_at_where_the_detector_is_half_busy_at_the_most() -> None:
    assert figures.latency_records_per_s(5_000, [14_000, 12_000, 9_000]) == 5_000
    assert figures.latency_records_per_s(5_000, [8_000, 6_000, 1_000]) == 3_000
    assert figures.latency_records_per_s(5_000, []) == 5_000
