"""Bad records of every kind: each has its reason and its one error line, and no neighbour notices."""

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bad_input.through_the_scorer import Plan, run
from cutbank.pipeline.scoring.decode import Decoder, Reason
from cutbank.pipeline.scoring.lines import ERROR_PAYLOAD_BYTES_MAX
from cutbank.pipeline.scoring.model import DetectorSource, PartitionModel, registered
from cutbank.pipeline.scoring.snapshots import Birth, Run
from cutbank.pipeline.spec import Column, DetectorSpec, PipelineSpec
from cutbank.records import Batch, Partition, Position, position_text
from cutbank.testing.bad_records import Case, RecordMaker, bad_records
from cutbank.testing.detectors import chain_detectors
from cutbank.testing.judging import expected_reason

P0 = Partition("trades", "0")
RUN = Run(pipeline="p", partition=P0, identity="i", number=1, spec_hash="h")
TRADES = PipelineSpec(name="p", threshold=0.0)
SENSORS = PipelineSpec(
    name="p",
    threshold=0.0,
    columns=tuple(
        Column(name=name, type=kind)
        for name, kind in (
            ("t \u00b0C", "REAL"),
            ("n", "TINYINT"),
            ("on \U0001f600", "BOOLEAN"),
            ("self", "VARCHAR(9)"),
            ("x", "DOUBLE"),
        )
    ),
    features=("x", "n", "t \u00b0C"),
)
BARE = PipelineSpec(name="p", threshold=0.0, columns=(Column(name="x", type="DOUBLE"),), features=("x",))
SPECS = {"trades": TRADES, "sensors": SENSORS, "bare": BARE}
LARGE = ("too large", "too large, of nothing", "deep and large", "as large as may be", "not UTF-8 at the end")
LARGE_LINES = ("line too large", "line grown too large")


def records(spec: PipelineSpec, seed: int, count: int, *, large_share: float = 0.0) -> list[Case]:
    return list(itertools.islice(bad_records(spec, seed=seed, large_share=large_share), count))


def log_of(cases: Sequence[Case], rng: random.Random) -> Batch:
    """The records at positions with gaps, arriving one after another."""
    positions = list(itertools.accumulate(rng.randrange(1, 4) for _ in cases))
    return Batch(
        partition=P0,
        start=Position(0),
        end=Position(positions[-1] + rng.randrange(1, 4)) if positions else Position(0),
        positions=[Position(position) for position in positions],
        arrivals_ms=list(itertools.accumulate(rng.randrange(50) for _ in cases)),
        keys=[None] * len(cases),
        values=[case.value for case in cases],
    )


def chosen(log: Batch, indices: Sequence[int], *, start: Position, end: Position) -> Batch:
    return Batch(
        partition=P0,
        start=start,
        end=end,
        positions=[log.positions[index] for index in indices],
        arrivals_ms=[log.arrivals_ms[index] for index in indices],
        keys=[None] * len(indices),
        values=[log.values[index] for index in indices],
    )


class Outcome:
    """What a model made of a log, cut into batches as `rng` says."""

    def __init__(
        self,
        spec: PipelineSpec,
        detectors: DetectorSource,
        log: Batch,
        indices: Sequence[int],
        *,
        cuts: Sequence[int] = (),
    ) -> None:
        model = PartitionModel.born(spec, Birth(run=RUN, start=Position(0)), detectors, emit="all")
        self.lines: dict[str, list[bytes]] = {spec.destination: [], spec.scores: [], spec.errors: []}
        edges = sorted({0, len(indices), *(cut for cut in cuts if cut < len(indices))})
        for first, last in itertools.pairwise(edges):
            end = log.end if last == len(indices) else Position(log.positions[indices[last - 1]] + 1)
            for output in model.apply(chosen(log, indices[first:last], start=model.next, end=end)).outputs:
                self.lines[output.stream].append(output.value)
        self.detector = model.detector.to_bytes()
        self.errors = [orjson.loads(line) for line in self.lines[spec.errors]]


def check_neighbours(spec: PipelineSpec, detectors: DetectorSource, cases: Sequence[Case], *, seed: int) -> None:
    """With the bad records and without them: the same lines, the same model; and each bad record said once."""
    rng = random.Random(seed)
    log = log_of(cases, rng)
    learnt = [index for index, case in enumerate(cases) if case.learnt]
    cuts = [rng.randrange(1, len(cases) + 1) for _ in range(rng.randrange(6))]
    mixed = Outcome(spec, detectors, log, range(len(cases)), cuts=cuts)
    alone = Outcome(spec, detectors, log, learnt)
    for stream in (spec.destination, spec.scores):
        assert mixed.lines[stream] == alone.lines[stream]
    assert len(mixed.lines[spec.scores]) == sum(case.reason is None for case in cases)
    assert mixed.detector == alone.detector
    assert [
        (error["ERROR_NAME"], error["SOURCE"]["position"], error["DATA_ROW"], error["DATA_BYTES"])
        for error in mixed.errors
    ] == [
        (case.reason.value, position_text(position), case.value[:ERROR_PAYLOAD_BYTES_MAX].hex(), len(case.value))
        for case, position in zip(cases, log.positions, strict=True)
        if case.reason is not None
    ]


@pytest.mark.parametrize("name", SPECS)
def test_every_kind_has_the_reason_it_was_made_for(name: str) -> None:
    """Three readings of the rules: how it was made, the judge's, the scorer's."""
    spec = SPECS[name]
    decoder, maker = Decoder(spec), RecordMaker(spec, seed=1)
    for kind in maker.kinds:
        for _ in range(1 if kind in LARGE + LARGE_LINES else 25):
            case = maker.of_kind(kind)
            expected = None if case.reason is Reason.ANOMALY_TOO_LARGE else case.reason
            fault = decoder.decode([case.value]).faults.get(0)
            assert expected_reason(spec, case.value) is expected, case
            assert (fault and fault.reason) == expected, case


def test_the_kinds_give_every_reason_that_a_json_text_can_have() -> None:
    maker = RecordMaker(TRADES, seed=1)
    reasons = {maker.of_kind(kind).reason for kind in maker.kinds if kind != "mutated"}
    assert reasons == {None, *Reason} - {Reason.NOT_FINITE}


def test_kinds_follow_the_spec() -> None:
    kinds = {name: set(RecordMaker(spec, seed=1).kinds) for name, spec in SPECS.items()}
    assert kinds["sensors"] == kinds["trades"] > set(LARGE_LINES)
    assert kinds["trades"] - kinds["bare"] == {"fraction in an integer", *LARGE_LINES}
    with pytest.raises(ValueError, match="no kind 'nonsense'"):
        RecordMaker(BARE, seed=1).of_kind("nonsense")


def test_the_same_seed_gives_the_same_records() -> None:
    assert records(TRADES, 5, 500) == records(TRADES, 5, 500) != records(TRADES, 6, 500)


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_accidents_are_judged_alike(seed: int) -> None:
    decoder, maker = Decoder(TRADES), RecordMaker(TRADES, seed=seed)
    cases = [maker.mutated() for _ in range(50)]
    faults = decoder.decode([case.value for case in cases]).faults
    for index, case in enumerate(cases):
        fault = faults.get(index)
        assert (fault and fault.reason) == case.reason, case


@given(st.integers(0, 2**32), st.sampled_from(sorted(SPECS)), st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_bad_records_are_said_once_and_move_no_neighbour(seed: int, name: str, count: int) -> None:
    spec = SPECS[name]
    detectors = chain_detectors(dimensions=len(spec.features))
    check_neighbours(spec, detectors, records(spec, seed, count), seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_nor_do_records_near_and_over_the_limits(seed: int) -> None:
    maker = RecordMaker(TRADES, seed=seed)
    cases = [case for kind in LARGE + LARGE_LINES for case in (maker.of_kind(kind), maker.good())]
    random.Random(seed).shuffle(cases)
    check_neighbours(TRADES, chain_detectors(dimensions=2), cases, seed=seed)


@pytest.mark.parametrize("name", ["ensemble", "rcf", "hst"])
def test_nor_with_the_detectors_that_users_have(name: str) -> None:
    chosen = DetectorSpec.model_validate({"name": name, "number_of_trees": 20, "sub_sample_size": 32})
    spec = TRADES.model_copy(update={"detector": chosen})
    check_neighbours(spec, registered(spec), records(spec, 3, 600), seed=3)


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda cases: [replace_value(case, b'{"price":1,"quantity":1}') for case in cases],
        lambda cases: [case._replace(reason=Reason.EMPTY) for case in cases],
        lambda cases: [case._replace(reason=None) for case in cases],
    ],
    ids=["learnt after all", "another reason", "not said"],
)
def test_the_check_itself_finds_what_is_wrong(spoilt: Callable[[list[Case]], list[Case]]) -> None:
    maker = RecordMaker(TRADES, seed=2)
    cases = [maker.good(), *spoilt([maker.of_kind("null feature")]), maker.good()]
    with pytest.raises(AssertionError):
        check_neighbours(TRADES, chain_detectors(dimensions=2), cases, seed=1)


def replace_value(case: Case, value: bytes) -> Case:
    return case._replace(value=value)


async def test_through_the_real_scorer_on_a_real_log(tmp_path: Path) -> None:
    plan = Plan(records=3000, seed=4, large_share=0.004, batch_records_max=257)
    tally = await run(plan, tmp_path)
    assert tally.records == plan.records == tally.scored + tally.bad.total()
    assert tally.bad.keys() >= {reason.value for reason in Reason} - {"not_finite", "anomaly_too_large", "too_large"}


async def test_a_record_that_comes_out_otherwise_ends_the_long_form(tmp_path: Path) -> None:
    class Forgetful(Plan):
        calls = 0

        def cases(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
            """The second time, when the output is compared, one bad record is said to be another."""
            cases = list(super().cases())
            Forgetful.calls += 1
            if Forgetful.calls == 2:
                index = next(i for i, case in enumerate(cases) if case.reason is Reason.INVALID_JSON)
                cases[index] = cases[index]._replace(reason=Reason.EMPTY)
            return iter(cases)

    with pytest.raises(AssertionError, match="invalid_json, not empty"):
        await run(Forgetful(records=200, seed=4, large_share=0.0), tmp_path)
