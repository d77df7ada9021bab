"""A partition's model: each record once, in order, whatever the batches; bad records leave no trace in the scores."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import orjson
import pytest

from cutbank import detectors
from cutbank.errors import SnapshotUnusable, UsageError
from cutbank.pipeline.scoring.lines import stream_text
from cutbank.pipeline.scoring.model import Counts, DetectorSource, Emit, PartitionModel, registered
from cutbank.pipeline.scoring.snapshots import Birth, Run
from cutbank.pipeline.spec import Column, DetectorSpec, PipelineSpec
from cutbank.records import Batch, Partition, Position
from cutbank.testing.detectors import ChainDetector, chain_detectors
from cutbank.transports.base import RECORD_BYTES_MAX, Output
from scoring_stage import DETECTORS, P0, SPEC, trade, trades

RUN = Run(pipeline="p", partition=P0, identity="i", number=3, spec_hash="h")


def batch(values: Sequence[bytes], *, first: int = 0, step: int = 1, arrivals_ms: Sequence[int] | None = None) -> Batch:
    """Records at `first`, `first + step`, …"""
    positions = [Position(first + step * index) for index in range(len(values))]
    return Batch(
        partition=P0,
        start=Position(first),
        end=Position(first + step * len(values)),
        positions=positions,
        arrivals_ms=arrivals_ms or [1000 + first + index for index in range(len(values))],
        keys=[None] * len(values),
        values=values,
    )


def model(*, emit: Emit = "anomalies", spec: PipelineSpec = SPEC, start: int = 0) -> PartitionModel:
    return PartitionModel.born(spec, Birth(run=RUN, start=Position(start)), DETECTORS, emit=emit)


def lines(outputs: Sequence[Output], stream: str) -> list[dict[str, object]]:
    return [orjson.loads(output.value) for output in outputs if output.stream == stream]


def test_an_anomaly_is_what_scores_over_the_threshold_with_its_identity() -> None:
    scored = model(emit="all").apply(batch(trades(50)))
    scores = lines(scored.outputs, "scores")
    expected = ChainDetector(dimensions=2, share=0.3).score_then_learn(
        np.array([[100.0 + number / 7, number] for number in range(50)])
    )
    assert [line["ANOMALY_SCORE"] for line in scores] == expected.tolist()
    anomalies = lines(scored.outputs, "anomalies")
    assert anomalies == [line for line in scores if float(str(line["ANOMALY_SCORE"])) > SPEC.threshold]
    assert len(anomalies) == scored.anomalies > 5
    assert scores[7]["SOURCE"] == {
        "pipeline": RUN.pipeline,
        "stream": stream_text("trades", RUN.identity),
        "run": 3,
        "partition": "0",
        "position": "7",
        "ordinal": 0,
    }


def test_a_score_at_the_threshold_is_no_anomaly() -> None:
    first = lines(model(emit="all").apply(batch(trades(1))).outputs, "scores")[0]["ANOMALY_SCORE"]
    at = SPEC.model_copy(update={"threshold": first})
    below = SPEC.model_copy(update={"threshold": float(str(first)) - 1e-9})
    assert model(spec=at).apply(batch(trades(1))).anomalies == 0
    assert model(spec=below).apply(batch(trades(1))).anomalies == 1


def test_outputs_come_in_the_order_of_their_records() -> None:
    values = [trade(0), b"{", trade(1), b"[]", *trades(20, first=2), b""]
    outputs = model(emit="all").apply(batch(values)).outputs
    places = [int(orjson.loads(output.value)["SOURCE"]["position"]) for output in outputs]
    assert places == sorted(places)
    assert {output.stream for output in outputs} == {"anomalies", "errors", "scores"}


def test_a_bad_record_leaves_no_trace_in_its_neighbours_scores() -> None:
    clean = model(emit="all").apply(batch(trades(40)))
    values: list[bytes] = []
    for value in trades(40):
        values += [value, b"{", b'{"price":null,"quantity":1}', b"\xff"]
    poisoned = model(emit="all").apply(batch(values))
    assert [line["ANOMALY_SCORE"] for line in lines(poisoned.outputs, "scores")] == [
        line["ANOMALY_SCORE"] for line in lines(clean.outputs, "scores")
    ]
    assert len(lines(poisoned.outputs, "errors")) == 120
    assert poisoned.errors == {"invalid_json": 40, "null_feature": 40, "invalid_utf8": 40}
    assert (poisoned.records, poisoned.scored) == (160, 40)


class TestDeliveredAgain:
    def test_the_same_batch_again_changes_nothing(self) -> None:
        subject = model()
        subject.apply(batch(trades(20)))
        before = subject.frozen()
        again = subject.apply(batch(trades(20)))
        assert (again.outputs, again.records, again.start, again.end) == ((), 0, 20, 20)
        assert subject.frozen() == before

    def test_what_overlaps_is_skipped_and_the_rest_counts(self) -> None:
        whole = model(emit="all").apply(batch(trades(30)))
        subject = model(emit="all")
        first = subject.apply(batch(trades(20)))
        second = subject.apply(batch(trades(20, first=10), first=10))
        assert [*first.outputs, *second.outputs] == whole.outputs
        assert second.records == 10

    def test_an_older_batch_changes_nothing(self) -> None:
        subject = model()
        subject.apply(batch(trades(20)))
        before = subject.frozen()
        subject.apply(batch(trades(5)))
        assert subject.frozen() == before

    def test_a_gap_before_a_batch_is_our_bug(self) -> None:
        with pytest.raises(AssertionError, match="missing"):
            model().apply(batch(trades(5), first=1))

    def test_another_partitions_batch_is_our_bug(self) -> None:
        with pytest.raises(AssertionError, match="another partition"):
            model().apply(replace(batch(trades(5)), partition=Partition("trades", "1")))


def test_positions_need_not_be_contiguous() -> None:
    subject = model(emit="all")
    scored = subject.apply(batch(trades(10), step=1 << 70))
    assert subject.next == 10 << 70
    dense = model(emit="all").apply(batch(trades(10)))
    assert [line["ANOMALY_SCORE"] for line in lines(scored.outputs, "scores")] == [
        line["ANOMALY_SCORE"] for line in lines(dense.outputs, "scores")
    ]


def test_an_empty_batch_moves_only_the_position() -> None:
    subject = model()
    scored = subject.apply(replace(batch([]), end=Position(9)))
    assert (scored.start, scored.end, scored.outputs, scored.records) == (0, 9, (), 0)
    assert subject.frozen().records == 0


class TestRowtime:
    def rowtimes(self, scored: Sequence[Output]) -> list[str]:
        return [str(line["ROWTIME"])[-7:] for line in lines(scored, "scores")]

    def test_never_goes_back_within_a_batch_or_from_one_to_the_next(self) -> None:
        subject = model(emit="all")
        first = subject.apply(batch(trades(4), arrivals_ms=[5000, 4000, 6000, 1]))
        second = subject.apply(batch(trades(3), first=4, arrivals_ms=[10, 5999, 7000]))
        assert self.rowtimes(first.outputs) == ["05.000Z", "05.000Z", "06.000Z", "06.000Z"]
        assert self.rowtimes(second.outputs) == ["06.000Z", "06.000Z", "07.000Z"]

    def test_never_goes_back_over_a_snapshot(self) -> None:
        subject = model()
        subject.apply(batch(trades(1), arrivals_ms=[9000]))
        thawed = PartitionModel.thawed(SPEC, subject.frozen(), DETECTORS, emit="all")
        assert self.rowtimes(thawed.apply(batch(trades(1), first=1, arrivals_ms=[8000])).outputs) == ["09.000Z"]

    def test_a_bad_records_arrival_counts_too(self) -> None:
        subject = model(emit="all")
        scored = subject.apply(batch([b"{", trade(0)], arrivals_ms=[9000, 8000]))
        assert self.rowtimes(scored.outputs) == ["09.000Z"]
        assert lines(scored.outputs, "errors")[0]["ERROR_TIME"] == "1970-01-01T00:00:09.000Z"


class TestTooLarge:
    large = orjson.dumps({**orjson.loads(trade(1)), "tickerSymbol": "A" * (RECORD_BYTES_MAX - 150)})

    def test_an_anomaly_too_large_is_one_error_and_the_model_knows_it(self) -> None:
        spec = SPEC.model_copy(update={"threshold": 0.0})
        whole = model(spec=spec, emit="all").apply(batch([trade(0), self.large, trade(2)]))
        assert whole.errors == {"anomaly_too_large": 1}
        assert (whole.scored, whole.anomalies) == (2, 2)
        error = lines(whole.outputs, "errors")[0]
        assert error["ERROR_NAME"] == "anomaly_too_large"
        assert error["DATA_BYTES"] == len(self.large)
        plain = model(spec=spec).apply(batch(trades(3)))
        assert [line["ANOMALY_SCORE"] for line in lines(whole.outputs, "anomalies")] == [
            line["ANOMALY_SCORE"] for index, line in enumerate(lines(plain.outputs, "anomalies")) if index != 1
        ]

    def test_a_large_record_that_is_no_anomaly_is_no_error(self) -> None:
        spec = SPEC.model_copy(update={"threshold": 9.0})
        assert model(spec=spec).apply(batch([self.large])).errors == {}

    def test_with_emit_all_its_score_line_is_too_large_as_well(self) -> None:
        spec = SPEC.model_copy(update={"threshold": 9.0})
        assert model(spec=spec, emit="all").apply(batch([self.large])).errors == {"anomaly_too_large": 1}


class TestReplay:
    def test_leaves_the_model_as_apply_does_and_makes_no_output(self) -> None:
        values = [*trades(30), b"{", *trades(30, first=30)]
        live, replayed = model(), model()
        live.apply(batch(values))
        scored = replayed.replay(batch(values))
        assert scored.outputs == []
        assert replayed.frozen() == live.frozen()

    def test_goes_on_bit_identically_from_a_snapshot(self) -> None:
        live = model(emit="all")
        live.apply(batch(trades(30)))
        thawed = PartitionModel.thawed(SPEC, live.frozen(), DETECTORS, emit="all")
        later = batch(trades(30, first=30), first=30)
        assert thawed.apply(later).outputs == live.apply(later).outputs
        assert thawed.frozen() == live.frozen()
        assert thawed.counts == Counts(records=60, errors=0, anomalies=thawed.counts.anomalies)


class TestThawing:
    def test_another_state_is_unusable(self) -> None:
        frozen = replace(model().frozen(), detector=b"no detector")
        with pytest.raises(SnapshotUnusable):
            PartitionModel.thawed(SPEC, frozen, DETECTORS)

    def test_another_number_of_features_is_unusable(self) -> None:
        with pytest.raises(SnapshotUnusable, match="takes 3 features, the spec has 2"):
            PartitionModel.thawed(
                SPEC, replace(model().frozen(), detector=ChainDetector(dimensions=3).to_bytes()), DETECTORS
            )

    def test_another_algorithm_version_is_unusable(self) -> None:
        with pytest.raises(SnapshotUnusable, match="algorithm version 1, not 2"):
            PartitionModel.thawed(SPEC, model().frozen(), replace(DETECTORS, algorithm_version=2))


def test_arrivals_that_no_calendar_has_stop_nothing() -> None:
    """Neither the batch, nor the records after it, nor a snapshot between."""
    nonsense = replace(batch(trades(4)), arrivals_ms=[-(2**63), 2**63 - 1, 5, 2**63 - 1])
    live = model(emit="all")
    rowtimes = [str(line["ROWTIME"]) for line in lines(live.apply(nonsense).outputs, "scores")]
    assert rowtimes[0].startswith("1970-"), "the clamp begins there"
    assert [text[:4] for text in rowtimes[1:]] == ["9999"] * 3
    thawed = PartitionModel.thawed(SPEC, live.frozen(), DETECTORS, emit="all")
    later = batch(trades(3, first=4), first=4)
    assert thawed.apply(later).outputs == live.apply(later).outputs


class TestRegistered:
    def test_the_specs_detector_with_its_parameters(self) -> None:
        spec = PipelineSpec(detector=DetectorSpec(name="rcf", number_of_trees=5, sub_sample_size=10, seed=3))
        source = registered(spec)
        expected = detectors.create("rcf", dimensions=2, number_of_trees=5, sub_sample_size=10, seed=3)
        assert source.create().to_bytes() == expected.to_bytes()
        assert source.algorithm_version == detectors.algorithm_version("rcf")
        assert source.restore(expected.to_bytes()).name == "rcf"

    def test_a_model_over_the_limit_is_refused_before_the_first_record(self) -> None:
        columns = tuple(Column(name=f"f{number}", type="DOUBLE") for number in range(30))
        large = DetectorSpec(name="rcf", number_of_trees=1000, sub_sample_size=1000, shingle_size=30)
        spec = PipelineSpec(columns=columns, features=tuple(column.name for column in columns), detector=large)
        with pytest.raises(UsageError, match="lower number_of_trees"):
            registered(spec).model_bytes()

    async def test_a_real_forest_goes_on_bit_identically_from_a_snapshot(self) -> None:
        spec = PipelineSpec(detector=DetectorSpec(name="rcf", number_of_trees=10, sub_sample_size=16))
        source = registered(spec)
        birth = Birth(run=RUN, start=Position(0))
        live = PartitionModel.born(spec, birth, source, emit="all")
        await asyncio.to_thread(live.apply, batch(trades(60)))
        thawed = PartitionModel.thawed(spec, live.frozen(), source, emit="all")
        later = batch(trades(60, first=60), first=60)
        assert thawed.apply(later).outputs == live.apply(later).outputs
        assert thawed.frozen() == live.frozen()


def test_a_detector_of_another_width_is_refused() -> None:
    source: DetectorSource = chain_detectors(dimensions=3)
    with pytest.raises(ValueError, match="takes 3 features, the spec has 2"):
        PartitionModel.born(SPEC, Birth(run=RUN, start=Position(0)), source)
