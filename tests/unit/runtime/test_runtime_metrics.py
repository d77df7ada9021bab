"""The metrics' table, and the sink that refuses what is not in it."""

import re
import threading
from collections.abc import Callable

import pytest

from cutbank.metrics import Metrics
from cutbank.runtime.metrics import METRICS, Metric, PrometheusMetrics, UndeclaredMetric, metrics_markdown

Use = Callable[[PrometheusMetrics], object]


@pytest.fixture
def metrics() -> PrometheusMetrics:
    return PrometheusMetrics()


def labels_of(metric: Metric) -> dict[str, str]:
    return dict.fromkeys(metric.labels, "x")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_declared_metric_can_be_used_and_shows(metrics: PrometheusMetrics, metric: Metric) -> None:
    sink: Metrics = metrics
    use = {"counter": sink.add, "gauge": sink.set, "histogram": sink.observe}[metric.kind]
    use(metric.name, 2.0, **labels_of(metric))
    assert metrics.value(metric.name, **labels_of(metric)) == (1.0 if metric.kind == "histogram" else 2.0)
    assert f"# TYPE {metric.name} {metric.kind}" in metrics.exposition().decode()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_rules(metric: Metric) -> None:
    assert re.fullmatch(r"cutbank_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert (metric.kind == "histogram") <= metric.name.endswith(("_seconds", "_bytes"))
    assert metric.help.endswith(".")
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_no_name_is_declared_twice() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda m: m.add("cutbank_typo_total"), "not declared"),
        (lambda m: m.add("cutbank_record_errors_total"), "labels"),
        (lambda m: m.add("cutbank_record_errors_total", reason="empty", extra="x"), "labels"),
        (lambda m: m.add("cutbank_anomalies_total", reason="empty"), "labels"),
        (lambda m: m.set("cutbank_anomalies_total", 1.0), "is a counter"),
        (lambda m: m.add("cutbank_ready"), "is a gauge"),
        (lambda m: m.observe("cutbank_ready", 1.0), "is a gauge"),
        (lambda m: m.value("cutbank_typo_total"), "not declared"),
    ],
)
def test_what_is_not_declared_is_refused_at_once(metrics: PrometheusMetrics, use: Use, said: str) -> None:
    with pytest.raises(UndeclaredMetric, match=said):
        use(metrics)


def test_a_refusal_is_repeated_after_a_right_use(metrics: PrometheusMetrics) -> None:
    metrics.add("cutbank_anomalies_total")
    with pytest.raises(UndeclaredMetric):
        metrics.set("cutbank_anomalies_total", 1.0)


def test_labels_name_the_same_series_in_any_order(metrics: PrometheusMetrics) -> None:
    metrics.set("cutbank_lag_records", 3.0, role="sink", partition="0")
    metrics.set("cutbank_lag_records", 5.0, partition="0", role="sink")
    assert metrics.exposition().decode().count("cutbank_lag_records{") == 1
    assert metrics.value("cutbank_lag_records", role="sink", partition="0") == 5.0


def test_a_counter_never_goes_back(metrics: PrometheusMetrics) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        metrics.add("cutbank_anomalies_total", -1.0)


def test_each_sink_counts_for_itself(metrics: PrometheusMetrics) -> None:
    metrics.add("cutbank_anomalies_total", 4.0)
    assert PrometheusMetrics().value("cutbank_anomalies_total") == 0.0


def test_threads_lose_no_count(metrics: PrometheusMetrics) -> None:
    def work() -> None:
        for _ in range(2000):
            metrics.add("cutbank_record_errors_total", reason="empty")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.value("cutbank_record_errors_total", reason="empty") == 8000.0


def test_the_markdown_has_a_row_for_each_metric() -> None:
    rows = metrics_markdown().splitlines()
    assert len(rows) == 2 + len(METRICS)
    for row, metric in zip(rows[2:], METRICS, strict=True):
        assert row.startswith(f"| `{metric.name}` | {metric.kind} |")
        assert metric.help in row
        assert row.count("|") == 5


def test_the_process_s_memory_is_among_them(metrics: PrometheusMetrics) -> None:
    assert "process_resident_memory_bytes" in metrics.exposition().decode()
