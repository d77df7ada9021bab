"""The pipeline spec: its defaults, every way to get it wrong in one line, and a hash that moves when a score would."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from cutbank.errors import UsageError
from cutbank.pipeline.spec import FEATURES_MAX, SPEC_BYTES_MAX, PipelineSpec, load_spec, parse_spec

DEFAULT = PipelineSpec()


def changed(**fields: Any) -> PipelineSpec:
    return parse_spec({**DEFAULT.model_dump(mode="json"), **fields}, where="test")


def wrong(**fields: Any) -> str:
    with pytest.raises(UsageError) as raised:
        changed(**fields)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith("test: ")
    return message


def test_the_defaults_are_the_stock_trades() -> None:
    assert [(column.name, column.type) for column in DEFAULT.columns] == [
        ("tickerSymbol", "VARCHAR(8)"),
        ("tradeType", "VARCHAR(4)"),
        ("price", "DOUBLE"),
        ("quantity", "INTEGER"),
        ("id", "INTEGER"),
    ]
    assert DEFAULT.features == ("price", "quantity")
    assert DEFAULT.threshold == 1.0
    detector = DEFAULT.detector
    assert (detector.name, detector.number_of_trees, detector.sub_sample_size) == ("ensemble", 100, 256)
    assert (detector.time_decay, detector.shingle_size) == (100_000, 1)
    assert (DEFAULT.source, DEFAULT.destination, DEFAULT.errors, DEFAULT.scores) == (
        "trades",
        "anomalies",
        "errors",
        "scores",
    )


def test_every_field_is_documented() -> None:
    def undocumented(schema: dict[str, Any], where: str) -> list[str]:
        fields = schema.get("properties", {})
        return [f"{where}.{name}" for name, field in fields.items() if not field.get("description")]

    schema = PipelineSpec.model_json_schema()
    missing = undocumented(schema, "spec")
    for name, part in schema["$defs"].items():
        missing += undocumented(part, name)
    assert missing == []


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": "with space"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"source": ".hidden"}, "source"),
        ({"description": "x" * 1001}, "description"),
        ({"columns": []}, "columns"),
        ({"columns": [{"name": "price", "type": "DECIMAL"}]}, "unknown type"),
        ({"columns": [{"name": "price"}]}, "columns.0.type"),
        ({"columns": [{"name": "ROWTIME", "type": "DOUBLE"}]}, "ROWTIME is a column that Cutbank adds"),
        ({"columns": [{"name": "a", "type": "DOUBLE"}] * 2, "features": ["a"]}, "column 'a' is there twice"),
        ({"features": []}, "features"),
        ({"features": ["price", "price"]}, "a feature is there twice"),
        ({"features": ["cost"]}, "feature 'cost' is not a column; columns are tickerSymbol, tradeType"),
        ({"features": ["tickerSymbol"]}, "feature 'tickerSymbol' is not numeric"),
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": float("inf")}, "threshold"),
        ({"destination": "trades"}, "four different streams"),
        ({"scores": "errors"}, "four different streams"),
        ({"thresold": 2.0}, "thresold"),
        ({"detector": {"name": "svm"}}, "detector.name"),
        ({"detector": {"number_of_trees": 0}}, "detector.number_of_trees"),
        ({"detector": {"number_of_trees": 1001}}, "detector.number_of_trees"),
        ({"detector": {"sub_sample_size": 9}}, "detector.sub_sample_size"),
        ({"detector": {"shingle_size": 31}}, "detector.shingle_size"),
        ({"detector": {"time_decay": 2**31}}, "detector.time_decay"),
        ({"detector": {"sub_sample_size": 300, "time_decay": 300}}, "must be below time_decay (300)"),
        ({"detector": {"seed": -1}}, "detector.seed"),
        ({"detector": {"trees": 5}}, "detector.trees"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(fields: dict[str, Any], told: str) -> None:
    assert told in wrong(**fields)


def test_as_many_features_as_the_forest_took_and_no_more() -> None:
    columns = [{"name": f"f{number}", "type": "REAL"} for number in range(FEATURES_MAX + 1)]
    names = [column["name"] for column in columns]
    assert len(changed(columns=columns, features=names[:-1]).features) == 30
    assert "features" in wrong(columns=columns, features=names)


def test_types_may_be_in_any_case() -> None:
    assert changed(columns=[{"name": "a", "type": "varchar(12)"}, {"name": "b", "type": "Double"}], features=["b"])


def test_the_type_of_a_column() -> None:
    assert (DEFAULT.type_of("quantity"), DEFAULT.type_of("tickerSymbol")) == ("INTEGER", "VARCHAR(8)")


class TestHash:
    def test_is_frozen(self) -> None:
        # Another digest for the same spec would begin new runs for everybody who upgrades.
        assert DEFAULT.hash(algorithm_version=1) == "dcfb66a321d47a5ed30c963bb61a86e9bd54b25eb8c4465792cb4480e0d5bc1b"

    @pytest.mark.parametrize(
        "fields", [{"description": "x"}, {"destination": "out"}, {"errors": "bad"}, {"scores": "all"}]
    )
    def test_does_not_move_with_what_no_score_or_line_depends_on(self, fields: dict[str, Any]) -> None:
        assert changed(**fields).hash(algorithm_version=1) == DEFAULT.hash(algorithm_version=1)

    @pytest.mark.parametrize(
        "fields",
        [
            {"name": "other"},
            {"source": "orders"},
            {"threshold": 1.5},
            {"features": ["quantity", "price"]},
            {"columns": [{"name": "quantity", "type": "INTEGER"}, {"name": "price", "type": "DOUBLE"}]},
            {"detector": {"seed": 8}},
            {"detector": {"name": "rcf"}},
            {"detector": {"shingle_size": 2}},
        ],
    )
    def test_moves_with_what_a_score_or_line_depends_on(self, fields: dict[str, Any]) -> None:
        assert changed(**fields).hash(algorithm_version=1) != DEFAULT.hash(algorithm_version=1)

    def test_moves_with_the_algorithm(self) -> None:
        assert DEFAULT.hash(algorithm_version=2) != DEFAULT.hash(algorithm_version=1)


class TestFile:
    def test_none_gives_the_defaults(self) -> None:
        assert load_spec(None) == DEFAULT

    def test_a_file_overrides_what_it_names(self, tmp_path: Path) -> None:
        path = tmp_path / "cutbank.toml"
        path.write_text(
            'name = "heart"\nthreshold = 2\nfeatures = ["rate"]\n'
            '[[columns]]\nname = "rate"\ntype = "SMALLINT"\n[detector]\nname = "rcf"\nnumber_of_trees = 50\n'
        )
        spec = load_spec(path)
        assert (spec.name, spec.threshold, spec.detector.number_of_trees) == ("heart", 2.0, 50)
        assert spec.source == "trades"

    def test_an_empty_file_is_the_defaults(self, tmp_path: Path) -> None:
        path = tmp_path / "cutbank.toml"
        path.touch()
        assert load_spec(path) == DEFAULT

    @pytest.mark.parametrize(
        ("body", "told"),
        [
            (b"name = ", "Invalid value"),
            (b"\xff", "not UTF-8"),
            (b"name = 'a b'", "name"),
            (b"#" * (SPEC_BYTES_MAX + 1), "larger than"),
        ],
    )
    def test_what_is_wrong_names_the_file(self, tmp_path: Path, body: bytes, told: str) -> None:
        path = tmp_path / "cutbank.toml"
        path.write_bytes(body)
        with pytest.raises(UsageError, match=told) as raised:
            load_spec(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="No such file"):
            load_spec(tmp_path / "none.toml")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="directory"):
            load_spec(tmp_path)

    def test_a_spec_reads_back_from_its_own_fields(self) -> None:
        document = tomllib.loads("[detector]\nseed = 3\n")
        assert parse_spec(document, where="x").detector.seed == 3
