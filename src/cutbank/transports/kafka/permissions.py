"""What the user of this client may not do, found before a service fails on it. Owns what each role needs. No state.

The broker is asked what it would allow (KIP-430); only for transactional ids, of which it does not tell, a producer of
a name that no service has begins an epoch. Changes nothing that a service sees. Event-loop only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request

from cutbank.transports.kafka import admin, wire
from cutbank.transports.kafka.cluster import PLAIN, Cluster
from cutbank.transports.kafka.codes import Code, NotPermitted, raise_for
from cutbank.transports.kafka.transaction import GROUP, TRANSACTION

OPERATIONS = {"Read": 3, "Write": 4, "DescribeConfigs": 10}
"""The bit of each operation in an answer, by the name that ACLs have for it."""

UNTOLD = -(1 << 31)
"""The answer of a broker that does not tell."""

DOCTOR = "doctor"
"""Ends the transactional id that is tried; those of services end with a partition."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one service does with streams and groups."""

    reads: Sequence[str] = ()
    writes: Sequence[str] = ()
    makes: Sequence[str] = ()
    """Those of them that it makes where they are not there."""
    group: str = ""
    """Empty: none."""


class _GroupStruct(DescribeGroupsRequest_v3):  # type: ignore[misc]  # aiokafka is not typed
    """aiokafka's own takes the answer for one of version 2, which lacks what is asked for."""

    RESPONSE_TYPE = DescribeGroupsResponse_v3


class _GroupRequest(Request[_GroupStruct]):  # type: ignore[misc]
    """What this client may do with a group."""

    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[Any]) -> Any:
        """The request in the version that the broker takes."""
        return request_struct_class([self._group], True)


async def lacking(cluster: Cluster, needs: Needs) -> tuple[str, ...]:
    """Permissions that are missing, as `Read on topic 'x'`. Raises StreamUnavailable, UsageError (broker too old)."""
    found = [*await _topics(cluster, needs)]
    if needs.group:
        found += await _group(cluster, cluster.settings.prefix + needs.group)
    if needs.group or needs.writes:
        name = f"{cluster.settings.prefix}{needs.group or 'cutbank.publisher'}/{DOCTOR}"
        found += await _transactional_id(cluster, name)
    return tuple(found)


async def _topics(cluster: Cluster, needs: Needs) -> list[str]:
    wanted = dict.fromkeys(map(cluster.topic_name, (*needs.reads, *needs.writes)))
    answer = await cluster.send_any(wire.TopicsRequest(list(wanted), operations=True))
    if answer.API_VERSION < wire.MetadataResponseV12.API_VERSION:
        return []
    reads, writes = set(map(cluster.topic_name, needs.reads)), set(map(cluster.topic_name, needs.writes))
    makes = {cluster.topic_name(stream): stream for stream in needs.makes}
    found: list[str] = []
    for code, name, *_, allowed, _ in answer.topics:
        operations = ["Read"] * (name in reads) + ["Write"] * (name in writes) + ["DescribeConfigs"]
        if code == Code.TOPIC_AUTHORIZATION_FAILED:
            found += [f"{operation} on topic {name!r}" for operation in operations]
        elif code == Code.UNKNOWN_TOPIC_OR_PARTITION and name in makes:
            if not await admin.may_create(cluster, makes[name]):
                found.append(f"Create on topic {name!r}")
        elif not code:
            found += [f"{operation} on topic {name!r}" for operation in _without(allowed, operations)]
    return found


async def _group(cluster: Cluster, group: str) -> list[str]:
    def code_of(answer: Any) -> int:
        return int(answer.groups[0][0])

    refused = [f"Read on group {group!r}"]
    found = await _coordinated(cluster, GROUP, group, _GroupRequest(group), code_of)
    if found is None:
        return refused
    *_, allowed = found.groups[0]
    return refused if any(_without(allowed, ["Read"])) else []


async def _transactional_id(cluster: Cluster, name: str) -> list[str]:
    request = wire.InitProducerRequest(name, cluster.settings.transaction_timeout_ms, wire.NO_PRODUCER)
    found = await _coordinated(cluster, TRANSACTION, name, request, lambda answer: int(answer.error_code))
    return [f"Write on transactional id {name!r} (and all that begin like it)"] if found is None else []


async def _coordinated(cluster: Cluster, kind: Any, key: str, request: Any, code_of: Any) -> Any:
    """The coordinator's answer; None if it may not be asked."""
    denied = {Code.GROUP_AUTHORIZATION_FAILED, Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED}
    try:
        answer, code = await cluster.ask_coordinator(
            kind, key, request, code_of=code_of, patience=cluster.patience(), line=PLAIN
        )
    except NotPermitted:
        return None
    if code in denied:
        return None
    if code:
        raise_for(code, repr(key))
    return answer


def _without(allowed: int, operations: Sequence[str]) -> Iterator[str]:
    if allowed != UNTOLD:
        yield from (name for name in operations if not allowed >> OPERATIONS[name] & 1)
