"""Makes the section of docs/reliability.md on S3: the faults on a real server, and what came of each.

The figures are those of docs/results/chaos-s3.json (`make prove` writes it); the tests named here have to exist. A
fault without a title, or a figure that is not in the file, is an error.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "chaos-s3.json"

FAULTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "kills": (
        "kill -9 of sinks at a put, lost, late or unanswered, at a commit, at random; the next is told another layout",
        "each point around claim, put and commit is hit; what is on its way arrives after its sender's death",
        (
            "test_a_crash_at_any_put_is_finished_by_the_next_owner",
            "test_kills_at_random_points_lose_and_repeat_nothing",
        ),
    ),
    "many values": (
        "kill -9 between the objects of a claim with 50 partition values",
        "the next owner puts those that are missing, as they were claimed",
        ("test_killed_with_50_partition_values_open",),
    ),
    "zombies": (
        "SIGSTOP with a put on its way or unanswered, until another sink has taken over and committed; then SIGCONT",
        "its commit is refused; its put is refused, or becomes the chain's next link",
        ("test_a_zombie_that_wakes_shrinks_and_repeats_nothing",),
    ),
    "a pair": (
        "two sinks that run for one partition's next claim and objects, with lost replies and conflicts meanwhile",
        "one claim counts, and both go on from it",
        ("test_sinks_that_fight_for_one_partition_for_ever_produce_each_anomaly_once",),
    ),
    "lost replies": (
        "the reply to a put of each sort is lost: reset, silence, an error though it was done; 409",
        "the next try finds its own object and is content",
        (),
    ),
    "weather": (
        "503, 500, 409, RequestTimeout, resets, silence, cut and trickling bodies, delays, all by chance at once",
        "one sink is killed in it; one ends within its grace period with exit code 0",
        (),
    ),
    "outages": (
        "storage that refuses everything: 503 SlowDown, no answer, ExpiredToken, resets, 500",
        "memory stays bounded, no position moves ahead, the lag is made up",
        ("test_an_outage_of_the_store_holds_no_more_however_long_the_log_grows",),
    ),
    "snapshots": (
        "kill -9 of the scorer around a snapshot's put on the same S3; the next one's reads are cut, refused, reset",
        "an older snapshot and a replay: bit-identical",
        ("test_an_unusable_newest_snapshot_is_passed_over_for_the_one_before",),
    ),
    "in the way": (
        "somebody's object of other content under the name that a claim has just given",
        "a loud stop; on again once it is moved away",
        ("test_an_object_that_is_there_with_other_content_is_never_taken_for_the_claims",),
    ),
    "another cluster": (
        "a second cluster with the same names writes to the same root",
        "its sink stops loudly, ours goes on",
        ("test_another_first_record_is_another_stream_even_under_one_identity",),
    ),
}
"""By its name in the result: the fault, what is checked beside the oracle, and tests of it alone."""

_HEAD = """
## On S3

`make chaos-s3`: {server}, started by the run, the embedded log, and between services and server a proxy of ours that
knows each request: it answers as AWS documents, loses requests and replies, holds them, cuts them.
{form}. Seeds {seeds}; {seconds:,.0f} s, {date}, Python {python}, {system}, {cores} cores.

Each fault has a pipeline of its own, with load on and bad records among the good ones, which is held against the oracle
in the end: the anomalies and the errors, in the streams and in the objects, in every format and compression, byte for
byte or, in CSV, value for value. `cutbank verify` has to find the same. Lost, twice and different count all of it.
Positions are looked at after each single fault. {kills_total:,} processes were killed. They fell:
"""

_PLANTS = """
That the run sees what it is to see: bugs on purpose (`tests/chaos/s3_plants.py`, `plants.py`), each in its own run.
"""


def page() -> str:
    """The section."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    seeds = ", ".join(sorted({str(fault["seed"]) for fault in found["faults"].values()}))
    form = "Some faults in the short form, once or a few times" if found["short"] else "The long form"
    head = _HEAD.format(**{**found, **found["ran"], "seeds": seeds, "form": form})
    fell = [(what.removeprefix("killed "), f"{count:,}") for what, count in found["fell"].items()]
    parts = [head.rstrip("\n"), *_table(("where", "how many"), fell), *_faults(found)]
    return "\n".join([*parts, _PLANTS.rstrip("\n"), *_plants(found)])


def _faults(found: dict[str, Any]) -> Iterator[str]:
    rows = []
    for name, played in found["faults"].items():
        title, also, tests = FAULTS[name]
        happened = "; ".join(f"{what}: {count:,}" for what, count in played["happened"].items())
        counts = ("records", "anomalies", "error_lines", "lost", "repeated", "different", "positions_ahead")
        named = ", ".join(f"`{test}`" for test in tests)
        rows.append((title, also, happened, *(f"{played[count]:,}" for count in counts), named))
    head = ("fault", "also checked", "in the run", "records", "anomalies", "errors", "lost", "twice", "different")
    yield from _table((*head, "positions ahead", "and, alone, by"), rows)


def _plants(found: dict[str, Any]) -> Iterator[str]:
    rows = [
        (f"`{plant}`", FAULTS[one["fault"]][0], one["by"] or "NOT CAUGHT") for plant, one in found["plants"].items()
    ]
    yield from _table(("planted", "under", "caught by"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"
