"""One member's talk with the group's coordinator: join, show life, leave. Owns the member's id and generation.

Written out on the wire rather than with aiokafka's coordinator: that one lets go of every partition in each round,
swallows what callbacks raise, and does not know when another process has taken its static name.

Invariant: `heard_s` is the time at which the newest answered request was *sent*, so that until `heard_s` plus the
session time-out the coordinator cannot have given this member's partitions away. Event-loop only.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, NoReturn

from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest

from cutbank.errors import CutbankError, StreamUnavailable, UsageError
from cutbank.transports.kafka.assignment import (
    PROTOCOL,
    PROTOCOL_TYPE,
    Claim,
    Place,
    assign,
    assignment_bytes,
    assignment_from,
    claim_bytes,
    claim_from,
)
from cutbank.transports.kafka.cluster import Cluster, Patience
from cutbank.transports.kafka.codes import Code, code_name, raise_for
from cutbank.transports.kafka.transaction import GROUP

UNKNOWN = ""
"""The id of who is no member yet."""

NO_GENERATION = -1

INCONSISTENT_PROTOCOL = 23


class Gone(CutbankError):
    """The coordinator does not know this member, or not in this generation: its partitions may be others' by now."""


class Pulse(Enum):
    """What a heartbeat tells."""

    STEADY = "steady"
    ROUND = "round"
    """A new round has begun; join it. Until it ends everything is as it was."""


class Membership:
    """A member of one group."""

    def __init__(self, cluster: Cluster, group: str, streams: Sequence[str]) -> None:
        self._cluster = cluster
        self._group = group
        self._streams = streams
        self._rounds = cluster.new_line("group")
        self._beats = cluster.new_line("heartbeat")
        self._generation = NO_GENERATION
        self._joining = False
        self.member_id = UNKNOWN
        self.heard_s = float("-inf")
        self.answered_s = cluster.clock.monotonic_s()
        """When the coordinator last gave any answer; before the first, when this began."""

    def close(self) -> None:
        """Give the connections up."""
        self._cluster.drop(self._rounds)
        self._cluster.drop(self._beats)

    @property
    def fresh(self) -> bool:
        """Whether the coordinator surely still counts this member in."""
        age_s = self._cluster.clock.monotonic_s() - self.heard_s
        return age_s < self._cluster.settings.session_timeout_ms / 1000

    def _gone(self, code: int, *, same_id: bool = False) -> NoReturn:
        self._generation = NO_GENERATION
        self.heard_s = float("-inf")
        if not same_id:
            self.member_id = UNKNOWN
        raise Gone(f"group {self._group}: the coordinator answers {code_name(code)}")

    async def _ask(self, request: Any, *, line: str, patience: Patience, held_s: float = 0.0) -> tuple[Any, int]:
        sent_s = self._cluster.clock.monotonic_s()
        answer, code = await self._cluster.ask_coordinator(
            GROUP,
            self._group,
            request,
            code_of=lambda answer: int(answer.error_code),
            patience=patience,
            line=line,
            held_s=held_s,
        )
        self.answered_s = self._cluster.clock.monotonic_s()
        if code in {Code.NONE, Code.REBALANCE_IN_PROGRESS}:
            self.heard_s = max(self.heard_s, sent_s)
        return answer, code

    async def join(self, claim: Claim) -> frozenset[Place]:
        """Take part in a round; returns what this member may have.

        Raises Gone (let go of everything, then join again), StreamMissing, StreamUnavailable, UsageError.
        """
        self._joining = True
        try:
            return await self._join(claim)
        finally:
            self._joining = False

    async def _join(self, claim: Claim) -> frozenset[Place]:
        settings = self._cluster.settings
        # A round ends when all have joined, or the session of one who has not is over.
        patience = self._cluster.patience(settings.request_timeout_ms)
        held_s = settings.session_timeout_ms / 1000
        while True:
            request = JoinGroupRequest(
                self._group,
                settings.session_timeout_ms,
                settings.session_timeout_ms,
                self.member_id,
                settings.group_instance_id,
                PROTOCOL_TYPE,
                [(PROTOCOL, claim_bytes(claim))],
            )
            answer, code = await self._ask(request, line=self._rounds, patience=patience, held_s=held_s)
            if code == Code.MEMBER_ID_REQUIRED:
                self.member_id = answer.member_id
                continue
            if code:
                self._refused(code)
            self.member_id, self._generation = answer.member_id, answer.generation_id
            given = await self._shares(answer, patience) if answer.leader_id == answer.member_id else []
            if (assigned := await self._sync(given, patience, held_s=held_s)) is not None:
                return assigned
            await patience.pause(StreamUnavailable(f"group {self._group}: the round was cut short again and again"))

    def _refused(self, code: int) -> None:
        """Raise what a refused join or sync means."""
        if code in {Code.UNKNOWN_MEMBER_ID, Code.ILLEGAL_GENERATION}:
            self._gone(code)
        if code == Code.FENCED_INSTANCE_ID:
            raise UsageError(
                f"group {self._group}: another process has joined as group_instance_id "
                f"{self._cluster.settings.group_instance_id!r}; the id must be this process's alone"
            )
        if code == Code.INVALID_SESSION_TIMEOUT:
            raise UsageError(
                f"group {self._group}: the broker refuses session_timeout_ms="
                f"{self._cluster.settings.session_timeout_ms}; see its group.min.session.timeout.ms and "
                "group.max.session.timeout.ms"
            )
        if code == INCONSISTENT_PROTOCOL:
            raise UsageError(f"group {self._group} has members of another program; use another pipeline name")
        raise_for(code, f"group {self._group}")

    async def _shares(self, answer: Any, patience: Patience) -> list[tuple[str, bytes]]:
        """As the leader: everybody's part, from metadata that is read now."""
        claims = {member_id: claim_from(body) for member_id, _, body in answer.members}
        prefix = self._cluster.settings.prefix
        streams = sorted({topic.removeprefix(prefix) for claim in claims.values() for topic in claim.topics})
        there = await self._cluster.look(streams, patience=patience)
        counts = {self._cluster.topic_name(stream): len(topic.leaders) for stream, topic in there.items()}
        return [(member_id, assignment_bytes(places)) for member_id, places in assign(claims, counts).items()]

    async def _sync(
        self, given: list[tuple[str, bytes]], patience: Patience, *, held_s: float
    ) -> frozenset[Place] | None:
        """The leader's word; None if another round has begun."""
        request = SyncGroupRequest(
            self._group, self._generation, self.member_id, self._cluster.settings.group_instance_id, given
        )
        answer, code = await self._ask(request, line=self._rounds, patience=patience, held_s=held_s)
        if code == Code.REBALANCE_IN_PROGRESS:
            return None
        if code:
            self._refused(code)
        return assignment_from(answer.member_assignment)

    async def beat(self) -> Pulse:
        """Show life now. Raises Gone, StreamUnavailable, UsageError."""
        if self.member_id == UNKNOWN or self._generation == NO_GENERATION:
            raise Gone(f"group {self._group}: not a member at the moment")
        generation, member_id = self._generation, self.member_id
        request = HeartbeatRequest(self._group, generation, member_id)
        patience = self._cluster.patience(self._cluster.settings.session_timeout_ms // 3)
        _, code = await self._ask(request, line=self._beats, patience=patience)
        if code == Code.REBALANCE_IN_PROGRESS:
            return Pulse.ROUND
        if code in {Code.UNKNOWN_MEMBER_ID, Code.ILLEGAL_GENERATION}:
            if (generation, member_id) != (self._generation, self.member_id):
                return Pulse.STEADY  # The answer is about a generation that a join has left behind meanwhile.
            if self._joining and code == Code.ILLEGAL_GENERATION:
                return (
                    Pulse.STEADY
                )  # The round has ended at the coordinator; a member is known, its join's answer on the way.
            # A static member keeps its id: joining with it tells whether another process has taken the name.
            self._gone(code, same_id=self._cluster.settings.group_instance_id is not None)
        if code:
            raise_for(code, f"group {self._group}")
        return Pulse.STEADY

    async def leave(self) -> None:
        """Stop being a member, so that the others need not wait; a static member stays for its session."""
        if self.member_id == UNKNOWN or self._cluster.settings.group_instance_id is not None:
            return
        request = LeaveGroupRequest(self._group, self.member_id)
        self.member_id = UNKNOWN
        await self._ask(request, line=self._beats, patience=self._cluster.patience())

    async def counts(self) -> dict[str, int]:
        """Partitions of the streams that this member reads, now. Raises StreamMissing, StreamUnavailable."""
        topics = [await self._cluster.topic(stream, fresh=True) for stream in self._streams]
        return {topic.name: len(topic.leaders) for topic in topics}
