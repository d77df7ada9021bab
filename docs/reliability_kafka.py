"""Makes the section of docs/reliability.md on Kafka: the faults on real brokers, how often, and what came of each.

The figures are those of docs/results/chaos-kafka.json (`make prove` writes it); the tests named here have to exist. A
fault without a title, or a figure that is not in the file, is an error.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "chaos-kafka.json"

FAULTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "kills": (
        "kill -9 of producer, scorer and sink at random times and at chosen calls",
        "each point between publish and commit, claim, object and commit, and in a snapshot is hit",
        (),
    ),
    "killed in a transaction": (
        "kill -9 with a request of the transaction held on the wire: on its way, or done and unanswered",
        "nothing of a half transaction is ever seen",
        ("test_what_is_lost_for_ever_is_done_without",),
    ),
    "stops": (
        "SIGTERM in the middle of a write; SIGSTOP right before one, while another takes over",
        "ends within its grace period; a zombie's write is refused",
        (),
    ),
    "asleep in a transaction": (
        "SIGSTOP in a transaction, past session time-out and transaction time-out, then SIGCONT",
        "its commit is refused, whether another took over or nobody did",
        (),
    ),
    "storm": (
        "scorers and sinks join and leave every second or two, by SIGTERM and kill -9, four partitions",
        "each record is applied once to each model",
        (),
    ),
    "broker restarts": (
        "the only broker killed or stopped in the middle of a transaction, and started again",
        "all services go on by themselves",
        ("test_killed_brokers_lose_and_repeat_nothing",),
    ),
    "links": (
        "connections cut, delayed, silent for longer than a session lasts",
        "all services go on by themselves",
        ("test_a_cut_connection_repeats_nothing",),
    ),
    "ends of transactions": (
        "EndTxn lost, its answer lost, late past its deadline, late into the next transaction",
        "the late one is refused",
        ("test_what_arrives_in_a_later_transaction_changes_nothing",),
    ),
    "too large": (
        "the topic takes no batch of anomalies, then not even one anomaly",
        "sent in parts; then a loud stop that names the setting, and on again once it is mended",
        ("test_a_batch_too_large_for_its_topic_is_sent_in_parts_and_a_record_is_refused",),
    ),
    "poison": (
        "poison records of every kind",
        "once in the error stream, with the reason",
        ("test_bad_records_are_said_once_and_move_no_neighbour",),
    ),
    "leaders": (
        "of three brokers, the source partition's leader and the coordinators killed in a transaction",
        "the other two go on at once",
        ("test_a_killed_leader_loses_nothing",),
    ),
}
"""By its name in the result: the fault, what is checked beside the oracle, and tests of it alone."""

_HEAD = """
## On Kafka

`make chaos-kafka`: {broker}, started by the run; the services reach it through a proxy of ours that sees every
request, holds some and cuts others. Seeds {seeds}; {seconds:,.0f} s, {date}, Python {python}, {system}, {cores} cores.
{kills_total:,} services were killed; of these, at random times: {at_random}. Those of the first row fell
{points}.

Each fault has a pipeline of its own, with load on, which is held against the oracle in the end: the stream as a
read_committed reader sees it, the error stream, and the objects. Lost, twice and different count all three. Every
record that was acknowledged to the producer is counted too. Positions are looked at after each single fault.
"""

_PLANTS = """
That the run sees what it is to see: bugs on purpose (`tests/chaos/plants.py`), each in a run of its own.
"""


def page() -> str:
    """The section."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    at_random = ", ".join(f"{role} {count}" for role, count in found["kills_at_random"].items())
    fell = {point: sum(counts.values()) for point, counts in found["points"].items()}
    seeds = ", ".join(sorted({str(fault.get("seed", found["seed"])) for fault in found["faults"].values()}))
    points = ", ".join(f"{point} {count}" for point, count in fell.items() if count)
    head = _HEAD.format(**{**found, **found["ran"], "at_random": at_random, "points": points, "seeds": seeds})
    return "\n".join([head.rstrip("\n"), *_faults(found), _PLANTS.rstrip("\n"), *_plants(found)])


def _faults(found: dict[str, Any]) -> Iterator[str]:
    rows = []
    for name, played in found["faults"].items():
        title, also, tests = FAULTS[name]
        happened = "; ".join(f"{what}: {count:,}" for what, count in played["happened"].items())
        counts = ("records", "anomalies", "lost", "repeated", "different", "positions_ahead")
        named = ", ".join(f"`{test}`" for test in tests)
        rows.append((title, also, happened, *(f"{played[count]:,}" for count in counts), named))
    head = ("fault", "also checked", "in the long run", "records", "anomalies", "lost", "twice", "different")
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
