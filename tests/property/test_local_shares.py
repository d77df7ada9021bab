"""Shares are fair, sticky, the same for everybody, and reached by members that act one at a time, in any order."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cutbank.transports.shares import fair_shares

MEMBERS = ["m0", "m1", "m2", "m3", "m4"]


def spread(shares: dict[int, str], members: list[str]) -> int:
    loads = [sum(owner == member for owner in shares.values()) for member in members]
    return max(loads) - min(loads)


@settings(max_examples=200, deadline=None)
@given(
    partitions=st.integers(0, 12),
    members=st.integers(1, 5),
    owners=st.lists(st.sampled_from([*MEMBERS, None]), min_size=12, max_size=12),
)
def test_all_is_shared_fairly_and_nothing_moves_without_need(
    partitions: int, members: int, owners: list[str | None]
) -> None:
    living = MEMBERS[:members]
    rows = list(range(partitions))
    now = {p: owner for p in rows if (owner := owners[p]) is not None}
    shares = fair_shares(rows, readers=dict.fromkeys(rows, living), owners=now, takers=frozenset(living))
    assert set(shares) == set(rows)
    assert set(shares.values()) <= set(living)
    assert spread(shares, living) <= 1
    kept = {p: owner for p, owner in now.items() if owner in living}
    again = fair_shares(rows, readers=dict.fromkeys(rows, living), owners=shares, takers=frozenset(living))
    assert again == shares, "a fair state is left as it is"
    if partitions:
        # At least so many must move: what each living owner has above the larger fair share.
        most = -(-partitions // members)
        loads = [sum(owner == member for owner in kept.values()) for member in living]
        moved = sum(shares[p] != owner for p, owner in kept.items())
        least = sum(max(0, load - most) for load in loads)
        assert least <= moved <= least + members, "about as few as possible"


@settings(max_examples=150, deadline=None)
@given(
    readers=st.lists(st.sets(st.sampled_from(MEMBERS)), min_size=1, max_size=8),
    takers=st.sets(st.sampled_from(MEMBERS)),
    owners=st.lists(st.sampled_from([*MEMBERS, None]), min_size=8, max_size=8),
)
def test_nobody_gets_what_it_does_not_read_or_take(
    readers: list[set[str]], takers: set[str], owners: list[str | None]
) -> None:
    rows = list(range(len(readers)))
    now = {p: owner for p in rows if (owner := owners[p]) is not None}
    by_row = {p: sorted(readers[p]) for p in rows}
    shares = fair_shares(rows, readers=by_row, owners=now, takers=frozenset(takers))
    for p in rows:
        able = readers[p] & takers
        if p in shares:
            assert shares[p] in readers[p]
            assert shares[p] in takers or shares[p] == now.get(p)
        else:
            assert not able
            assert now.get(p) not in readers[p]


class Group:
    """Members that look one at a time at the same rows."""

    def __init__(self, partitions: int, rng: random.Random) -> None:
        self.rows = list(range(partitions))
        self.rng = rng
        self.living = ["m0"]
        self.owners: dict[int, str] = {}

    def act(self, member: str) -> None:
        """One look: take what is free and meant; then release one that is meant for another."""
        readers = dict.fromkeys(self.rows, self.living)
        shares = fair_shares(self.rows, readers=readers, owners=self.owners, takers=frozenset(self.living))
        for p in self.rows:
            if p not in self.owners and shares[p] == member:
                self.owners[p] = member
        surplus = [p for p in self.rows if self.owners.get(p) == member and shares[p] != member]
        if surplus:
            del self.owners[self.rng.choice(surplus)]

    def turn(self, what: str, member: str) -> None:
        """A member comes, goes (or dies), or looks."""
        if what == "join" and member not in self.living:
            self.living.append(member)
        elif what == "leave" and member in self.living and len(self.living) > 1:
            self.living.remove(member)
            self.owners = {p: owner for p, owner in self.owners.items() if owner != member}
        elif member in self.living:
            self.act(member)


@settings(max_examples=150, deadline=None)
@given(
    partitions=st.integers(1, 8),
    turns=st.lists(st.tuples(st.sampled_from(["join", "leave", "act"]), st.sampled_from(MEMBERS)), max_size=40),
    seed=st.integers(0, 1 << 32),
)
def test_members_that_act_in_any_order_reach_a_fair_state(
    partitions: int, turns: list[tuple[str, str]], seed: int
) -> None:
    group = Group(partitions, random.Random(seed))
    for what, member in turns:
        group.turn(what, member)
    for _ in range(3 * partitions + 3):
        for member in group.rng.sample(group.living, len(group.living)):
            group.act(member)
    assert set(group.owners) == set(group.rows), "nothing is left free"
    assert spread(group.owners, group.living) <= 1
