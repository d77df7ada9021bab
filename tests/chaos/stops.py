"""SIGTERM in the middle of a flush, a snapshot or a publish: the process ends within its grace period with exit code 0,
and what it was writing is whole or absent.

Event-loop only.
"""

from chaos.checks import positions_ahead
from chaos.crew import Crew
from chaos.flight import Action, Aim, Step, When

STOPS: dict[str, tuple[Aim, ...]] = {
    "sink": (Aim(Step.OBJECT, When.BEFORE, Action.TERM), Aim(Step.CLAIM, When.AFTER, Action.TERM)),
    "scorer": (Aim(Step.SNAPSHOT, When.BEFORE, Action.TERM), Aim(Step.PUBLISH_AND_COMMIT, When.AFTER, Action.TERM)),
}
"""When each role is told to stop."""


async def stop_in_the_middle(crew: Crew, role: str, findings: list[str]) -> int:
    """A role's `STOPS`, each followed by a new process; how many. Raises Trouble for an end that is late or not 0."""
    for aim in STOPS[role]:
        life = crew.posts[role]
        await life.until_live()
        life.flight.arm(aim)
        await life.until(lambda life=life: life.over, what=f"its end ({aim})")  # type: ignore[misc]
        await life.ended_well()
        findings += [f"after {life.name}, {aim}: {found}" for found in await positions_ahead(crew.world)]
        life.flight.close()
        await crew.start(role)
    return len(STOPS[role])
