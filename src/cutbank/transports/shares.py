"""Who should have which partition: fair, sticky, and the same for everybody who computes it. Pure functions.

The embedded log has no leader: every member computes this from the same rows under the write lock, takes what is free
and meant for it, and gives back what is meant for another; a partition in transit keeps its owner in the rows until it
is released, so all members see the same moves until they are done. On Kafka the leader of a round computes it.
"""

from collections.abc import Mapping, Sequence


def fair_shares(
    partitions: Sequence[int],
    *,
    readers: Mapping[int, Sequence[str]],
    owners: Mapping[int, str],
    takers: frozenset[str],
) -> dict[int, str]:
    """The member that should have each partition; one that nobody may have is left out.

    `partitions` in order; `readers[p]`: the live members that read p's stream, in the order in which they joined;
    `owners[p]`: who has it now; `takers`: members that take more. Owners keep what they have, free partitions go to
    the reader with the fewest, and as long as a taker has two fewer than an owner of something that it reads, one
    moves. So the members' numbers differ by one at most (where all read all), and as few move as possible.
    O(partitions x members) for each round, at most `partitions` moves.
    """
    shares = {p: owners[p] for p in partitions if p in owners and owners[p] in readers[p]}
    load: dict[str, int] = {}
    for p in partitions:
        for member in readers[p]:
            load.setdefault(member, 0)
    for member in shares.values():
        load[member] += 1

    def least(p: int) -> str | None:
        able = [member for member in readers[p] if member in takers]
        return min(able, key=load.__getitem__, default=None)

    for p in partitions:
        taker = least(p)
        if p not in shares and taker is not None:
            shares[p] = taker
            load[taker] += 1
    moved = True
    while moved:
        moved = False
        for p in reversed(partitions):
            taker = least(p)
            if p in shares and taker is not None and load[shares[p]] >= load[taker] + 2:
                load[shares[p]] -= 1
                load[taker] += 1
                shares[p] = taker
                moved = True
    return shares
