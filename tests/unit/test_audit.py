"""The recount finds every way in which a line can be wrong, on a real log and a real store, by its name."""

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from cutbank.clock import SystemClock
from cutbank.metrics import NoMetrics
from cutbank.objects import open_store
from cutbank.objects.base import ObjectStore
from cutbank.pipeline.accounts import Accounts, FindingKind, Side, SourceId, source_id
from cutbank.pipeline.audit import recount
from cutbank.pipeline.findings import EXAMPLES_MAX
from cutbank.pipeline.ledger import Ledger
from cutbank.pipeline.sinking.claims import ChainId, Claim, DataObject, FirstRecord, Layout, Lost, encode
from cutbank.pipeline.spec import PipelineSpec
from cutbank.records import Batch, Message, Partition, Position
from cutbank.testing.clock import ManualClock
from cutbank.transports import open_transport
from cutbank.transports.base import DAY_MS, StreamConfig, Transport
from cutbank.transports.local import open_local

SPEC = PipelineSpec()
OBJECT = "2026/11/23/06/anomaly-extractor-anomalies-0-x-0.json"
ERRORS_OBJECT = "errors/2026/11/23/06/anomaly-extractor-errors-0-x-0.json"
ANOMALOUS = (260, 270, 280)
BAD = 5
RECORDS = 300
WARM_UP = 256


def source(position: int, *, run: int = 1, partition: str = "0", pipeline: str = SPEC.name) -> dict[str, object]:
    return {
        "pipeline": pipeline,
        "stream": "trades@1f2e3d4c",
        "run": run,
        "partition": partition,
        "position": str(position),
        "ordinal": 0,
    }


def line(position: int, score: float, *, run: int = 1, partition: str = "0", pipeline: str = SPEC.name) -> bytes:
    return orjson.dumps(
        {
            "tickerSymbol": "OXBOW",
            "tradeType": "SELL",
            "price": 100.5,
            "quantity": 10,
            "id": 1000 + position,
            "ANOMALY_SCORE": score,
            "ROWTIME": "2026-11-23T06:00:00.000Z",
            "SOURCE": source(position, run=run, partition=partition, pipeline=pipeline),
        }
    )


def error_line(position: int, reason: str = "invalid_json", *, pipeline: str = SPEC.name) -> bytes:
    return orjson.dumps({"ERROR_NAME": reason, "SOURCE": source(position, pipeline=pipeline)})


def claim_of(
    objects: dict[str, bytes], *, pipeline: str = SPEC.name, start: int = 0, stream: str = SPEC.destination
) -> Claim:
    """The claim that says so of the objects."""
    named = [
        DataObject(
            key=key,
            count=max(body.count(b"\n"), 1),
            line_bytes=max(len(body), 1),
            sha256=hashlib.sha256(body).hexdigest(),
        )
        for key, body in objects.items()
    ]
    return Claim(
        pipeline=pipeline,
        stream=stream,
        partition="0",
        start=Position(start),
        end=Position(start + 3),
        minute_ms=0,
        layout=Layout(),
        objects=tuple(named),
        first=FirstRecord(position=Position(start), sha256=hashlib.sha256(b"").hexdigest()),
        marks_before=(),
        marks_after=(),
    )


@dataclass
class House:
    """A log and a store as a perfect run would have left them; a test breaks one thing before `count`.

    A claim names the objects as they are then, but for those in `unclaimed`; `tampered` says what lies there instead.
    """

    transport: Transport
    store: ObjectStore
    scores: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)
    anomalies: list[bytes] = field(default_factory=list)
    objects: dict[str, list[bytes]] = field(default_factory=dict)
    labels: list[int] = field(default_factory=list)
    unclaimed: set[str] = field(default_factory=set)
    tampered: dict[str, bytes] = field(default_factory=dict)
    scorer_at: int | None = RECORDS
    sink_at: int | None = len(ANOMALOUS)
    sunk_errors: list[bytes] | None = None
    """What lies in an object of the errors; None: errors are not sunk."""
    errors_at: int | None = 1

    async def fill(self) -> None:
        scores = {n: 0.0 if n < WARM_UP else 2.5 if n in ANOMALOUS else 0.7 for n in range(RECORDS) if n != BAD}
        self.scores = [line(n, score) for n, score in scores.items()]
        self.errors = [error_line(BAD)]
        self.anomalies = [line(n, 2.5) for n in ANOMALOUS]
        self.objects = {OBJECT: list(self.anomalies)}
        self.labels = [1000 + n for n in (10, 260, 270, 290)]
        for name in (SPEC.source, SPEC.scores, SPEC.errors, SPEC.destination, "labels"):
            await self.transport.ensure(StreamConfig(name))
        records = [orjson.dumps({"id": 1000 + n}) if n != BAD else b"{" for n in range(RECORDS)]
        await self.publish(SPEC.source, records)

    async def publish(self, stream: str, values: list[bytes]) -> None:
        await self.transport.publish([Message(stream, value) for value in values])

    async def count(self) -> Accounts:
        await self.publish(SPEC.scores, self.scores)
        await self.publish(SPEC.errors, self.errors)
        await self.publish(SPEC.destination, self.anomalies)
        await self.publish("labels", [orjson.dumps({"id": number}) for number in self.labels])
        bodies = {key: b"".join(text + b"\n" for text in lines) for key, lines in self.objects.items()}
        claimed = {key: body for key, body in bodies.items() if key not in self.unclaimed}
        if claimed:
            claim = claim_of(claimed, start=1)
            await self.store.create(claim.key, encode(claim))
        for key, body in bodies.items():
            await self.store.create(key, self.tampered.get(key, body))
        if self.sunk_errors is not None:
            body = b"".join(text + b"\n" for text in self.sunk_errors)
            errors = claim_of({ERRORS_OBJECT: body}, stream=SPEC.errors)
            await self.store.create(errors.key, encode(errors))
            await self.store.create(ERRORS_OBJECT, body)
            await commit(self.transport, f"{SPEC.name}.sink", SPEC.errors, self.errors_at)
        await commit(self.transport, f"{SPEC.name}.scorer", SPEC.source, self.scorer_at)
        await commit(self.transport, f"{SPEC.name}.sink", SPEC.destination, self.sink_at)
        return await recount(self.transport, self.store, SPEC, labels="labels")


async def commit(transport: Transport, group: str, stream: str, position: int | None) -> None:
    if position is None:
        return
    async with transport.consumer(group, [stream]) as consumer:
        async for event in consumer.events():
            await event.lease.fence()
            await event.lease.commit(Position(position))
            await event.lease.release()
            break


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock, metrics = SystemClock(), NoMetrics()
    async with (
        open_transport(f"local://{tmp_path}/log.db", clock=clock, metrics=metrics) as transport,
        open_store(f"file://{tmp_path}/anomalies", clock=clock, metrics=metrics) as store,
    ):
        made = House(transport, store)
        await made.fill()
        yield made


def kinds(accounts: Accounts) -> dict[FindingKind, int]:
    return {finding.kind: finding.count for finding in accounts.findings}


async def test_a_perfect_run_balances(house: House) -> None:
    accounts = await house.count()
    assert accounts.findings == ()
    assert accounts.balanced
    assert (accounts.produced, accounts.scored, accounts.errors) == (RECORDS, RECORDS - 1, 1)
    assert (accounts.anomalies, accounts.lines) == (3, 3)
    assert accounts.objects == (OBJECT,)
    assert accounts.errors_by_reason == (("invalid_json", 1),)


async def test_precision_and_recall_leave_the_warm_up_out(house: House) -> None:
    quality = (await house.count()).quality
    assert quality is not None
    # Labelled: 10 (in the warm-up), 260, 270, 290. Found: 260, 270, 280.
    assert quality.warm_up == WARM_UP - 1
    assert (quality.true_positives, quality.false_positives, quality.false_negatives) == (2, 1, 1)
    assert quality.true_negatives == RECORDS - WARM_UP - 4
    assert quality.precision == pytest.approx(2 / 3)
    assert quality.recall == pytest.approx(2 / 3)


async def test_a_score_of_zero_after_the_warm_up_is_an_answer(house: House) -> None:
    house.scores[260 - 1] = line(260, 0.0)
    house.anomalies, house.objects, house.sink_at = house.anomalies[1:], {OBJECT: house.anomalies[1:]}, 2
    quality = (await house.count()).quality
    assert quality is not None
    assert quality.warm_up == WARM_UP - 1
    assert quality.false_negatives == 2


async def test_a_new_run_has_a_warm_up_of_its_own(house: House) -> None:
    house.scores = [*house.scores[:289], *(line(n, 0.0, run=2) for n in range(290, RECORDS))]
    accounts = await house.count()
    assert accounts.findings == ()
    assert accounts.quality is not None
    assert accounts.quality.warm_up == WARM_UP - 1 + 10


async def test_without_labels_there_is_no_quality(house: House) -> None:
    await house.count()
    accounts = await recount(house.transport, house.store, SPEC, labels=None)
    assert accounts.quality is None
    assert accounts.balanced


Break = Callable[[House], Any]


def _drop_line(house: House) -> None:
    del house.objects[OBJECT][1]


def _double_line(house: House) -> None:
    house.objects[OBJECT].append(house.objects[OBJECT][0])


def _double_line_elsewhere(house: House) -> None:
    house.objects["2026/11/23/07/other.json"] = [house.objects[OBJECT][2]]


def _swap_line(house: House) -> None:
    house.objects[OBJECT][0] = house.objects[OBJECT][1]


def _alter_score(house: House) -> None:
    house.objects[OBJECT][0] = line(260, 2.5000000001)


def _foreign_line(house: House) -> None:
    house.objects[OBJECT].append(line(290, 3.0))


def _line_of_no_partition(house: House) -> None:
    house.objects[OBJECT].append(line(260, 2.5, partition="7"))


def _line_of_another_run(house: House) -> None:
    house.objects[OBJECT].append(line(260, 2.5, run=2))


def _not_json(house: House) -> None:
    house.objects[OBJECT].append(b"{half a li")


def _empty_line(house: House) -> None:
    house.objects[OBJECT].insert(1, b"")


def _no_source(house: House) -> None:
    house.objects[OBJECT].append(b'{"price": 1, "SOURCE": null}')


def _drop_object(house: House) -> None:
    house.objects.clear()


def _sink_lags(house: House) -> None:
    house.objects[OBJECT].pop()
    house.sink_at = 2


def _sink_never_ran(house: House) -> None:
    house.objects.clear()
    house.sink_at = None


def _not_published(house: House) -> None:
    house.objects[OBJECT].pop()
    house.anomalies.pop()
    house.sink_at = 2


def _published_twice(house: House) -> None:
    house.anomalies.append(house.anomalies[0])


def _never_scored(house: House) -> None:
    house.anomalies.append(line(290, 3.0))
    house.objects[OBJECT].append(line(290, 3.0))


def _published_otherwise(house: House) -> None:
    house.anomalies[0] = line(260, 2.6)
    house.objects[OBJECT][0] = line(260, 2.6)


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (_drop_line, {FindingKind.MISSING_LINE: 1}),
        (_double_line, {FindingKind.DOUBLED_LINE: 1}),
        (_double_line_elsewhere, {FindingKind.DOUBLED_LINE: 1}),
        (_swap_line, {FindingKind.MISSING_LINE: 1, FindingKind.DOUBLED_LINE: 1}),
        (_alter_score, {FindingKind.ALTERED_LINE: 1}),
        (_foreign_line, {FindingKind.FOREIGN_LINE: 1}),
        (_line_of_no_partition, {FindingKind.FOREIGN_LINE: 1}),
        (_line_of_another_run, {FindingKind.FOREIGN_LINE: 1}),
        (_not_json, {FindingKind.UNREADABLE_LINE: 1}),
        (_empty_line, {FindingKind.UNREADABLE_LINE: 1}),
        (_no_source, {FindingKind.UNREADABLE_LINE: 1}),
        (_drop_object, {FindingKind.MISSING_LINE: 3}),
        (_sink_lags, {FindingKind.NOT_WRITTEN: 1}),
        (_sink_never_ran, {FindingKind.NOT_WRITTEN: 3}),
        (_not_published, {FindingKind.NOT_PUBLISHED: 1}),
        (_published_twice, {FindingKind.PUBLISHED_TWICE: 1}),
        (_never_scored, {FindingKind.NEVER_SCORED: 1}),
        (_published_otherwise, {FindingKind.DIFFERS: 1}),
    ],
    ids=lambda value: value.__name__.lstrip("_") if callable(value) else "",
)
async def test_a_broken_anomaly_is_named(house: House, break_it: Break, expected: dict[FindingKind, int]) -> None:
    break_it(house)
    accounts = await house.count()
    assert kinds(accounts) == expected
    assert not accounts.holds(Side.ANOMALIES)
    assert accounts.holds(Side.RECORDS)


async def test_errors_in_objects_are_counted_apart(house: House) -> None:
    house.sunk_errors = list(house.errors)
    accounts = await house.count()
    assert accounts.findings == ()
    assert (accounts.errors, accounts.error_lines, accounts.lines) == (1, 1, 3)
    assert accounts.objects == (OBJECT, ERRORS_OBJECT)


@pytest.mark.parametrize(
    ("sunk", "errors_at", "expected"),
    [
        ([line(BAD, 0.0)], 1, {FindingKind.ERROR_MISSING: 1, FindingKind.FOREIGN_LINE: 1}),
        ([error_line(7)], None, {FindingKind.ERROR_NOT_WRITTEN: 1, FindingKind.FOREIGN_LINE: 1}),
        ([error_line(7)], 1, {FindingKind.ERROR_MISSING: 1, FindingKind.FOREIGN_LINE: 1}),
        ([error_line(BAD), error_line(BAD)], 1, {FindingKind.ERROR_DOUBLED: 1}),
        ([error_line(BAD), error_line(10**9)], 1, {FindingKind.FOREIGN_LINE: 1}),
    ],
    ids=["another's line", "sink lags", "missing", "doubled", "of no record"],
)
async def test_a_broken_error_in_objects_is_named(
    house: House, sunk: list[bytes], errors_at: int | None, expected: dict[FindingKind, int]
) -> None:
    house.sunk_errors, house.errors_at = sunk, errors_at
    accounts = await house.count()
    assert kinds(accounts) == expected
    assert accounts.holds(Side.RECORDS)
    assert accounts.holds(Side.ERRORS) == (set(expected) == {FindingKind.FOREIGN_LINE})


def _lose(house: House) -> None:
    del house.scores[20]


def _lag(house: House) -> None:
    house.scores.pop()
    house.scorer_at = RECORDS - 1


def _score_twice(house: House) -> None:
    house.scores.append(line(250, 0.0, run=2))


def _refuse_twice(house: House) -> None:
    house.errors.append(error_line(BAD))


def _refuse_a_good_one(house: House) -> None:
    house.errors.append(error_line(20))


def _score_nothing(house: House) -> None:
    house.scores.append(line(RECORDS + 1000, 0.7))


def _write_nonsense(house: House) -> None:
    house.scores.append(b"\xff")


def _score_in_words(house: House) -> None:
    house.scores.append(line(20, 0.7).replace(b"0.7", b'"high"'))


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (_lose, FindingKind.LOST),
        (_lag, FindingKind.NOT_PROCESSED),
        (_score_twice, FindingKind.SCORED_TWICE),
        (_refuse_twice, FindingKind.REFUSED_TWICE),
        (_refuse_a_good_one, FindingKind.SCORED_AND_REFUSED),
        (_score_nothing, FindingKind.OF_NO_RECORD),
        (_write_nonsense, FindingKind.UNREADABLE_RECORD),
        (_score_in_words, FindingKind.UNREADABLE_RECORD),
    ],
    ids=lambda value: value.__name__.lstrip("_") if callable(value) else "",
)
async def test_a_broken_record_is_named(house: House, break_it: Break, expected: FindingKind) -> None:
    break_it(house)
    accounts = await house.count()
    assert kinds(accounts) == {expected: 1}
    assert not accounts.holds(Side.RECORDS)
    assert accounts.holds(Side.ANOMALIES)


async def test_an_anomaly_too_large_to_publish_is_an_error_whether_or_not_it_has_a_score(house: House) -> None:
    house.errors += [error_line(260, "anomaly_too_large"), error_line(270, "anomaly_too_large")]
    house.scores = [text for text in house.scores if b'"position":"270"' not in text]
    house.anomalies, house.sink_at = house.anomalies[2:], 1
    house.objects[OBJECT] = house.objects[OBJECT][2:]
    accounts = await house.count()
    assert accounts.findings == ()
    assert accounts.scored + accounts.errors == accounts.produced
    assert (accounts.errors, accounts.anomalies, accounts.lines) == (3, 1, 1)


async def test_examples_are_bounded_and_the_rest_is_counted(house: House) -> None:
    house.scores = house.scores[:100]
    house.anomalies.clear()
    house.objects.clear()
    house.sink_at = 0
    (finding,) = (await house.count()).findings
    assert finding.kind is FindingKind.LOST
    assert finding.count == RECORDS - 101
    assert len(finding.examples) == EXAMPLES_MAX
    assert finding.examples[0] == "0/101"
    assert str(finding).startswith("lost record: 199 (")
    assert str(finding).endswith("0/105, …")


async def test_a_missing_object_is_named_by_the_claim_that_names_it(house: House) -> None:
    gone = "2026/11/23/06/gone.json"
    claim = claim_of({gone: b"1\n2\n3\n"})
    await house.store.create(claim.key, encode(claim))
    house.objects.clear()
    accounts = await house.count()
    assert kinds(accounts) == {FindingKind.MISSING_LINE: 3, FindingKind.MISSING_OBJECT: 1}
    missing = next(finding for finding in accounts.findings if finding.kind is FindingKind.MISSING_OBJECT)
    assert missing.examples == (f"{gone} (3 lines)",)


def _swap_lines(house: House) -> None:
    first, *rest = house.objects[OBJECT]
    house.tampered[OBJECT] = b"".join(text + b"\n" for text in (*rest, first))


def _drop_last_newline(house: House) -> None:
    house.tampered[OBJECT] = b"\n".join(house.objects[OBJECT])


def _remove_the_claims(house: House) -> None:
    house.unclaimed.add(OBJECT)


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (_swap_lines, FindingKind.DIFFERENT_OBJECT),
        (_drop_last_newline, FindingKind.DIFFERENT_OBJECT),
        (_remove_the_claims, FindingKind.UNCLAIMED_OBJECT),
    ],
    ids=lambda value: value.__name__.lstrip("_") if callable(value) else "",
)
async def test_an_object_that_is_not_as_claimed_is_named_though_its_lines_are_right(
    house: House, break_it: Break, expected: FindingKind
) -> None:
    break_it(house)
    (finding,) = (await house.count()).findings
    assert (finding.kind, finding.count, finding.examples) == (expected, 1, (OBJECT,))


async def test_what_another_pipeline_wrote_is_left_out(house: House) -> None:
    house.scores += [line(n, 2.0, pipeline="other") for n in (20, 21, 9999)]
    house.errors.append(error_line(22, pipeline="other"))
    house.anomalies.append(line(20, 2.0, pipeline="other"))
    theirs = {"2026/11/23/06/other-anomalies-0-x-0.json": house.anomalies[-1] + b"\n"}
    claim = claim_of(theirs, pipeline="other")
    await house.store.create(claim.key, encode(claim))
    await house.store.create(*theirs.popitem())
    accounts = await house.count()
    assert accounts.findings == ()
    assert (accounts.produced, accounts.scored, accounts.errors) == (RECORDS, RECORDS - 1, 1)
    assert (accounts.anomalies, accounts.lines) == (3, 3)


async def test_what_a_setting_gave_up_is_reported(house: House) -> None:
    lost = Lost(
        pipeline=SPEC.name,
        stream=SPEC.destination,
        partition="0",
        start=Position(0),
        end=Position(3),
        missing=(OBJECT,),
        why="the disk burnt",
    )
    await house.store.create(lost.key, encode(lost))
    (finding,) = (await house.count()).findings
    assert finding.kind is FindingKind.GIVEN_UP
    assert finding.examples == ("the disk burnt",)


async def test_claims_are_no_objects_and_an_unreadable_one_is_named(house: House) -> None:
    key = ChainId(SPEC.name, SPEC.destination, "0").claim_key(Position(0))
    await house.store.create(key, b"not a claim")
    accounts = await house.count()
    assert accounts.objects == (OBJECT,)
    assert kinds(accounts) == {FindingKind.UNREADABLE_CLAIM: 1}


async def test_objects_on_either_side_of_the_claims_are_counted(house: House) -> None:
    first, *rest = house.objects.pop(OBJECT)
    house.objects = {"2026/a.json": [first], "zone/b.json": rest}
    await house.store.create("_cutbank/between", b"")
    accounts = await house.count()
    assert accounts.objects == ("2026/a.json", "zone/b.json")
    assert accounts.balanced


async def test_lines_about_records_past_retention_are_left_out(tmp_path: Path) -> None:
    clock, metrics = ManualClock(), NoMetrics()
    async with (
        open_local(f"local://{tmp_path}/log.db", clock=clock, metrics=metrics) as transport,
        open_store(f"file://{tmp_path}/anomalies", clock=clock, metrics=metrics) as store,
    ):
        for name in (SPEC.source, SPEC.scores, SPEC.errors, SPEC.destination):
            await transport.ensure(StreamConfig(name))
        for numbers in (range(10), range(10, 20)):
            await transport.publish([Message(SPEC.source, b"{}") for _ in numbers])
            await transport.publish([Message(SPEC.scores, line(n, 2.0)) for n in numbers])
            await transport.publish([Message(SPEC.destination, line(n, 2.0)) for n in numbers])
            objects = {f"2026/{numbers.start}.json": b"".join(line(n, 2.0) + b"\n" for n in numbers)}
            claim = claim_of(objects, start=numbers.start)
            await store.create(claim.key, encode(claim))
            await store.create(*objects.popitem())
            clock.jump_wall(DAY_MS // 2 + 1)
        await transport.expire()
        await store.create("_cutbank/x", b"")
        accounts = await recount(transport, store, SPEC, labels=None)
    assert accounts.findings == ()
    assert (accounts.produced, accounts.scored, accounts.anomalies, accounts.lines) == (10, 10, 10, 10)
    assert accounts.past_retention == 10
    assert len(accounts.objects) == 2


@pytest.mark.parametrize(
    "fields",
    [
        None,
        "0/5",
        {},
        source(5) | {"position": "x"},
        source(5) | {"run": "1"},
        source(5) | {"partition": 0},
        source(5) | {"position": 5},
        source(5) | {"run": True},
        source(5) | {"pipeline": None},
        {"run": 1, "partition": "0", "position": "5", "ordinal": 0},
    ],
)
def test_what_is_no_source_is_refused(fields: object) -> None:
    with pytest.raises(ValueError, match=r"SOURCE|position"):
        source_id({"SOURCE": fields}, pipeline=SPEC.name)


def test_a_source_of_two_parts_is_read() -> None:
    row = {"SOURCE": source(0, run=3, partition="shardId-1") | {"position": "7.2", "ordinal": 1}}
    found = source_id(row, pipeline=SPEC.name)
    assert found == SourceId("shardId-1", 7 << 64 | 2, 3, 1)
    assert str(found) == "shardId-1/7.2 (run 3)"


def test_positions_wider_than_64_bits_are_kept() -> None:
    def batch(*positions: int) -> Batch:
        found = [Position(position) for position in positions]
        count = len(found)
        return Batch(
            Partition("s", "0"), found[0], Position(found[-1] + 1), found, [0] * count, [None] * count, [b""] * count
        )

    ledger = Ledger(Position(0))
    ledger.take(batch(1, 2))
    ledger.take(batch(3, 1 << 70, 1 << 200))
    assert list(ledger.positions) == [1, 2, 3, 1 << 70, 1 << 200]
    assert len(ledger.flags) == 5
    assert ledger.index(1 << 70) == 3
    assert ledger.index(4) is None
