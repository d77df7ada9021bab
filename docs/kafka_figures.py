"""Makes docs/kafka-figures.md from docs/results/bench-kafka.json, the last line of one run of `make bench-kafka`.

Nothing is typed in by hand but what each part of the run is. Reads one file; writes none.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "bench-kafka.json"

_HEAD = """# Figures on Kafka

One run of `make bench-kafka`, all parts one after another against a real broker: {broker}. Python {python},
{processor}, {cores} cores, which broker, load and services share. Records of 128 bytes, two features. Written by
`make docs` from `docs/results/bench-kafka.json`, which has every pass; where there are three, the median counts.
*Asked* is what we hold ourselves to, *aim* what we would like.

| figure | asked | found | met | aim | met |
|---|---|---|---|---|---|
"""

_PARTS = """
## The parts, each pass

| part | pass 1 | pass 2 | pass 3 |
|---|---|---|---|
"""


def page() -> str:
    """The page. Raises KeyError where the run left a part out."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    head = _HEAD.format(broker=found["broker"], **found["machine"])
    return "".join((head, *_figures(found["figures"]), _PARTS, *_passes(found)))


def _figures(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, row in figures.items():
        asked = f"at least {row['at_least']}" if "at_least" in row else f"at most {row['at_most']}"
        aim = f"{row['aim']} | {_yes(met=row['aim_met'])}" if "aim" in row else "|"
        yield f"| {name} | {asked} | {row['found']} | {_yes(met=row['met'])} | {aim} |\n"


def _yes(*, met: bool) -> str:
    return "yes" if met else "**no**"


def _passes(found: Mapping[str, Any]) -> Iterator[str]:
    wanted: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("scorer service, default detector, records/s", "throughput", ("scorer", "records_per_s")),
        ("the same, µs of processor time a record", "throughput", ("scorer", "cpu_us_per_record")),
        ("bare aiokafka reader with orjson, records/s", "throughput", ("bare_reader_orjson", "records_per_s")),
        ("detector alone, records/s", "throughput", ("detector", "records_per_s")),
        ("replay after kill -9, records/s", "throughput", ("replay", "records_per_s")),
        ("the same stretch live, records/s", "throughput", ("scorer", "records_per_s_from_the_first")),
        ("scorer service, constant detector, records/s", "constant", ("scorer", "records_per_s")),
        ("bare reader with orjson beside it, records/s", "constant", ("bare_reader_orjson", "records_per_s")),
        ("arrival to visible, p50 ms", "latency", ("p50_ms",)),
        ("arrival to visible, p99 ms", "latency", ("p99_ms",)),
        ("the longest of all anomalies, ms", "latency", ("max_ms",)),
        ("the log alone, without a scorer, p99 ms", "latency", ("log_alone", "p99_ms")),
        ("one publish, mean ms", "latency", ("steps", "publish_ms_mean")),
    )
    for name, part, path in wanted:
        values = []
        for one in found[part]["passes"]:
            value: Any = one
            for step in path:
                value = value[step]
            values.append(f"{value:,}")
        yield f"| {name} | {' | '.join(values)} |\n"
