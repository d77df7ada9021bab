"""What one seed decides beforehand: the size of its world, how its services are set, what befalls them and when.

A plan is a pure function of its seed. What depends on the run itself (which snapshot is there to be spoilt, what the
next life of a process is set to) is drawn while it runs, from generators that are seeded here too.
Values only.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["ordinary", "source_remade", "destination_remade", "source_expired", "destination_expired"]
"""ordinary: everything must come out right. The others end in a loud stop, and nothing wrong may be written."""

READ_AHEAD = "with one stretch on its way into objects and the next one read"
"""A sink reads records while what it has cut is on its way."""

CI_SEEDS = 240
"""How many seeds, from 0, run with the tests: enough to catch each planted bug."""

SPECIAL: tuple[Kind, ...] = ("source_remade", "destination_remade", "source_expired", "destination_expired")
MADE_AGAIN = frozenset({"another_stream"})
EXPIRED = frozenset({"position_lost", "state_lost", "objects_lost"})
"""Reasons that a partition may stop for in special worlds."""

SPECIAL_EVERY = 12
"""One seed in so many is special; the kinds take turns."""

Role: TypeAlias = Literal["producer", "scorer", "sink"]

KILL_CALLS: Mapping[Role, Mapping[str, int]] = {
    "producer": {"publish": 3, "ensure": 1},
    "scorer": {
        "publish_and_commit": 8,
        "between publish and commit": 24,
        "create snapshot": 8,
        "commit": 3,
        "fence": 2,
        "lease_committed": 1,
        "receive": 2,
        "release": 2,
        "create birth": 1,
        "create stream birth": 1,
        "list state": 1,
        "read state": 1,
        "delete state": 2,
        "describe": 1,
    },
    "sink": {
        "create claim": 6,
        "create object": 8,
        READ_AHEAD: 12,
        "commit": 8,
        "fence": 2,
        "receive": 2,
        "release": 2,
        "create chain birth": 1,
        "list store": 2,
        "read store": 1,
        "exists store": 2,
        "describe": 1,
        "position_at": 1,
    },
}
"""Calls at which a process is killed, and how often one against the others."""

FREEZE_CALLS: Mapping[Role, Mapping[str, int]] = {
    "producer": {},
    "scorer": {
        "publish_and_commit": 8,
        "between publish and commit": 6,
        "commit": 4,
        "create snapshot": 4,
        "fence": 2,
        "lease_committed": 2,
        "receive": 2,
        "create birth": 1,
        "create stream birth": 1,
        "list state": 2,
        "delete state": 2,
    },
    "sink": {
        "create claim": 10,
        "create object": 8,
        "commit": 5,
        "fence": 2,
        "receive": 2,
        "create chain birth": 1,
        "list store": 3,
        "exists store": 2,
    },
}
"""Calls at which a process stands still, long enough for another to take its place."""

LATE_CALLS: Mapping[Role, Mapping[str, int]] = {
    "producer": {},
    "scorer": {"create snapshot": 4, "delete state": 2, "create birth": 1, "create stream birth": 1},
    "sink": {"create claim": 10, "create object": 4, "create chain birth": 1},
}
"""Calls that arrive although their process died when they were on their way: often after the next owner's."""

EVENTS: Mapping[str, int] = {
    "kill at call": 30,
    "kill, call arrives late": 10,
    "kill": 6,
    "freeze": 6,
    "freeze at call": 14,
    "stop": 9,
    "storm": 3,
    "bad weather": 8,
    "outage": 5,
    "long outage": 2,
    "positions": 6,
    "wall clock": 5,
    "spoil snapshot": 5,
    "retention": 3,
}
"""What befalls a world, and how often one against the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happens at a time. Which of the fields mean anything depends on `kind`."""

    at_s: float
    kind: str
    role: Role = "scorer"
    slot: int = 0
    """Which of the role's processes, counted from 0."""
    call: str = ""
    """kill at call: the call. bad weather and outage: log, store or state. positions: lost, earlier or zero.
    spoil snapshot: cut, flipped or removed."""
    number: int = 1
    """kill at call: at its n-th call from now. storm: how many come and go."""
    after: bool = False
    """kill at call: after what it does is done. positions: processes are killed before, not stopped."""
    live: bool = False
    """positions: while the processes run; they are restarted soon after. spoil snapshot: no scorer is killed for it."""
    seconds: float = 0.0
    """How long it lasts."""
    wall_ms: int = 0
    """wall clock: how far the broker's jumps, ms."""

    def __str__(self) -> str:  # noqa: PLR0911  # a line each
        match self.kind:
            case "kill at call" | "freeze at call" | "kill, call arrives late":
                when = f"{'after' if self.after else 'before'} {self.call} no. {self.number}"
                long = f", {self.seconds:.1f} s" if self.seconds else ""
                return f"{self.kind} {self.role}-{self.slot} {when}{long}"
            case "kill" | "stop":
                return f"{self.kind} {self.role}-{self.slot}"
            case "freeze":
                return f"freeze {self.role}-{self.slot} for {self.seconds:.1f} s"
            case "storm":
                return f"{self.number} {self.role}s come and go within {self.seconds:.1f} s"
            case "bad weather" | "outage" | "long outage":
                return f"{self.kind} over {self.call} for {self.seconds:.1f} s"
            case "positions":
                how = "while running" if self.live else "killed before" if self.after else "stopped before"
                return f"{self.role} positions {self.call}, {how}"
            case "wall clock":
                return f"the broker's clock jumps by {self.wall_ms} ms"
            case "spoil snapshot":
                return f"a snapshot is {self.call}"
            case _:
                return "records that nobody needs any more pass retention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One world."""

    seed: int
    kind: Kind = "ordinary"
    atomic: bool
    """Whether the log publishes and commits in one step; else outputs first, as Kinesis does."""
    source_partitions: int
    output_partitions: int
    scorers: int
    sinks: int
    emit: Literal["anomalies", "all"]
    records_per_second: float
    records_per_batch: int
    bad_share: float
    """Of the messages, how many are bad records."""
    produce_s: float
    """How long the producer goes on, simulated seconds."""
    wall_offsets_ms: tuple[int, ...]
    """Services' clocks are off by one of these."""
    many_values: bool
    """Whether there are so many anomalies a minute, and sinks told such layouts, that 50 partition values are open."""
    gap_max: int
    """Positions that the log leaves out after a publish, at most."""
    drizzle: float
    """Chance of any call to fail, all the time until the world heals."""
    slow: float
    """Share of calls that take time, until the world heals."""
    events: tuple[Event, ...] = field(default=())

    def rng(self, purpose: str) -> random.Random:
        """A generator of its own for one purpose."""
        return random.Random(f"{self.seed}/{purpose}")


HOUR_MS = 3_600_000
PRODUCE_S = (40.0, 110.0)
"""How long an ordinary producer goes on, at least and at most."""
OUTAGE_S = (2.0, 30.0)
LONG_OUTAGE_S = (60.0, 240.0)
"""How long a store is out for minutes; the producer goes on for all that time, and a while after."""
AFTER_OUTAGE_S = 20.0
MANY_VALUES_EVERY = 6
"""One seed in so many has many partition values open."""
MANY_PRODUCE_S = (70.0, 90.0)
MANY_RECORDS_PER_SECOND = (5.0, 8.0)
"""Three of ten are anomalies: some hundred a minute."""
EVENTS_COUNT = (4, 12)
DEAL_S = 20.0
"""Special kinds: half of the time that the producer goes on for their event."""


def plan_for(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(f"plan/{seed}")
    kind: Kind = "ordinary"
    if seed % SPECIAL_EVERY == SPECIAL_EVERY - 1:
        kind = SPECIAL[seed // SPECIAL_EVERY % len(SPECIAL)]
    produce_s = rng.uniform(*PRODUCE_S) + (0.0 if kind == "ordinary" else 2 * DEAL_S)
    scorers, sinks = rng.randint(1, 3), rng.randint(1, 3)
    counts: Mapping[Role, int] = {"producer": 1, "scorer": scorers, "sink": sinks}
    atomic = rng.random() < 0.5
    until_s = produce_s if kind == "ordinary" else produce_s - 2 * DEAL_S
    dice = _Dice(rng, counts, atomic=atomic, until_s=until_s)
    events = [dice.event() for _ in range(rng.randint(*EVENTS_COUNT))]
    many_values = kind == "ordinary" and seed % MANY_VALUES_EVERY == 0
    if many_values:
        produce_s = rng.uniform(*MANY_PRODUCE_S)
        events = [*(event for event in events if event.at_s < produce_s), *dice.among_many_objects(produce_s)]
    if kind == "ordinary":
        ends = [event.at_s + event.seconds + AFTER_OUTAGE_S for event in events if event.kind == "long outage"]
        produce_s = max([produce_s, *ends])
    return Plan(
        seed=seed,
        kind=kind,
        atomic=atomic,
        source_partitions=rng.randint(1, 3),
        output_partitions=rng.randint(1, 2),
        scorers=scorers,
        sinks=sinks,
        emit="all" if rng.random() < 0.15 else "anomalies",
        records_per_second=rng.uniform(*(MANY_RECORDS_PER_SECOND if many_values else (0.6, 2.0))),
        records_per_batch=rng.randint(1, 8),
        bad_share=rng.choice((0.0, 0.05, 0.2)),
        produce_s=produce_s,
        wall_offsets_ms=rng.choice(((0,), (0, HOUR_MS), (0, -HOUR_MS), (HOUR_MS, -HOUR_MS, 0))),
        many_values=many_values,
        gap_max=rng.choice((0, 3)),
        drizzle=rng.choice((0.0, 0.0, 0.005, 0.02)),
        slow=rng.choice((0.0, 0.5, 1.0, 1.0)),
        events=tuple(sorted(events, key=lambda event: event.at_s)),
    )


class _Dice:
    """Draws events for one plan."""

    def __init__(self, rng: random.Random, counts: Mapping[Role, int], *, atomic: bool, until_s: float) -> None:
        self._rng = rng
        self._counts = counts
        self._atomic = atomic
        self._until_s = until_s

    def event(self) -> Event:
        """Some event, some time before the end."""
        rng, kind = self._rng, _weighted(self._rng, EVENTS)
        at_s = rng.uniform(0.0, self._until_s)
        match kind:
            case "kill at call":
                return self._at_call(at_s, kind, _role(rng), KILL_CALLS)
            case "kill, call arrives late":
                return self._at_call(at_s, kind, _late_role(rng), LATE_CALLS, seconds=rng.uniform(1.0, 12.0))
            case "freeze at call":
                role = _role(rng, producer=False)
                return self._at_call(at_s, kind, role, FREEZE_CALLS, seconds=rng.uniform(6.0, 25.0))
            case "kill" | "stop":
                role = _role(rng)
                return Event(at_s=at_s, kind=kind, role=role, slot=rng.randrange(self._counts[role]))
            case "freeze":
                role = _role(rng, producer=False)
                seconds = rng.choice((rng.uniform(0.5, 5.0), rng.uniform(6.0, 25.0), rng.uniform(6.0, 25.0)))
                return Event(at_s=at_s, kind=kind, role=role, slot=rng.randrange(self._counts[role]), seconds=seconds)
            case _:
                return self._around_processes(at_s, kind)

    def among_many_objects(self, until_s: float) -> list[Event]:
        """Kills of sinks between the objects of claims that have many of them: around the end of a minute."""
        rng = self._rng
        return [
            Event(
                at_s=rng.uniform(0.2, 0.8) * until_s,
                kind="kill at call",
                role="sink",
                slot=slot,
                call="create object",
                number=rng.randint(2, 40),
                after=rng.random() < 0.5,
            )
            for slot in range(self._counts["sink"])
        ]

    def _around_processes(self, at_s: float, kind: str) -> Event:
        """An event that meets no single process."""
        rng = self._rng
        match kind:
            case "storm":
                role, number = _role(rng, producer=False), rng.randint(2, 4)
                return Event(at_s=at_s, kind=kind, role=role, number=number, seconds=rng.uniform(10.0, 40.0))
            case "bad weather" | "outage" | "long outage":
                long = kind == "long outage"
                where = "store" if long else rng.choice(("log", "store", "state"))
                seconds = rng.uniform(*(LONG_OUTAGE_S if long else OUTAGE_S))
                return Event(at_s=at_s, kind=kind, call=where, seconds=seconds)
            case "positions":
                role, to = _role(rng, producer=False), rng.choice(("lost", "earlier", "zero"))
                after, live = rng.random() < 0.5, rng.random() < 0.3
                return Event(at_s=at_s, kind=kind, role=role, call=to, after=after, live=live)
            case "wall clock":
                return Event(at_s=at_s, kind=kind, wall_ms=rng.choice((-30_000, -30_000, -3_000, 3_000, 30_000)))
            case "spoil snapshot":
                how, live = rng.choice(("cut", "flipped", "removed")), rng.random() < 0.3
                return Event(at_s=at_s, kind=kind, call=how, live=live)
            case _:
                return Event(at_s=at_s, kind=kind)

    def _at_call(
        self, at_s: float, kind: str, role: Role, of_roles: Mapping[Role, Mapping[str, int]], *, seconds: float = 0.0
    ) -> Event:
        rng, calls = self._rng, dict(of_roles[role])
        if self._atomic:
            calls.pop("between publish and commit", None)
        return Event(
            at_s=at_s,
            kind=kind,
            role=role,
            slot=rng.randrange(self._counts[role]),
            call=_weighted(rng, calls),
            number=rng.choice((1, 1, 1, 2, 3, rng.randint(1, 20))),
            after=rng.random() < 0.5 and of_roles is not LATE_CALLS,
            seconds=seconds,
        )


def _weighted(rng: random.Random, weights: Mapping[str, int]) -> str:
    return rng.choices(list(weights), weights=list(weights.values()))[0]


def _late_role(rng: random.Random) -> Role:
    roles: tuple[Role, ...] = ("sink", "sink", "scorer")
    return rng.choice(roles)


def _role(rng: random.Random, *, producer: bool = True) -> Role:
    roles: tuple[Role, ...] = ("scorer", "scorer", "scorer", "sink", "sink", "sink", "producer")
    return rng.choice(roles if producer else roles[:-1])
