"""The producer's settings: the tutorial's names, ranges, and one clear line for what is wrong."""

import pytest

from cutbank.errors import UsageError
from cutbank.runtime.options import setting_rows
from cutbank_producer.settings import ProducerSettings


def test_the_defaults_are_the_tutorials() -> None:
    settings = ProducerSettings.load({})
    assert (settings.records_per_batch, settings.records_per_second, settings.duration_seconds) == (100, 100.0, 900.0)
    assert (settings.anomaly_share, settings.anomaly_multiplier_min, settings.anomaly_multiplier_max) == (0.05, 2, 3)
    assert (settings.stream_name, settings.stream_partitions, settings.labels_stream) == ("trades", 1, None)


def test_every_setting_has_its_environment_name() -> None:
    environ = {
        "STREAM_NAME": "Demo-samples",
        "RECORDS_PER_BATCH": "500",
        "RECORDS_PER_SECOND": "0",
        "ANOMALY_SHARE": "0.1",
        "ANOMALY_MULTIPLIER_MIN": "4",
        "ANOMALY_MULTIPLIER_MAX": "5",
        "DURATION_SECONDS": "60",
        "RECORDS_MAX": "1000",
        "SEED": "3",
        "FIRST_ID": "-5",
        "PARTITION_BY": "round-robin",
        "LABELS_STREAM": "labels",
        "STREAM_PARTITIONS": "4",
        "PACE": "max",
        "CUTBANK_TRANSPORT_URL": "local://x.db",
    }
    assert ProducerSettings.load(environ).model_dump(exclude_defaults=True) == {
        "stream_name": "Demo-samples",
        "records_per_batch": 500,
        "records_per_second": 0.0,
        "anomaly_share": 0.1,
        "anomaly_multiplier_min": 4.0,
        "anomaly_multiplier_max": 5.0,
        "duration_seconds": 60.0,
        "records_max": 1000,
        "seed": 3,
        "first_id": -5,
        "partition_by": "round-robin",
        "labels_stream": "labels",
        "stream_partitions": 4,
        "pace": "max",
        "transport_url": "local://x.db",
    }


def test_a_replay_has_its_environment_names_too() -> None:
    environ = {
        "INPUT": "t.csv",
        "INPUT_FORMAT": "csv",
        "DELIMITER": ";",
        "PACE": "file",
        "TIMESTAMP_COLUMN": "t",
        "SPEED": "10",
        "RESUME": "true",
        "PARTITION_BY": "who",
    }
    settings = ProducerSettings.load(environ)
    assert (settings.input, settings.input_format, settings.delimiter) == ("t.csv", "csv", ";")
    assert (settings.pace, settings.timestamp_column, settings.speed) == ("file", "t", 10.0)
    assert (settings.resume, settings.partition_by) == (True, "who")


def test_an_empty_variable_means_none() -> None:
    environ = {"LABELS_STREAM": "", "FIRST_ID": "", "INPUT": "", "DELIMITER": "", "TIMESTAMP_COLUMN": ""}
    assert ProducerSettings.load(environ).model_dump(exclude_defaults=True) == {}


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"RECORDS_PER_BATCH": "0"}, "RECORDS_PER_BATCH"),
        ({"RECORDS_PER_BATCH": "10001"}, "RECORDS_PER_BATCH"),
        ({"RECORDS_PER_SECOND": "-1"}, "RECORDS_PER_SECOND"),
        ({"RECORDS_PER_SECOND": "nan"}, "RECORDS_PER_SECOND"),
        ({"ANOMALY_SHARE": "1.1"}, "ANOMALY_SHARE"),
        ({"ANOMALY_MULTIPLIER_MIN": "0"}, "ANOMALY_MULTIPLIER_MIN"),
        ({"ANOMALY_MULTIPLIER_MAX": "1001"}, "ANOMALY_MULTIPLIER_MAX"),
        ({"ANOMALY_MULTIPLIER_MIN": "3.5"}, "ANOMALY_MULTIPLIER_MAX (3) is below ANOMALY_MULTIPLIER_MIN (3.5)"),
        ({"DURATION_SECONDS": "-1"}, "DURATION_SECONDS"),
        ({"SEED": "x"}, "SEED"),
        ({"FIRST_ID": "2147483648"}, "FIRST_ID"),
        ({"STREAM_NAME": "a b"}, "STREAM_NAME"),
        ({"STREAM_PARTITIONS": "0"}, "STREAM_PARTITIONS"),
        ({"LABELS_STREAM": "trades"}, "LABELS_STREAM and STREAM_NAME are both 'trades'"),
        ({"PARTITION_BY": "price"}, "PARTITION_BY is ticker or round-robin without an INPUT"),
        ({"PACE": "fast"}, "PACE"),
        ({"PACE": "file"}, "PACE=file needs an INPUT"),
        ({"PACE": "file", "INPUT": "t.csv"}, "PACE=file needs TIMESTAMP_COLUMN"),
        ({"RESUME": "true"}, "RESUME needs an INPUT"),
        ({"INPUT": "t.csv", "DELIMITER": ",,"}, "DELIMITER: one character"),
        ({"INPUT": "t.csv", "DELIMITER": '"'}, "DELIMITER: one character"),
        ({"INPUT": "t.csv", "SPEED": "0"}, "SPEED"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(environ: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        ProducerSettings.load(environ)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_setting_is_documented_with_its_unit_or_meaning() -> None:
    for row in setting_rows(ProducerSettings):
        assert len(row.meaning) > 20, row.field
        assert row.meaning.endswith((".", "needs it")), row.field
