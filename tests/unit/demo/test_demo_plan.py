"""What is asked becomes settings of three services, checked before anything runs."""

from pathlib import Path

import pytest

from cutbank.cli.demo.plan import PRODUCER_SPARE_S, Asked, folder_of, make_plan
from cutbank.errors import UsageError
from cutbank.pipeline.spec import PipelineSpec


@pytest.fixture
def trades(tmp_path: Path) -> Path:
    path = tmp_path / "my trades.csv"
    path.write_text("at,price,size,who\n" + "".join(f"{n},{n}.5,{n},x\n" for n in range(20)))
    return path


def test_trades_are_made_up_by_default() -> None:
    plan = make_plan(Asked(), {})
    assert plan.spec == PipelineSpec()
    assert plan.folder.path == Path("data")
    assert (plan.seconds, plan.labels, plan.source) == (120.0, "labels", None)
    assert plan.producer.duration_seconds == 120.0 + PRODUCER_SPARE_S
    assert plan.producer.labels_stream == "labels"
    assert plan.environs["scorer"] == {
        "CUTBANK_TRANSPORT_URL": "local://data/log.db",
        "CUTBANK_SPEC": "data/demo.toml",
        "CUTBANK_LOG_FORMAT": "console",
        "CUTBANK_STATE_URL": "file://data/state",
        "CUTBANK_EMIT": "all",
        "CUTBANK_SNAPSHOT_S": "5",
    }
    assert plan.environs["sink"]["CUTBANK_FLUSH_ON_STOP"] == "true"
    assert plan.environs["sink"]["CUTBANK_STORE_URL"] == "file://data/anomalies"


def test_an_input_has_a_folder_columns_and_a_name_of_its_own(trades: Path) -> None:
    plan = make_plan(Asked(input=str(trades), features=" price, size", pace="max"), {})
    assert plan.folder.path == Path("data/input-my-trades")
    assert plan.spec.name == "my-trades"
    assert plan.spec.features == ("price", "size")
    assert [column.name for column in plan.spec.columns] == ["at", "price", "size", "who"]
    assert (plan.seconds, plan.labels, plan.source) == (None, None, None)
    assert plan.input == str(trades)
    assert plan.producer.pace == "max"
    assert plan.producer.resume is True
    assert plan.producer.duration_seconds == 0


def test_seconds_bound_an_input(trades: Path) -> None:
    plan = make_plan(Asked(input=str(trades), features="price", seconds=5.0), {})
    assert plan.seconds == 5.0
    assert plan.producer.duration_seconds == 5.0 + PRODUCER_SPARE_S


def test_a_timestamp_column_means_the_files_own_pace_unless_told_otherwise(trades: Path) -> None:
    asked = Asked(input=str(trades), features="price", timestamp_column="at")
    assert make_plan(asked, {}).producer.pace == "file"
    rate = Asked(input=str(trades), features="price", timestamp_column="at", pace="rate")
    assert make_plan(rate, {}).producer.pace == "rate"


def test_a_folder_that_is_named_is_taken(trades: Path, tmp_path: Path) -> None:
    assert folder_of(Asked(input=str(trades), data=tmp_path)).path == tmp_path
    assert folder_of(Asked(data=tmp_path)).path == tmp_path


def test_the_producers_own_variables_work_and_no_other_of_a_service_leaks_in() -> None:
    environ = {
        "PATH": "/bin",
        "SEED": "11",
        "ANOMALY_SHARE": "0.1",
        "RECORDS_PER_SECOND": "50",
        "STREAM_NAME": "theirs",
        "DURATION_SECONDS": "1",
        "CUTBANK_STORE_URL": "file://theirs",
        "CUTBANK_EMIT": "anomalies",
        "CUTBANK_SPEC": "theirs.toml",
        "CUTBANK_HTTP_PORT": "8080",
    }
    plan = make_plan(Asked(rate="75"), environ)
    assert (plan.producer.seed, plan.producer.anomaly_share) == (11, 0.1)
    assert plan.producer.records_per_second == 75.0
    assert plan.producer.stream_name == "trades"
    for service, variables in plan.environs.items():
        assert variables["PATH"] == "/bin"
        assert "CUTBANK_HTTP_PORT" not in variables, service
        assert variables["CUTBANK_SPEC"] == "data/demo.toml"
        assert ("SEED" in variables) is (service == "producer")
    assert plan.environs["scorer"]["CUTBANK_EMIT"] == "all"
    assert plan.environs["sink"]["CUTBANK_STORE_URL"] == "file://data/anomalies"


def test_how_the_input_is_written_is_taken_from_the_environment_too(tmp_path: Path) -> None:
    path = tmp_path / "trades.txt"
    path.write_text("price|size\n" + "".join(f"{n}.5|{n}\n" for n in range(20)))
    asked = Asked(input=str(path), features="price,size")
    plan = make_plan(asked, {"DELIMITER": "|", "INPUT_FORMAT": "csv"})
    assert [column.name for column in plan.spec.columns] == ["price", "size"]
    assert plan.producer.delimiter == "|"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(features="price"), "--features is about an --input"),
        (Asked(timestamp_column="at"), "--timestamp-column is about an --input"),
        (Asked(input="x.csv"), "--input needs --features"),
        (Asked(input="x.csv", features=" , "), "--input needs --features"),
        (Asked(input="no-such.csv", features="a"), "no-such.csv"),
        (Asked(rate="fast"), "RECORDS_PER_SECOND"),
        (Asked(rate="-1"), "RECORDS_PER_SECOND"),
        (Asked(seed="x"), "SEED"),
        (Asked(pace="file"), "PACE"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Asked, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        make_plan(asked, {})
    assert list(tmp_path.iterdir()) == []


def test_a_feature_that_is_no_column_is_named(trades: Path) -> None:
    with pytest.raises(UsageError, match="'cost'"):
        make_plan(Asked(input=str(trades), features="price,cost"), {})
