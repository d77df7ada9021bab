"""The run's own judgement: the plan reaches every point, and the comparison counts each kind of wrong line."""

import json

from chaos.checks import compared
from chaos.flight import When
from chaos.kills import EXACT, HUNTED, Sort, plan
from cutbank.pipeline.accounts import SourceId


def line(position: int, score: float = 1.5, pipeline: str = "chaos") -> bytes:
    source = {"pipeline": pipeline, "stream": "trades@1", "run": 1, "partition": "0", "position": str(position)}
    return json.dumps({"ANOMALY_SCORE": score, "SOURCE": {**source, "ordinal": 0}}).encode()


EXPECTED = {SourceId("0", position, 1, 0): line(position) for position in range(4)}


def test_equal_lines_are_right_in_any_order() -> None:
    lines = compared(EXPECTED, [line(position) for position in (3, 1, 0, 2)], pipeline="chaos")
    assert lines.right
    assert lines.figures() == {
        "expected": 4, "found": 4, "lost": 0, "repeated": 0, "different": 0, "foreign": 0,
    }  # fmt: skip


def test_each_kind_of_wrong_line_is_counted_and_shown() -> None:
    found = [line(0), line(0), line(1, score=1.5000000000000002), line(3), line(9), line(2, pipeline="another's")]
    lines = compared(EXPECTED, found, pipeline="chaos")
    assert not lines.right
    assert (lines.lost, lines.repeated, lines.different, lines.foreign) == (1, 1, 1, 2)
    assert lines.examples


def test_the_smallest_plan_reaches_every_point_and_the_seed_decides() -> None:
    plans = plan(20, 12, seed=1)
    kills = [(role, kill) for role, planned in plans.items() for kill in planned]
    assert sum(kill.sort is Sort.RANDOM for _, kill in kills) == 20
    assert len(kills) == 32
    assert {role for role, kill in kills if kill.sort is Sort.RANDOM} == set(EXACT)
    exact = {(role, kill.step, kill.when) for role, kill in kills if kill.sort is Sort.EXACT}
    assert exact >= {
        ("scorer", "publish_and_commit", When.AFTER),
        ("scorer", "create snapshot", When.BEFORE),
        ("sink", "create claim", When.AFTER),
        ("sink", "create object", When.AFTER),
    }
    assert all(kill.step in HUNTED[role] for role, kill in kills if kill.sort is Sort.HUNTED)
    assert plan(20, 12, seed=1) == plans != plan(20, 12, seed=2)
