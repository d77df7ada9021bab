"""Every metric of Cutbank, in one table, and the Prometheus sink that refuses all others.

Owns names, helps, labels and buckets. A name, label or use that the table does not have raises UndeclaredMetric at
once: that is a bug of ours, never the world's. Thread-safe; each sink has a registry of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Buckets of every duration: from a kernel call to a minute's object."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS


METRICS: tuple[Metric, ...] = (
    Metric("cutbank_records_produced_total", "counter", "Records that the producer published."),
    Metric("cutbank_records_scored_total", "counter", "Records that were scored; bad ones are not."),
    Metric("cutbank_anomalies_total", "counter", "Records over the threshold."),
    Metric("cutbank_record_errors_total", "counter", "Bad records sent to the error stream.", ("reason",)),
    Metric("cutbank_snapshots_total", "counter", "Snapshots written."),
    Metric(
        "cutbank_snapshots_unusable_total", "counter", "Snapshots passed over: corrupt, cut off or of another spec."
    ),
    Metric("cutbank_runs_started_total", "counter", "Runs born: a model's life under one spec."),
    Metric("cutbank_replayed_records_total", "counter", "Records learnt again after a restart, without output."),
    Metric("cutbank_objects_created_total", "counter", "Data objects put."),
    Metric("cutbank_object_bytes_total", "counter", "Bytes of the data objects put."),
    Metric("cutbank_claims_created_total", "counter", "Claims that this sink made."),
    Metric("cutbank_claims_adopted_total", "counter", "Claims of somebody else that this sink finished."),
    Metric("cutbank_repeats_dropped_total", "counter", "Anomalies dropped because they were seen before."),
    Metric("cutbank_others_left_out_total", "counter", "Anomalies of other pipelines, left to their own sinks."),
    Metric(
        "cutbank_partitions_given_up_total", "counter", "Partitions given up: fenced, or an unknown outcome.", ("role",)
    ),
    Metric(
        "cutbank_partitions_retaken_total", "counter", "Partitions taken up again after they were given up.", ("role",)
    ),
    Metric("cutbank_retries_total", "counter", "Calls tried again.", ("operation",)),
    Metric("cutbank_partitions_held", "gauge", "Partitions that this process holds now.", ("role",)),
    Metric("cutbank_partitions_stopped", "gauge", "Partitions stopped until somebody acts; alert above 0.", ("role",)),
    Metric(
        "cutbank_group_stuck",
        "gauge",
        "1 while a group, or a partition held, has given no answer for stuck_ms (Kafka); alert above 0.",
        ("group",),
    ),
    Metric(
        "cutbank_group_partitions_waiting",
        "gauge",
        "Partitions that wait because this process holds leases_max of them (Kafka); alert above 0.",
        ("group",),
    ),
    Metric("cutbank_partitions_waiting", "gauge", "Partitions that wait for room for their model; alert above 0."),
    Metric("cutbank_models_bytes", "gauge", "Memory of the models in this process, live and kept, as computed, bytes."),
    Metric(
        "cutbank_lag_records",
        "gauge",
        "Records that are not handled yet: beyond the reading position; with a scorer also those in hand, but not "
        "what it learns again; with a sink also those on their way into an object.",
        ("role", "partition"),
    ),
    Metric(
        "cutbank_lag_seconds",
        "gauge",
        "Scorer: how long the oldest record has waited that is not published, or, while it is unread, the newest one "
        "read before it; after a start at most the time since. Sink: age of the newest record read. 0 without lag.",
        ("role", "partition"),
    ),
    Metric("cutbank_snapshot_age_seconds", "gauge", "Age of the newest snapshot, seconds.", ("partition",)),
    Metric("cutbank_score_seconds", "histogram", "Scoring of one batch, seconds."),
    Metric("cutbank_publish_seconds", "histogram", "One publish or publish-and-commit, seconds."),
    Metric(
        "cutbank_arrival_to_published_seconds",
        "histogram",
        "From an anomalous record's arrival to its anomaly's publication, seconds; once an anomaly.",
    ),
    Metric(
        "cutbank_store_away_seconds",
        "gauge",
        "For how long the object store has answered no call while the sink asks; 0 while it answers; alert above 300.",
    ),
    Metric("cutbank_object_put_seconds", "histogram", "One put of a data object, seconds."),
    Metric("cutbank_event_loop_late_seconds", "histogram", "How late the event loop came to a beat due, seconds."),
    Metric("cutbank_ready", "gauge", "1 while every check of /readyz is ok."),
    Metric("cutbank_build_info", "gauge", "Always 1; says what runs.", ("service", "version")),
)


class UndeclaredMetric(AssertionError):
    """A bug: the code names a metric, label or kind that the table does not have."""


_Child = Counter | Gauge | Histogram


class PrometheusMetrics:
    """`cutbank.metrics.Metrics` over a Prometheus registry of its own."""

    def __init__(self, declared: tuple[Metric, ...] = METRICS) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._declared = {metric.name: metric for metric in declared}
        self._families = {metric.name: self._family(metric) for metric in declared}
        self._children: dict[tuple[object, ...], _Child] = {}

    def add(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        """Count up by `value` >= 0."""
        child = self._child(name, "counter", labels)
        assert isinstance(child, Counter)
        child.inc(value)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        child = self._child(name, "gauge", labels)
        assert isinstance(child, Gauge)
        child.set(value)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add one observation to a histogram."""
        child = self._child(name, "histogram", labels)
        assert isinstance(child, Histogram)
        child.observe(value)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def value(self, name: str, /, **labels: str) -> float:
        """What a counter or gauge stands at; a histogram's number of observations. 0 where nothing was reported."""
        metric = self._declared_as(name, None, labels)
        sample = name + "_count" if metric.kind == "histogram" else name
        return self.registry.get_sample_value(sample, labels) or 0.0

    def _family(self, metric: Metric) -> _Child:
        match metric.kind:
            case "counter":
                return Counter(metric.name, metric.help, metric.labels, registry=self.registry)
            case "gauge":
                return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)
            case "histogram":
                return Histogram(
                    metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry
                )

    def _declared_as(self, name: str, kind: str | None, labels: dict[str, str]) -> Metric:
        metric = self._declared.get(name)
        if metric is None:
            raise UndeclaredMetric(f"metric {name!r} is not declared in runtime.metrics")
        if kind is not None and metric.kind != kind:
            raise UndeclaredMetric(f"metric {name!r} is a {metric.kind}, not a {kind}")
        if labels.keys() != set(metric.labels):
            raise UndeclaredMetric(f"metric {name!r} has the labels {metric.labels}, not {tuple(labels)}")
        return metric

    def _child(self, name: str, kind: str, labels: dict[str, str]) -> _Child:
        key = (name, kind, *labels.items())
        child = self._children.get(key)
        if child is None:
            self._declared_as(name, kind, labels)
            family = self._families[name]
            child = self._children[key] = family.labels(**labels) if labels else family
        return child


def metrics_markdown(declared: tuple[Metric, ...] = METRICS) -> str:
    """The table as Markdown, for the documentation."""
    return "\n".join(_rows(declared, lambda metric: ", ".join(f"`{label}`" for label in metric.labels))) + "\n"


def _rows(declared: tuple[Metric, ...], labels: Callable[[Metric], str]) -> Iterator[str]:
    yield "| Metric | Kind | Labels | Meaning |"
    yield "|---|---|---|---|"
    for metric in declared:
        yield f"| `{metric.name}` | {metric.kind} | {labels(metric)} | {metric.help} |"
