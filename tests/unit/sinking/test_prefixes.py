"""Prefixes: what is understood of Firehose's expressions, what is refused, zones, values in a path."""

import re
from urllib.parse import unquote

import pytest

from cutbank.errors import UsageError
from cutbank.objects.base import key_check
from cutbank.pipeline.sinking import SinkConfig
from cutbank.pipeline.sinking.claims import MINUTE_MS_MAX, OBJECTS_MAX, ChainId, Layout
from cutbank.pipeline.sinking.layout import CHECKED_POSITION, names_check, object_key
from cutbank.pipeline.sinking.prefix import (
    MISSING,
    REST,
    VALUE_BYTES_MAX,
    Prefix,
    folders,
    layout_check,
    partition_fields,
    partition_value,
    path_value,
)
from cutbank.records import Position

MINUTE_MS = 1_767_416_640_000
"""2026-01-03T05:04:00Z, a Saturday."""
CHAIN = ChainId("p", "anomalies", "0")


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("yyyy/MM/dd/HH/", "2026/01/03/05/"),
        ("", "2026/01/03/05/"),
        ("uuuu-MM-dd/HH-mm/", "2026-01-03/05-04/"),
        ("yy/yyyy/y/yyy/M/d/H/m/", "26/2026/2026/2026/1/3/5/4/"),
        ("'dt='yyyy'-'MM/", "dt=2026-01/"),
        ("yyyy'o''clock'/", "2026o'clock/"),
        ("yyyy''/", "2026'/"),
        ("!{timestamp:yyyy/MM/dd}/", "2026/01/03/"),
        ("!{timestamp:yyyy}!{timestamp:'m='MM}/x/", "2026m=01/x/"),
        ("logs/year=!{timestamp:yyyy}/month=!{timestamp:MM}/", "logs/year=2026/month=01/"),
        # As Firehose does it, without a slash of its own either.
        ("anomalies/", "anomalies/2026/01/03/05/"),
        ("anomalies", "anomalies2026/01/03/05/"),
        ("my/dummy/", "my/dummy/2026/01/03/05/"),
        ("!{timestamp:D/DDD/MMM/MMMM/E/EEEE/h/hh/K/k/a/ss}/", "3/003/Jan/January/Sat/Saturday/5/05/5/5/AM/00/"),
        ("!{timestamp:yyyy-MM-dd'T'HH:mm:ss}/", "2026-01-03T05:04:00/"),
        # What users of Firehose write: shells make the quotes their own, and leave none.
        ("test_hose/dt=!{timestamp:yyyy'-'MM'-'dd}/h=!{timestamp:HH}/", "test_hose/dt=2026-01-03/h=05/"),
    ],
)
def test_a_prefix_becomes_folders(prefix: str, expected: str) -> None:
    assert folders(Layout(prefix=prefix), MINUTE_MS) == expected


def test_a_field_of_the_record_becomes_a_folder() -> None:
    layout = Layout(
        prefix="s=!{partitionKeyFromQuery:symbol}/!{timestamp:yyyy}/!{partitionKeyFromQuery:a.b}/",
        partition_keys=("a.b", "symbol"),
    )
    assert folders(layout, MINUTE_MS, "B/TSLA") == "s=TSLA/2026/B/"
    assert folders(layout, MINUTE_MS, REST) == "s=~rest/2026/~rest/"
    no_time = Layout(prefix="s=!{partitionKeyFromQuery:symbol}/", partition_keys=("symbol",))
    assert folders(no_time, MINUTE_MS, "TSLA") == "s=TSLA/2026/01/03/05/"


def test_hours_as_clocks_show_them() -> None:
    """Java: h 1 to 12, K 0 to 11, k 1 to 24, H 0 to 23."""
    layout = Layout(prefix="!{timestamp:H h K k a}/")
    shown = [folders(layout, MINUTE_MS + (hour - 5) * 3_600_000) for hour in (0, 1, 12, 13, 23)]
    assert shown == ["0 12 0 24 AM/", "1 1 1 1 AM/", "12 12 0 12 PM/", "13 1 1 13 PM/", "23 11 11 23 PM/"]


def test_a_random_string_follows_from_the_claims_key() -> None:
    """So whoever makes the object again gives it the same name, and another claim's objects lie elsewhere."""
    layout = Layout(prefix="!{firehose:random-string}/!{timestamp:yyyy}/!{firehose:random-string}/")
    keys = [object_key(CHAIN, layout, start=Position(start), minute_ms=MINUTE_MS, ordinal=0) for start in (7, 7, 8)]
    assert keys[0] == keys[1] != keys[2]
    first, year, second, _ = keys[0].split("/")
    assert year == "2026"
    assert re.fullmatch("[a-z2-7]{11}", first)
    assert re.fullmatch("[a-z2-7]{11}", second)
    assert first != second, "each time it is named it is another one, as Firehose does it"
    assert len({folders(layout, MINUTE_MS, seed=str(number))[:2] for number in range(1000)}) > 500, "it spreads"


def test_an_errors_type_is_the_records_error_name() -> None:
    prefix = "e/!{firehose:error-output-type}/!{partitionKeyFromQuery:PUMP_NAME}/!{firehose:error-output-type}/"
    assert partition_fields(prefix) == ("ERROR_NAME", "PUMP_NAME")
    layout = Layout(prefix=prefix, partition_keys=("ERROR_NAME", "PUMP_NAME"))
    assert folders(layout, MINUTE_MS, "empty/p") == "e/empty/p/empty/2026/01/03/05/"


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("yyyy/MM/dd/hh/", "hh in 'yyyy/MM/dd/hh/'"),
        ("YYYY/MM/dd/", "YYYY in"),
        ("yyyy/MMM/", "MMM in"),
        ("!{timestamp:YYYY/MM/dd}/", "write yyyy"),
        ("!{timestamp:yyyy/w}/", "w in"),
        ("!{timestamp:MMMMM}/", "MMMMM in"),
        ("!{timestamp:yyyy.SSS}/", "SSS in"),
        ("yyyyy/", "yyyyy in"),
        ("data/yyyy/", "a in 'data/yyyy/'"),
        ("data/yyyy/!{timestamp:MM}/", "outside an expression"),
        ("!{timestamp:}/", "!{timestamp:} is not understood"),
        ("!{timestamp}/", "is not an expression"),
        ("x/!{timestamp:yyyy", "is not an expression"),
        ("!{firehose:random}/", "!{firehose:random} is not understood"),
        ("!{firehose:}/", "!{firehose:} is not understood"),
        ("!{timestamp:yyyy}/!{firehose:random-string}", "must end with a slash"),
        ("!{partitionKeyFromLambda:x}/", "name a field of the record, !{partitionKeyFromQuery:x}"),
        ("!{partitionKeyFromQuery:}/", "is not understood"),
        ("yyyy'/", "a quote is left open"),
        ("!{timestamp:yyyy}", "must end with a slash"),
        ("/x/", "bad key"),
        ("../", "bad key"),
        ("a//b/", "bad key"),
        ("ä/", "bad key"),
        ("!{timestamp:[yyyy]}/", "bad key"),
        ("x" * 300 + "/", "bad key"),
        ("_cutbank/x/", "keeps what is its own"),
        (".cutbank-tmp/", "keeps what is its own"),
    ],
)
def test_what_is_not_understood_is_refused_before_a_sink_starts(prefix: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        SinkConfig(pipeline="p", stream="s", layout=Layout(prefix=prefix))
    message = str(caught.value)
    assert why in message
    assert "understood are !{timestamp:PATTERN}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("keys", "prefix"),
    [
        (("a",), "yyyy/"),
        ((), "!{partitionKeyFromQuery:a}/"),
        (("a", "b"), "!{partitionKeyFromQuery:a}/"),
    ],
)
def test_partition_keys_are_those_that_the_prefix_names(keys: tuple[str, ...], prefix: str) -> None:
    with pytest.raises(UsageError, match="names the partition keys"):
        layout_check(Layout(prefix=prefix, partition_keys=keys))


def test_the_zone_decides_the_folder() -> None:
    assert folders(Layout(zone="Asia/Tokyo"), MINUTE_MS) == "2026/01/03/14/"
    assert folders(Layout(zone="America/New_York"), MINUTE_MS) == "2026/01/03/00/"
    assert folders(Layout(zone="Asia/Kathmandu", prefix="HH-mm/yyyy/"), MINUTE_MS) == "10-49/2026/"


@pytest.mark.parametrize("zone", ["Mars/Olympus", "Europe", "../etc/passwd"])
def test_an_unknown_zone_is_refused(zone: str) -> None:
    layout = Layout.model_construct(**{**dict(Layout()), "zone": zone})
    with pytest.raises(UsageError, match="time zone"):
        SinkConfig(pipeline="p", stream="s", layout=layout)


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/New_York", "UTC"])
@pytest.mark.parametrize("minute_ms", [0, 253_402_300_740_000])
def test_the_first_and_the_last_minute_have_folders_everywhere(zone: str, minute_ms: int) -> None:
    assert folders(Layout(zone=zone), minute_ms)[:4] in {"1969", "1970", "9999"}


def test_names_stay_apart_in_the_hour_that_the_clocks_repeat() -> None:
    """New York, 2026-11-01: 01:30 comes twice."""
    layout = Layout(zone="America/New_York", prefix="yyyy/MM/dd/HH/mm/")
    first_ms, second_ms = 1_793_511_000_000, 1_793_514_600_000
    assert folders(layout, first_ms) == folders(layout, second_ms) == "2026/11/01/01/30/"
    keys = {
        object_key(CHAIN, layout, start=Position(start), minute_ms=minute_ms, ordinal=0)
        for start, minute_ms in ((10, first_ms), (20, second_ms))
    }
    assert len(keys) == 2


def test_no_hour_of_a_year_with_its_changes_of_clocks_is_without_a_folder() -> None:
    layout = Layout(zone="Europe/Zurich")
    hours = [folders(layout, 1_767_225_600_000 + 3_600_000 * hour) for hour in range(365 * 24)]
    assert "2026/03/29/02/" not in hours
    assert hours.count("2026/10/25/02/") == 2
    assert len(set(hours)) == len(hours) - 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("TSLA", "TSLA"),
        ("a/b c", "a%2Fb%20c"),
        ("ä", "%C3%A4"),
        (".", "%2E"),
        ("..", "%2E."),
        ("_cutbank", "%5Fcutbank"),
        (".cutbank", "%2Ecutbank"),
        (MISSING, "%5F_HIVE_DEFAULT_PARTITION__"),
        (REST, "%7Erest"),
        (7, "7"),
        (-1.5, "-1.5"),
        (1e300, "1e%2B300"),
        (True, "true"),
        (False, "false"),
        (None, MISSING),
        ("", MISSING),
        ([1], MISSING),
        ({"a": 1}, MISSING),
    ],
)
def test_a_value_in_a_path(value: object, expected: str) -> None:
    assert path_value(value) == expected


@pytest.mark.parametrize("character", ["x", "ä", "/", "\U0001f600", "_", "~"])
def test_a_long_value_is_cut_and_told_apart_by_its_hash(character: str) -> None:
    for length in range(100, 140):
        found = [path_value(character * length + last) for last in "ab"]
        assert found[0] != found[1]
        for each in found:
            assert len(each) <= VALUE_BYTES_MAX
            assert each[-17] == "~"
            key_check(f"{each}/x")
            assert unquote(each[:-17], errors="strict").strip(character) == "", "no character is cut in two"


def test_a_value_that_just_fits_stands_whole() -> None:
    assert path_value("x" * VALUE_BYTES_MAX) == "x" * VALUE_BYTES_MAX
    assert path_value("/" * 33 + "x") == "%2F" * 33 + "x"
    assert path_value("x" * (VALUE_BYTES_MAX + 1))[-17] == "~"


def test_a_dotted_name_is_a_field_of_that_name_or_leads_to_one() -> None:
    keys = ("a.b", "c")
    assert partition_value({"a": {"b": "deep"}, "c": 1}, keys) == "deep/1"
    assert partition_value({"a": {"b": "deep"}, "a.b": "flat"}, keys) == f"flat/{MISSING}"
    assert partition_value({"a": "text"}, keys) == f"{MISSING}/{MISSING}"


def test_names_that_would_get_too_long_are_refused_at_the_start() -> None:
    names_check(ChainId("p" * 100, "s" * 100, "0"), Layout(format="csv", columns=("a",), compression="gzip"))
    with pytest.raises(UsageError, match="names get too long"):
        names_check(ChainId("p" * 100, "-" * 60, "0"), Layout())


def test_names_that_the_stores_root_leaves_no_room_for_are_refused_at_the_start() -> None:
    """S3 counts the root in its keys; a claim that names an object which can't be put would stop its chain for good."""
    chain = ChainId("p" * 100, "s" * 100, "0")
    longest = len(object_key(chain, Layout(), start=CHECKED_POSITION, minute_ms=MINUTE_MS_MAX, ordinal=OBJECTS_MAX - 1))
    names_check(chain, Layout(), key_bytes_max=longest)
    with pytest.raises(UsageError, match=f"object key of {longest} bytes, more than the {longest - 1} that the store"):
        names_check(chain, Layout(), key_bytes_max=longest - 1)


def test_the_longest_values_make_no_bad_key() -> None:
    deep = "/".join(["!{partitionKeyFromQuery:a}!{partitionKeyFromQuery:b}"] * 4)
    Prefix(deep + "/", partition_keys=("a", "b"))
    with pytest.raises(UsageError, match="bad key"):
        Prefix(deep.replace("/", "") + "/", partition_keys=("a", "b"))
