"""A demo's folder holds one spec, nothing of it is ever deleted, and nothing that is not a demo's is touched."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutbank.cli.demo.folder import DemoFolder, name_of_input, spec_toml
from cutbank.cli.demo.origin import HEAD_BYTES
from cutbank.errors import UsageError
from cutbank.pipeline.spec import PipelineSpec, load_spec, parse_spec

SPEC = PipelineSpec()
OTHER = PipelineSpec(threshold=2.0)


def test_the_first_run_writes_the_spec_and_the_next_goes_on(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path / "a" / "b")
    with folder.locked():
        assert folder.prepare(SPEC) is False
        assert folder.existing_spec() == SPEC
        assert folder.prepare(SPEC.model_copy(update={"description": "other words"})) is True


def test_another_spec_is_refused(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path)
    folder.prepare(SPEC)
    with pytest.raises(UsageError, match="--fresh"):
        folder.prepare(OTHER)
    assert folder.existing_spec() == SPEC


def _input(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_another_file_of_the_same_name_is_refused_and_the_same_one_is_gone_on_with(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path)
    first = _input(tmp_path / "a" / "trades.csv", "price\n1\n2\n")
    other = _input(tmp_path / "b" / "trades.csv", "price\n1\n3\n")
    assert folder.prepare(SPEC, input_=first) is False
    assert folder.prepare(SPEC, input_=first) is True
    with pytest.raises(UsageError, match=r"holds another input; begin anew with --fresh, or .* --data"):
        folder.prepare(SPEC, input_=other)
    folder.set_aside(when="now")
    assert folder.prepare(SPEC, input_=other) is False


def test_a_short_file_that_has_grown_is_the_same_and_is_known_by_all_of_it_from_then_on(tmp_path: Path) -> None:
    folder, path = DemoFolder(tmp_path), tmp_path / "in" / "trades.csv"
    folder.prepare(SPEC, input_=_input(path, "price\n1\n"))
    assert folder.prepare(SPEC, input_=_input(path, "price\n1\n2\n")) is True
    for replaced in ("price\n1\n3\n", "price\n1\n", ""):
        with pytest.raises(UsageError, match="holds another input"):
            folder.prepare(SPEC, input_=_input(path, replaced))


def test_a_long_file_is_known_by_its_beginning(tmp_path: Path) -> None:
    folder, path = DemoFolder(tmp_path), tmp_path / "in" / "trades.csv"
    text = "1\n" * HEAD_BYTES
    folder.prepare(SPEC, input_=_input(path, text))
    for behind in (text + "2\n", f"{text[:HEAD_BYTES]}3{text[HEAD_BYTES + 1 :]}"):
        assert folder.prepare(SPEC, input_=_input(path, behind)) is True
    for within in ("3" + text[1:], f"{text[: HEAD_BYTES - 1]}3{text[HEAD_BYTES:]}"):
        with pytest.raises(UsageError, match="holds another input"):
            folder.prepare(SPEC, input_=_input(path, within))


def test_made_up_records_standard_input_and_a_file_never_share_a_log(tmp_path: Path) -> None:
    inputs = (None, "-", _input(tmp_path / "in" / "stdin.csv", "price\n1\n"))
    for number, first in enumerate(inputs):
        folder = DemoFolder(tmp_path / str(number))
        folder.path.mkdir()
        folder.prepare(SPEC, input_=first)
        for second in inputs:
            if second == first:
                assert folder.prepare(SPEC, input_=second) is True
                continue
            with pytest.raises(UsageError, match="holds another input"):
                folder.prepare(SPEC, input_=second)


def test_a_demo_that_does_not_say_where_its_records_came_from_is_not_gone_on_with(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path)
    folder.prepare(SPEC)
    folder.origin.write_text("{}")
    with pytest.raises(UsageError, match="holds another input"):
        folder.prepare(SPEC)


@pytest.mark.parametrize("name", ["log.db", "log.db-wal", "anomalies", "state"])
def test_a_log_or_objects_that_no_demo_made_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("theirs")
    with pytest.raises(UsageError, match="not from a demo"):
        DemoFolder(tmp_path).prepare(SPEC)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_fresh_sets_aside_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path)
    with folder.locked():
        folder.prepare(SPEC)
        (tmp_path / "log.db").write_text("log")
        (tmp_path / "log.db-wal").write_text("wal")
        claim = tmp_path / "anomalies" / "_cutbank" / "x"
        claim.mkdir(parents=True)
        (tmp_path / "mine.csv").write_text("theirs")
        aside = folder.set_aside(when="20261123T061500Z")
    assert aside == tmp_path / "earlier" / "20261123T061500Z"
    assert sorted(path.name for path in aside.iterdir()) == [
        "anomalies",
        "demo.input.json",
        "demo.toml",
        "log.db",
        "log.db-wal",
        "logs",
    ]
    assert (aside / "anomalies" / "_cutbank" / "x").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.lock", "earlier", "mine.csv"]
    assert folder.prepare(OTHER) is False


def test_setting_aside_nothing_makes_nothing(tmp_path: Path) -> None:
    assert DemoFolder(tmp_path).set_aside(when="now") is None
    assert list(tmp_path.iterdir()) == []


def test_setting_aside_twice_in_a_second_loses_nothing(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path)
    folder.prepare(SPEC)
    folder.set_aside(when="now")
    folder.prepare(OTHER)
    with pytest.raises(UsageError, match="set the earlier demo aside"):
        folder.set_aside(when="now")
    assert folder.existing_spec() == OTHER
    assert load_spec(tmp_path / "earlier" / "now" / "demo.toml") == SPEC


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path)
    with folder.locked(), pytest.raises(UsageError, match="another cutbank demo"), folder.locked():
        pytest.fail("locked twice")
    with folder.locked():
        assert (tmp_path / "demo.lock").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Not a directory"), DemoFolder(tmp_path / "file" / "data").locked():
        pytest.fail("made")


def test_recounting_needs_a_demo(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no demo was run here"):
        DemoFolder(tmp_path).existing_spec()


def test_urls_take_odd_paths() -> None:
    folder = DemoFolder(Path("/tmp/a b?c#d%41"))  # noqa: S108  # a path that is never made
    assert folder.transport_url == "local:///tmp/a%20b%3Fc%23d%2541/log.db"
    assert folder.store_url == "file:///tmp/a%20b%3Fc%23d%2541/anomalies"
    assert folder.state_url == "file:///tmp/a%20b%3Fc%23d%2541/state"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("-", "stdin"),
        ("../shared/data/trades_btcusdt_spot.csv.gz", "trades_btcusdt_spot"),
        ("Trades 2026.NDJSON", "Trades-2026"),
        ("/x/.csv", "input"),
        ("ü.csv", "input"),
        ("_a.json", "a"),
        ("v1.2.csv", "v1.2"),
        ("anomalies.csv", "anomalies"),
    ],
)
def test_an_input_names_its_pipeline(path: str, name: str) -> None:
    assert name_of_input(path) == name


@given(st.text(min_size=1, max_size=300))
def test_every_path_gives_a_name_that_a_spec_takes(path: str) -> None:
    assert PipelineSpec(name=name_of_input(path)).name


@given(
    names=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5, unique=True),
    threshold=st.floats(0.0, 1e12),
)
def test_a_spec_survives_its_file(tmp_path_factory: pytest.TempPathFactory, names: list[str], threshold: float) -> None:
    columns = [{"name": name, "type": "DOUBLE"} for name in names]
    table = {"columns": columns, "features": names[:1], "threshold": threshold, "description": "".join(names)}
    try:
        json.dumps(table, ensure_ascii=False).encode()
        spec = parse_spec(table, where="test")
    except (UsageError, UnicodeEncodeError):
        return  # a reserved name, or half a surrogate pair, which no file holds
    path = tmp_path_factory.mktemp("spec") / "demo.toml"
    path.write_text(spec_toml(spec), encoding="utf-8")
    assert load_spec(path) == spec
