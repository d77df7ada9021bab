"""Scoring alone, without log and store: decoding, and the whole of a batch's way from values to lines.

    python benchmarks/scoring.py

Each figure is the best of several passes over the same records (two features, about 128 bytes) in batches as the
scorer's default cuts them, on one thread. The last line is JSON: records/s by stage.
"""

import json
import random
import time
from collections.abc import Callable, Sequence

import orjson

from cutbank.pipeline.scoring import DetectorSource, PartitionModel, ScorerConfig
from cutbank.pipeline.scoring.decode import Decoder
from cutbank.pipeline.scoring.model import registered
from cutbank.pipeline.scoring.snapshots import Birth, Run, snapshot_bytes
from cutbank.pipeline.spec import DetectorSpec, PipelineSpec
from cutbank.records import Batch, Partition, Position
from cutbank.testing.detectors import chain_detectors

BATCH_RECORDS = ScorerConfig().batch_records_max
PASSES = 3
PARTITION = Partition("trades", "0")


def trades(count: int) -> list[bytes]:
    """Records like the demo's: 5 % with a price and quantity 2 to 3 times as high."""
    rng = random.Random(7)
    values = []
    for number in range(count):
        factor = rng.uniform(2.0, 3.0) if rng.random() < 0.05 else 1.0
        record = {
            "tickerSymbol": rng.choice(("AMZN", "AAPL", "GOOGL", "MSFT", "TSLA")),
            "tradeType": rng.choice(("BUY", "SELL")),
            "price": round(rng.gauss(100.0, 5.0) * factor, 2),
            "quantity": round(rng.gauss(500.0, 50.0) * factor),
            "id": number,
        }
        values.append(orjson.dumps(record))
    return values


def batches(values: Sequence[bytes]) -> list[Batch]:
    cut = []
    for first in range(0, len(values), BATCH_RECORDS):
        part = values[first : first + BATCH_RECORDS]
        positions = [Position(first + index) for index in range(len(part))]
        cut.append(
            Batch(
                partition=PARTITION,
                start=Position(first),
                end=Position(first + len(part)),
                positions=positions,
                arrivals_ms=[1_795_388_400_000 + position for position in positions],
                keys=[None] * len(part),
                values=part,
            )
        )
    return cut


def best(records: int, once: Callable[[], object], *, passes: int = PASSES) -> int:
    """Records a second in the best of several passes."""
    took_s = []
    for _ in range(passes):
        began_s = time.perf_counter()
        once()
        took_s.append(time.perf_counter() - began_s)
    return round(records / min(took_s))


def scoring(spec: PipelineSpec, source: DetectorSource, cut: Sequence[Batch], *, emit: str = "anomalies") -> int:
    records = sum(map(len, cut))
    run = Run(pipeline=spec.name, partition=PARTITION, identity="", number=1, spec_hash="")

    def once() -> None:
        model = PartitionModel.born(
            spec, Birth(run=run, start=Position(0)), source, emit="all" if emit == "all" else "anomalies"
        )
        seen = sum(model.apply(batch).scored for batch in cut)
        assert seen == records

    return best(records, once, passes=PASSES if records > 50_000 else 1)


def snapshot(spec: PipelineSpec, source: DetectorSource, cut: Sequence[Batch]) -> dict[str, float]:
    run = Run(pipeline=spec.name, partition=PARTITION, identity="", number=1, spec_hash="")
    model = PartitionModel.born(spec, Birth(run=run, start=Position(0)), source)
    model.apply(cut[0])
    began_s = time.perf_counter()
    body = snapshot_bytes(model.frozen())
    froze_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    PartitionModel.thawed(spec, model.frozen(), source)
    return {
        "snapshot_bytes": len(body),
        "snapshot_freeze_s": round(froze_s, 4),
        "snapshot_thaw_s": round(time.perf_counter() - began_s, 4),
    }


def measure(*, records: int = 200_000) -> dict[str, float]:
    """Records/s of each stage alone."""
    values = trades(records)
    cut = batches(values)
    spec = PipelineSpec()
    decoder = Decoder(spec)
    poisoned = [b"{" if index % 1000 == 0 else value for index, value in enumerate(values)]
    chain = chain_detectors(dimensions=2, share=0.05)
    default = registered(spec)
    default.self_check()  # compiles
    some = cut[: max(1, 20_000 // BATCH_RECORDS)]
    figures: dict[str, float] = {
        "decode_records_per_s": best(records, lambda: [decoder.decode(batch.values) for batch in cut]),
        "decode_with_bad_records_per_s": best(
            records, lambda: [decoder.decode(batch.values) for batch in batches(poisoned)]
        ),
        "chain_records_per_s": scoring(spec, chain, cut),
        "chain_emit_all_records_per_s": scoring(spec, chain, cut, emit="all"),
        f"{spec.detector.name}_records_per_s": scoring(spec, default, some),
    }
    for name in ("rcf", "hst"):
        chosen = PipelineSpec(detector=DetectorSpec(name=name))
        figures[f"{name}_records_per_s"] = scoring(chosen, registered(chosen), some)
    return figures | snapshot(spec, default, some)


if __name__ == "__main__":
    print(json.dumps(measure()))
