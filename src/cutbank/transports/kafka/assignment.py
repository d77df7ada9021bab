"""Who gets which partition: what a member says of itself, and what the group's leader makes of it. Pure functions.

Kafka's classic rebalance stops the world: every member lets go of all. Here nobody lets go of anything before it must:
a member joins again with what it holds, and a partition that is to move is given to nobody in that round; its owner
sees that it is no longer meant to have it, hands it over and joins again, and only then does the next one get it
(the idea of KIP-429). Members are told apart by Kafka's own formats, so that its tools show the group.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from cutbank.errors import UsageError
from cutbank.transports.shares import fair_shares

PROTOCOL_TYPE = "consumer"
"""Kafka's own, so that it keeps committed positions for as long as the group reads their topics."""

PROTOCOL = "cutbank-1"
"""Name of this way to assign; another version that can't be mixed with it needs another name."""

Place = tuple[str, int]
"""Topic and partition number."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a member brings to a round."""

    topics: tuple[str, ...]
    held: frozenset[Place] = frozenset()
    """What it holds, and what it is handing over."""
    leaving: frozenset[Place] = frozenset()
    """What of that it is handing over."""
    rounds: int = 0
    """How often it has joined: makes every join differ from the one before, so that the broker begins a round."""


def claim_bytes(claim: Claim) -> bytes:
    """A member's metadata."""
    said = {"held": sorted(claim.held), "leaving": sorted(claim.leaving), "rounds": claim.rounds}
    body = json.dumps(said, separators=(",", ":")).encode()
    return bytes(ConsumerProtocolMemberMetadata(0, list(claim.topics), body).encode())


def claim_from(body: bytes) -> Claim:
    """The inverse of `claim_bytes`. Raises UsageError: a member of another kind."""
    metadata: Any = ConsumerProtocolMemberMetadata.decode(body)
    try:
        said = json.loads(metadata.user_data)
        held = frozenset((str(topic), int(number)) for topic, number in said["held"])
        leaving = frozenset((str(topic), int(number)) for topic, number in said["leaving"])
        return Claim(tuple(metadata.subscription), held, leaving, int(said["rounds"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"kafka: the group has a member that is not ours ({error}); use another pipeline name"
        ) from None


def assignment_bytes(places: frozenset[Place]) -> bytes:
    """What the leader gives to one member."""
    topics: dict[str, list[int]] = {}
    for topic, number in sorted(places):
        topics.setdefault(topic, []).append(number)
    return bytes(ConsumerProtocolMemberAssignment(0, list(topics.items()), b"").encode())


def assignment_from(body: bytes) -> frozenset[Place]:
    """The inverse of `assignment_bytes`; nothing from nothing."""
    if not body:
        return frozenset()
    decoded: Any = ConsumerProtocolMemberAssignment.decode(body)
    return frozenset((topic, number) for topic, numbers in decoded.assignment for number in numbers)


def assign(claims: Mapping[str, Claim], counts: Mapping[str, int]) -> dict[str, frozenset[Place]]:
    """What each member may have from this round on.

    `counts`: partitions of each topic that is there. Shares are fair (numbers differ by one at most where all read
    all) and sticky. A partition that its holder is to give up, or is giving up, goes to nobody else yet.
    """
    members = sorted(claims)
    places = [(topic, number) for topic in sorted(counts) for number in range(counts[topic])]
    holders = {place: member for member in members for place in claims[member].held}
    shares = fair_shares(
        range(len(places)),
        readers={i: [m for m in members if places[i][0] in claims[m].topics] for i in range(len(places))},
        owners={
            i: holders[place]
            for i, place in enumerate(places)
            if place in holders and place not in claims[holders[place]].leaving
        },
        takers=frozenset(members),
    )
    given: dict[str, set[Place]] = {member: set() for member in members}
    for index, member in shares.items():
        if holders.get(places[index], member) == member:
            given[member].add(places[index])
    return {member: frozenset(mine) for member, mine in given.items()}
