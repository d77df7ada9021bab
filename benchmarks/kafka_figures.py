"""The figures that the scorer on Kafka is held to, and the arithmetic that leads to them. Pure; no I/O.

A figure is read out of the parts' results; one whose part was not run, or gave nothing, is missing and not met.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One row of the table: where the result has it, and what it should be."""

    name: str
    path: tuple[str, ...]
    limit: float
    aim: float | None = None
    smaller: bool = False
    """Whether less is better: then `limit` and `aim` are the most, else the least."""

    def told(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """With what was found beside what it should be."""
        found = _at(results, self.path)
        told: dict[str, Any] = {"found": found, "at_most" if self.smaller else "at_least": self.limit}
        told["met"] = self._reaches(found, self.limit)
        if self.aim is not None:
            told |= {"aim": self.aim, "aim_met": self._reaches(found, self.aim)}
        return told

    def _reaches(self, found: float | None, wanted: float) -> bool:
        return found is not None and (found <= wanted if self.smaller else found >= wanted)


FIGURES = (
    Figure("share of reader and detector", ("throughput", "share_of_reader_and_detector"), 0.8, 1.0),
    Figure("constant detector over reader", ("constant", "share_of_bare_reader"), 0.5, 0.7),
    Figure("two scorers over one, records per CPU-s", ("scaling", "two_over_one_records_per_cpu_s"), 0.9),
    Figure("arrival to visible, p50 ms", ("latency", "p50_ms"), 20.0, 10.0, smaller=True),
    Figure("arrival to visible, p99 ms", ("latency", "p99_ms"), 100.0, 40.0, smaller=True),
    Figure("memory behind 1000000, MB", ("memory", "behind_1000000", "peak_mb"), 350.0, 250.0, smaller=True),
    Figure("memory behind 10000000, MB", ("memory", "behind_10000000", "peak_mb"), 350.0, 250.0, smaller=True),
    Figure("replay over live", ("throughput", "replay_over_live"), 1.0),
)


def told_figures(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All of them, by name."""
    return {figure.name: figure.told(results) for figure in FIGURES}


def _at(results: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = results
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value if isinstance(value, int | float) else None


def ideal_records_per_s(reader: float, detector: float) -> float:
    """Of a reader and a detector that take turns: each record costs both their times."""
    return 1.0 / (1.0 / reader + 1.0 / detector)


def medians(passes: Iterable[Mapping[str, Any]], *names: str) -> dict[str, Any]:
    """The median of each figure over the passes, None where one of them has none, and every pass whole."""
    passes = list(passes)
    result: dict[str, Any] = {}
    for name in names:
        found = [one[name] for one in passes]
        result[name] = None if None in found else round(statistics.median(found), 3)
    return result | {"passes": passes}


def percentiles(took_ms: Sequence[float]) -> dict[str, float]:
    """Of what was seen, every record alike."""
    cuts = statistics.quantiles(took_ms, n=1000, method="inclusive")
    return {
        "p50_ms": round(cuts[499], 1),
        "p99_ms": round(cuts[989], 1),
        "p999_ms": round(cuts[998], 1),
        "max_ms": round(max(took_ms), 1),
        "records": len(took_ms),
    }


def replay_pace(began: Sequence[Mapping[str, Any]], ended: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """From a service's log lines `replaying` and `replayed`; None where a snapshot left nothing to replay."""
    if not began or not ended:
        return None
    seconds = max(moment_s(ended[0]["time"]) - moment_s(began[0]["time"]), 1e-3)
    count = began[0]["end"] - began[0]["start"]
    return {"records_per_s": round(count / seconds), "records": count, "seconds": round(seconds, 2)}


def replay_over_live(replay: Mapping[str, float] | None, *, records: int, live_per_s: float) -> float | None:
    """A replay's pace over the live one; None where it was of another stretch, since a snapshot fell into the run."""
    if replay is None or replay["records"] != records:
        return None
    return round(replay["records_per_s"] / live_per_s, 3)


def pace_since(live: Sequence[Mapping[str, Any]], records: int, ended_s: float) -> float:
    """Records/s from a service's log line `live`, before its first record, to the last: what a replay is held against.

    A young forest takes most records into its sample, so the first thousands cost more than those after a warm-up.
    """
    return records / (ended_s - moment_s(live[0]["time"]))


def moment_s(text: str) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def latency_records_per_s(most: int, detectors: Iterable[float]) -> int:
    """The rate at which latency is looked at: `most`, or half of what the detector takes, if that is less."""
    found = list(detectors)
    return min(most, int(statistics.median(found) / 2)) if found else most
