"""What the brokers are, as far as they tell, and whether a fence can be relied on: KAFKA-17507. Owns the verdict.

Apache Kafka before 3.9.1 ends a transaction before the group's coordinator has taken in its positions: for a moment
after a fence the committed position is the one before, and a position of the next transaction can be mixed up with it
(https://github.com/apache/kafka/pull/18168, in 3.9.1, 4.0 and later). Records would be scored twice, or not at all.

No request asks a broker for its version, but the ranges of requests that it takes tell it: 4.0 took in EndTxn 5 and
3.9 ListOffsets 9; 3.9.0 and 3.9.1 have the same. So what the ranges leave open, 3.9 and servers that are not Apache's,
is tried: a loop of fence, then committed position, on a group of its own. On a busy machine it met a stale position in
eight loops of eight on 3.9.0 and in three of eight on 3.8.1, so the loop can condemn, and only the ranges can acquit.

Changes nothing that a service sees; leaves a group without members behind. Event-loop only.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from random import randrange
from uuid import uuid4

import structlog
from aiokafka.protocol.admin import ApiVersionRequest

from cutbank.errors import Fenced, OutcomeUnknown, StreamUnavailable, UsageError
from cutbank.records import Position
from cutbank.transports.kafka.cluster import Cluster
from cutbank.transports.kafka.codes import NotPermitted
from cutbank.transports.kafka.transaction import GroupPosition, Transactions, committed

log = structlog.get_logger(__name__)

LIST_OFFSETS, END_TXN, CREATE_TOKEN, ELECT_LEADERS = 2, 26, 38, 43
"""Requests by their numbers. The last two are Apache Kafka's since 1.1 and 2.2, and nobody else's."""

REDPANDA = "redpanda."
"""Begins the id of a Redpanda cluster."""

START_ROUNDS = 50
"""Rounds of the loop when a service starts; about half a second."""

DOCTOR_ROUNDS = 400
"""Rounds of the loop when somebody waits for a verdict; about 3 s."""

TRY_S_MAX = 20.0
"""The loop ends then, whatever it has done, s."""


class Verdict(Enum):
    """What the ranges of requests say of a broker."""

    GOOD = "has the fix"
    BAD = "has the fault"
    OPEN = "may have it"


@dataclass(frozen=True, slots=True)
class Kind:
    """A broker's version, as far as its ranges tell it."""

    name: str
    verdict: Verdict
    apache: bool = True


def kind(ranges: Mapping[int, tuple[int, int]], cluster_id: str) -> Kind:
    """By the oldest and newest version of each request that a broker takes.

    Those of 3.7.2, 3.8.1, 3.9.0, 3.9.1, 4.0.0 and 4.1.1 were looked at.
    """
    if cluster_id.startswith(REDPANDA):
        return Kind("Redpanda", Verdict.OPEN, apache=False)
    newest = {api: high for api, (_, high) in ranges.items()}
    if not {CREATE_TOKEN, ELECT_LEADERS} <= newest.keys():
        return Kind("not Apache Kafka", Verdict.OPEN, apache=False)
    if newest.get(END_TXN, 0) >= 5:
        return Kind("Apache Kafka 4.0 or newer", Verdict.GOOD)
    if newest.get(LIST_OFFSETS, 0) >= 9:
        return Kind("Apache Kafka 3.9", Verdict.OPEN)
    if newest.get(END_TXN, 0) == 4:
        return Kind("Apache Kafka 3.8", Verdict.BAD)
    return Kind("Apache Kafka 3.7 or older", Verdict.BAD)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found about all brokers."""

    kinds: Mapping[int, Kind]
    """By node; those that did not answer are left out."""
    rounds: int = 0
    """How many rounds of the loop were done, with nothing stale."""
    warning: str = ""
    """What is not certain, and what to do."""

    @property
    def names(self) -> str:
        """The versions that are there."""
        return ", ".join(sorted({found.name for found in self.kinds.values()})) or "no broker answered"


async def check(cluster: Cluster, *, group: str, stream: str | None, rounds: int) -> Report:
    """Refuse brokers on which a committed position may be stale after a fence, unless `old_brokers` accepts them.

    `group`: whose name, with more behind it, the loop uses. `stream`: one that is there; None leaves the loop out.
    Raises UsageError (refused), StreamUnavailable.
    """
    if not cluster.brokers:
        await cluster.look([])
    kinds = await _kinds(cluster)
    accepted = cluster.settings.old_brokers == "accept"
    bad = {node: found for node, found in kinds.items() if found.verdict is Verdict.BAD}
    if bad and not accepted:
        node, found = min(bad.items())
        raise UsageError(_refused(f"Kafka broker {cluster.named(node)} is {found.name} by the requests it takes"))
    unsettled = [found for found in kinds.values() if found.verdict is Verdict.OPEN]
    if bad or accepted or not unsettled:
        warning = f"{Report(kinds).names}: accepted by old_brokers=accept" if bad else ""
        return Report(kinds, warning=warning)
    apache = any(found.apache for found in unsettled)
    tried, untried = 0, ""
    if stream is not None:
        try:
            # A broker of Apache's without the fix shows it to who does not wait; of another, only what is relied on
            # counts: what an owner reads.
            tried = await fence_loop(cluster, group=group, stream=stream, rounds=rounds, stable=not apache)
        except NotPermitted:
            untried = f"allow Read on group '{cluster.settings.prefix}{group}.check' to have it tried"
        except (StreamUnavailable, OutcomeUnknown, Fenced) as error:
            untried = str(error)
    return Report(kinds, rounds=tried, warning=_uncertain(apache=apache, untried=untried))


def _uncertain(*, apache: bool, untried: str) -> str:
    told = "Apache Kafka 3.9: see that it is 3.9.1 or newer; 3.9.0 has KAFKA-17507 and takes the same requests"
    loop = f"a fence was not tried: {untried}"
    return "; ".join([told] * apache + [loop] * bool(untried))


def _refused(what: str) -> str:
    return (
        f"{what}: after a fence a committed position may be stale there (KAFKA-17507), so records would be scored "
        "twice or lost. Upgrade the brokers (Apache Kafka: to 3.9.1, 4.0 or newer); only if their maker has put that "
        "fix in, add old_brokers=accept to the transport URL"
    )


async def _kinds(cluster: Cluster) -> dict[int, Kind]:
    """What each broker is that answers. Raises StreamUnavailable if none does."""

    async def ask(node: int) -> Kind | StreamUnavailable:
        try:
            answer = await cluster.send(node, ApiVersionRequest(), timeout_s=cluster.settings.try_timeout_ms / 1000)
        except StreamUnavailable as error:
            log.warning("a broker does not tell what it is", why=str(error))
            return error
        return kind({api: (low, high) for api, low, high in answer.api_versions}, cluster.cluster_id)

    answers = dict(zip(cluster.brokers, await asyncio.gather(*map(ask, cluster.brokers)), strict=True))
    kinds = {node: answer for node, answer in answers.items() if isinstance(answer, Kind)}
    errors = [answer for answer in answers.values() if isinstance(answer, StreamUnavailable)]
    if not kinds and errors:
        raise errors[0]
    return kinds


async def fence_loop(cluster: Cluster, *, group: str, stream: str, rounds: int, stable: bool) -> int:
    """Commit, fence, read the committed position, again and again; returns the rounds done, within TRY_S_MAX.

    `stable`: read as an owner does, without what is under way; else as an onlooker. Raises UsageError: one was stale,
    NotPermitted, StreamUnavailable.
    """
    full = f"{cluster.settings.prefix}{group}"
    # Another process may try the same: then its positions are read too, which are told by another beginning.
    base = randrange(1 << 20) << 32
    transactions = Transactions(cluster, f"{full}/check-{uuid4().hex}")
    deadline_s = cluster.clock.monotonic_s() + TRY_S_MAX
    done = 0
    try:
        await transactions.fence()
        while done < rounds and cluster.clock.monotonic_s() < deadline_s:
            wanted = Position(base + done + 1)
            await transactions.commit({}, GroupPosition(f"{full}.check", stream, 0, wanted))
            await transactions.fence()
            found = await committed(cluster, f"{full}.check", stream, 0, line=transactions.line, stable=stable)
            if found is None or base <= found < wanted:
                raise UsageError(
                    _refused(f"Kafka: a fence was followed by a stale committed position, in round {done + 1}")
                )
            done += 1
    finally:
        transactions.close()
    return done
