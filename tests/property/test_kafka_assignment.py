"""Rounds of a group: shares become fair, and no partition is ever given to one member while another holds it."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.transports.kafka.assignment import (
    Claim,
    Place,
    assign,
    assignment_bytes,
    assignment_from,
    claim_bytes,
    claim_from,
)

TOPICS = st.dictionaries(st.sampled_from(["s", "t"]), st.integers(1, 6), min_size=1)
PLACES = st.frozensets(st.tuples(st.sampled_from(["s", "tä"]), st.integers(0, 1 << 31 - 1)), max_size=5)


class Member:
    """Holds what it was given until it is told otherwise; hands over when it likes."""

    def __init__(self) -> None:
        self.held: set[Place] = set()
        self.leaving: set[Place] = set()
        self.rounds = 0

    def claim(self, topics: tuple[str, ...]) -> Claim:
        self.rounds += 1
        return Claim(topics, frozenset(self.held), frozenset(self.leaving), self.rounds)

    def hand_over(self, *, share: float, rng: random.Random) -> None:
        given_back = {place for place in sorted(self.leaving) if rng.random() < share}
        self.held -= given_back
        self.leaving -= given_back

    def agree(self, given_places: frozenset[Place]) -> None:
        self.leaving |= self.held - given_places
        self.held |= given_places


@settings(max_examples=100, deadline=None)
@given(counts=TOPICS, seed=st.integers(0, 1 << 32))
def test_members_that_come_go_and_dawdle_never_share_a_partition(counts: dict[str, int], seed: int) -> None:
    rng = random.Random(seed)
    topics = tuple(sorted(counts))
    crew: dict[str, Member] = {"m0": Member()}

    def one_round() -> None:
        shares = assign({name: member.claim(topics) for name, member in crew.items()}, counts)
        for name, member in crew.items():
            member.agree(shares[name])
        held = [place for member in crew.values() for place in member.held]
        assert len(held) == len(set(held)), "two hold one partition"

    for step in range(30):
        match rng.choice(["join", "leave", "hand over", "round"]):
            case "join" if len(crew) < 5:
                crew[f"m{step + 1}"] = Member()
            case "leave" if len(crew) > 1:
                del crew[rng.choice(sorted(crew))]
            case "hand over":
                for member in crew.values():
                    member.hand_over(share=0.5, rng=rng)
        one_round()
    for _ in range(3):
        for member in crew.values():
            member.hand_over(share=1.0, rng=rng)
        one_round()
    held = sorted(place for member in crew.values() for place in member.held - member.leaving)
    assert held == sorted((topic, number) for topic in topics for number in range(counts[topic])), "all are held"
    loads = [len(member.held) for member in crew.values()]
    assert max(loads) - min(loads) <= 1, "fairly"


def test_nobody_gets_a_topic_that_it_does_not_read() -> None:
    shares = assign({"a": Claim(("s",)), "b": Claim(("t",)), "c": Claim(("gone",))}, {"s": 2, "t": 1})
    assert shares == {"a": frozenset({("s", 0), ("s", 1)}), "b": frozenset({("t", 0)}), "c": frozenset()}


@given(held=PLACES, leaving=PLACES, rounds=st.integers(0, 1 << 40))
def test_claims_travel(held: frozenset[Place], leaving: frozenset[Place], rounds: int) -> None:
    claim = Claim(("s", "tä"), held, leaving, rounds)
    assert claim_from(claim_bytes(claim)) == claim


@given(places=PLACES)
def test_assignments_travel(places: frozenset[Place]) -> None:
    assert assignment_from(assignment_bytes(places)) == places
