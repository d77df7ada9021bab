"""The simulation works: each of these bugs, planted in the real services, is caught by the CI's own seeds."""

from collections.abc import Callable

import pytest

from simulation.outcome import Outcome
from simulation.plan import CI_SEEDS, plan_for
from simulation.planted_bugs import BUGS
from simulation.world import play

CAUGHT_BY = {
    "commit before put": {"committed ahead of objects"},
    "snapshot without its position": {"another line than the oracle's", "committed ahead of output"},
    "newest claim not finished": {"committed ahead of objects", "lost"},
    # lag: the rightful owner is the one that is refused from then on, and the zombie gives up in its turn.
    "zombie rebuilds its right to write": {"committed position went back", "published twice", "lag"},
    "marks not checked": {"twice"},
    "claim not adopted": {"object without a claim", "a loud stop without a reason", "twice"},
    "unknown outcome taken for failed": {"published twice"},
    "clamp not kept": {"another line than the oracle's"},
    "minute rounded": {"wrong minute"},
    "order forgotten": {"wrong order"},
    "a stop holds up others": {"lag", "no loud stop"},
}
"""The checks that may catch each of them: any other one would mean that the bug is not the one that was planted."""


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: str, record_property: Callable[[str, object], None]) -> None:
    caught: Outcome | None = None
    with BUGS[bug]():
        for seed in range(CI_SEEDS):
            outcome = play(plan_for(seed))
            if outcome.violation is not None:
                caught = outcome
                break
    assert caught is not None
    assert caught.violation is not None
    record_property("simulation", f"planted: {bug}: caught at seed {caught.seed} by {caught.violation.check!r}")
    assert caught.violation.check in CAUGHT_BY[bug], str(caught.violation)
    assert play(plan_for(caught.seed)).violation is None, "without the bug, the same world comes out right"
