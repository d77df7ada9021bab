"""Makes the page of the faults that Cutbank was put through: which, how, how often, and what was lost or repeated.

The figures are those of the long runs' own result files in docs/results/ (`make prove` writes them); the tests named
here have to exist (tests/unit/test_docs.py). A figure that a result file does not hold is an error, never a zero.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

FORMS = {"simulation": "make simulate", "chaos": "make chaos", "bad-input": "make bad-input"}
"""Result file and the command that wrote it; those of the embedded log."""


@dataclass(frozen=True)
class Fault:
    """One fault, how often it happened in the long runs, and what tests it with every commit."""

    name: str
    also: str
    """What is checked beside the oracle."""
    counts: tuple[tuple[str, str], ...]
    """What is counted, and where the figure is: `form:path/to/it`; several with `+` are added, a table is summed."""
    tests: tuple[str, ...]
    """Tests of this fault alone, beside the simulation and the chaos run."""

    @property
    def forms(self) -> tuple[str, ...]:
        """The long runs in which it happened."""
        used = {where.partition(":")[0] for _, wheres in self.counts for where in wheres.split("+")}
        return tuple(form for form in FORMS if form in used)


FAULTS = (
    Fault(
        "kill -9 of producer, scorer and sink at random points, and at every await of publish, commit, claim, put and "
        "snapshot",
        "a committed position is never ahead of durable output",
        (
            ("simulated kills", "simulation:kills"),
            ("real kills", "chaos:kills_total"),
            ("positions ahead", "chaos:positions_ahead"),
        ),
        (
            "test_killed_at_each_call_of_its_first_assignment",
            "test_killed_at_each_call_of_a_life_one_life_after_another",
            "test_a_crash_at_any_put_is_finished_by_the_next_owner",
            "test_each_service_killed_in_the_middle_loses_and_repeats_nothing",
        ),
    ),
    Fault(
        "killed between claim and object, between object and commit",
        "the next owner finishes the claim as it was made; no object exists that the claim does not name",
        (
            (
                "simulated kills",
                "simulation:kill_points/between claim and object+simulation:kill_points/between object and commit",
            ),
            ("real kills", "chaos:points/between claim and object+chaos:points/between object and commit"),
            (
                "of these with the next stretch read",
                "simulation:kill_points/with one stretch on its way into objects and the next one read",
            ),
            ("races for a claim lost, the other's finished", "simulation:counters/cutbank_claims_adopted_total"),
        ),
        ("test_a_crash_at_any_put_is_finished_by_the_next_owner",),
    ),
    Fault(
        "a put, publish or commit succeeded and the reply was lost; a call outlives its process; one publish failed, "
        "or nobody knows whether it did",
        "a fence settles it; no torn batch is ever visible",
        (
            ("spells of failing calls", "simulation:events/bad weather"),
            ("calls that arrived after their process's death", "simulation:events/kill, call arrives late"),
        ),
        (
            "test_lost_replies_repeat_nothing",
            "test_a_lost_reply_loses_and_repeats_nothing",
            "test_an_unknown_outcome_is_sent_again_with_the_same_ids_and_labels",
            "test_a_cancelled_write_is_whole_or_not_at_all",
        ),
    ),
    Fault(
        "restarted with another prefix, time zone, format, compression and other partition keys; 50 partition values "
        "open",
        "a claim is finished in its own layout; the new one begins with the next claim",
        (
            ("layouts", "simulation:layouts#"),
            ("objects written in them", "simulation:layouts"),
            (
                "put by another than who claimed them",
                "simulation:handovers/objects put by another than who claimed them",
            ),
            ("finished, and then claimed otherwise", "simulation:handovers/then claimed in another layout"),
            ("kills with 50 values open", "simulation:kill_points/with 50 partition values open"),
        ),
        (
            "test_the_next_owner_finishes_as_it_was_begun_and_then_changes",
            "test_settings_that_change_over_crashes_lose_and_repeat_nothing",
            "test_killed_with_50_partition_values_open",
        ),
    ),
    Fault(
        "a stream deleted and made again under the same name; two streams or clusters on one root",
        "a loud stop that says what to do; nothing wrong is written",
        (
            ("worlds", "simulation:kinds/source_remade+simulation:kinds/destination_remade"),
            ("loud stops", "simulation:stops/scorer another_stream+simulation:stops/sink another_stream"),
        ),
        (
            "test_another_stream_under_the_same_name",
            "test_another_first_record_is_another_stream_even_under_one_identity",
            "test_two_pipelines_on_one_root_and_stream",
        ),
    ),
    Fault(
        "committed positions lost, set back or set to 0",
        "nothing repeated, nothing lost",
        (("times", "simulation:events/positions"),),
        (
            "test_lost_and_reset_offsets_repeat_and_lose_nothing",
            "test_a_position_reset_to_before_the_run_goes_on_at_its_birth",
        ),
    ),
    Fault(
        "SIGTERM in the middle of a flush, a publish or a snapshot",
        "ends within its grace period; the object is whole or absent",
        (("simulated stops", "simulation:events/stop"), ("real SIGTERMs in a write", "chaos:stops_in_the_middle")),
        ("test_flushing_on_stop_makes_an_object_of_what_is_held", "test_a_stop_does_not_wait_for_an_unavailable_store"),
    ),
    Fault(
        "SIGSTOP for longer than the fail-over time, then SIGCONT (zombie)",
        "its commit is refused; its put is refused or becomes the chain's next link; no object shrinks",
        (
            ("simulated", "simulation:events/freeze+simulation:events/freeze at call"),
            ("real", "chaos:zombies/count"),
        ),
        (
            "test_a_zombie_is_refused_and_leaves_no_trace",
            "test_a_zombie_that_wakes_shrinks_and_repeats_nothing",
            "test_a_stopped_owner_wakes_up_fenced_and_joins_again",
        ),
    ),
    Fault(
        "store or log slow, failing, out for a while",
        "memory stays bounded, the position is held, the lag is made up",
        (
            ("simulated outages", "simulation:events/outage"),
            ("of a minute to four", "simulation:events/long outage"),
            ("spells of failing and slow calls", "simulation:events/bad weather"),
        ),
        (
            "test_an_unavailable_store_holds_the_position_and_nothing_grows",
            "test_an_outage_of_the_store_holds_no_more_however_long_the_log_grows",
            "test_a_store_that_hangs_at_the_stop_is_given_up_in_time",
        ),
    ),
    Fault(
        "services' clocks off by an hour, either way; the broker's clock jumps",
        "which minute a record belongs to is the broker's to say and does not change",
        (
            ("jumps of the broker's clock", "simulation:events/wall clock"),
            ("worlds, with clocks an hour off in three of four", "simulation:seeds"),
        ),
        ("test_its_wall_clock_is_wrong_and_nothing_else", "test_a_broker_whose_clock_went_back"),
    ),
    Fault(
        "the same position delivered again, or out of order",
        "the model's state does not change; the sink's marks drop the line",
        (("lines published again", "simulation:published_again"),),
        (
            "test_the_same_batch_again_changes_nothing",
            "test_an_older_batch_changes_nothing",
            "test_snapshots_and_repeated_deliveries_change_nothing",
        ),
    ),
    Fault(
        "poison: empty, oversize, null, NaN, Infinity, 1e400, booleans, 30-digit integers, a byte-order mark, deep "
        "nesting, wrong types, invalid UTF-8, an anomaly too large to publish",
        "once in the error stream with its reason; the neighbours' scores are those of a run without it",
        (
            ("bad records through the scorer", "bad-input:bad"),
            ("of kinds", "bad-input:kinds"),
            ("simulated", "simulation:bad_records"),
        ),
        (
            "test_every_kind_has_the_reason_it_was_made_for",
            "test_bad_records_are_said_once_and_move_no_neighbour",
            "test_accidents_are_judged_alike",
        ),
    ),
    Fault(
        "rebalance storm: scorers and sinks come and go every few seconds",
        "each record is applied once to each model",
        (
            ("storms", "simulation:events/storm"),
            ("hand-overs in the middle of work", "simulation:counters/cutbank_partitions_given_up_total"),
        ),
        (
            "test_scorers_come_and_go_and_each_record_counts_once",
            "test_sinks_that_fight_for_one_partition_for_ever_produce_each_anomaly_once",
        ),
    ),
    Fault(
        "disk full; out of memory is a kill -9 from outside",
        "fails closed, goes on by itself when there is room",
        (("writes refused", "chaos:full_disk/refused_writes"),),
        (
            "test_a_full_disk_is_said_and_nothing_is_done",
            "test_a_write_that_does_not_fit_leaves_nothing_and_may_be_tried_again",
            "test_ten_times_the_lag_takes_the_same_memory",
        ),
    ),
    Fault(
        "killed during a snapshot; a snapshot cut, changed or gone",
        "an older one and a replay: bit-identical",
        (
            ("simulated kills", "simulation:kill_points/during a snapshot"),
            ("real kills", "chaos:points/during a snapshot"),
            ("snapshots spoilt", "simulation:events/spoil snapshot"),
        ),
        (
            "test_an_unusable_newest_snapshot_is_passed_over_for_the_one_before",
            "test_with_every_snapshot_unusable_all_is_learnt_again_from_the_birth",
            "test_one_changed_bit_anywhere_is_found",
        ),
    ),
    Fault(
        "records past retention",
        "nobody needed them: all goes on; somebody did: a loud stop",
        (
            ("times that nobody needed them", "simulation:events/retention"),
            ("worlds where somebody did", "simulation:kinds/source_expired+simulation:kinds/destination_expired"),
            (
                "loud stops",
                (
                    "simulation:stops/scorer position_lost+simulation:stops/scorer state_lost"
                    "+simulation:stops/sink position_lost+simulation:stops/sink objects_lost"
                ),
            ),
        ),
        ("test_a_position_past_retention", "test_unread_records_past_retention_are_lost_loudly"),
    ),
)

LATER: tuple[tuple[str, str], ...] = (
    ("reshard twice, then merge", "with the Kinesis transport"),
    ("power loss", "not tested: a kill -9 leaves the page cache; every file is fsynced before it is named"),
)

_HEAD = """# Reliability

What Cutbank was put through on the embedded log and on Kafka, on the file-system store and on S3, and what came of it.
Written by `make prove` from the long runs' own results in `docs/results/`; nothing here is typed in by hand but the
faults' names.

**The oracle**: one undisturbed scorer over the trades log as it lies afterwards. Every anomaly of it has to be in the
objects, none twice, each line byte for byte the same (so its score is bit-identical), no committed position ahead of
what is durable, and the lag back at 0. A run that finds anything else fails, and so does one of whose kills none fell
between publish and commit, between claim and object, between object and commit, or during a snapshot.
"""

_AGAIN = """
## How to run it again

    make simulate SEEDS=5000
    make simulate SEED=123
    make chaos KILLS=60
    make chaos-kafka
    make chaos-s3
    make bad-input RECORDS=1000000
    make prove

The simulation runs producer, scorers and sinks in one process on a manual clock, over a log and a store in memory: half
of its worlds publish and commit in one step, as the embedded log and Kafka do, half one after the other, as Kinesis
does. Seeds are worlds: the same seed is the same history, event by event, in any process; a failing one prints it
and the command that runs it again. Every commit runs 240 of them (`make test`) and a chaos run with 20 random kills
(`make test-servers`).

`make chaos` starts the real services over `local://` and a folder, with load, and kills -9 (or stops) them: *random* at
any time; *hunted*, a random moment while a certain call is under way; *exact*, by the process itself at the call.
Publish and commit are one transaction of the embedded log; a kill "between" them fell inside that call.

That the harness sees what it is to see is tested with planted bugs, each caught within the seeds of every commit
(`tests/simulation/planted_bugs.py`): commit before put, a snapshot without its position, the newest claim not finished
on restart, a zombie that rebuilds its right to write, and seven more.
"""


def figure(results: Mapping[str, Any], where: str) -> int:
    """The figure at `form:path`, or the sum of several; `#` at the end counts a table's entries.

    Raises KeyError when a result does not hold it.
    """
    total = 0
    for one in where.split("+"):
        form, _, path = one.partition(":")
        value: Any = results[form]
        for name in path.removesuffix("#").split("/"):
            value = value[name]
        if path.endswith("#"):
            total += len(value)
        else:
            total += sum(value.values()) if isinstance(value, Mapping) else int(value)
    return total


def load() -> dict[str, Any]:
    """Every form's result. Raises FileNotFoundError: run `make prove`."""
    return {form: json.loads((RESULTS / f"{form}.json").read_text(encoding="utf-8")) for form in FORMS}


def page(*sections: str) -> str:
    """The page, with the sections that docs/reliability_kafka.py and docs/reliability_s3.py make."""
    results = load()
    parts = [_HEAD, "\n## The last long runs\n", *_runs(results), "\n## Where the kills fell\n", *_points(results)]
    parts += ["\n## Fault by fault\n", *_faults(results), *sections, "\n## Not here, and why\n"]
    parts += _table(("fault", "where"), LATER)
    return "\n".join(part.rstrip("\n") for part in parts) + "\n" + _AGAIN


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _runs(results: Mapping[str, Any]) -> Iterator[str]:
    simulation, chaos, bad = (results[form] for form in FORMS)
    hours = simulation["simulated_s"] / 3600
    sizes = {
        "simulation": (
            f"{_count(simulation['seeds'])} seeds, {_count(hours)} simulated hours",
            sum(simulation["kills"].values()),
            simulation["anomalies"],
        ),
        "chaos": (
            f"seed {chaos['seed']}, real processes; disk: {chaos['full_disk']['how']}",
            chaos["kills_total"],
            chaos["anomalies"],
        ),
        "bad-input": (f"seed {bad['seed']}, one scorer", 0, bad["scored"]),
    }
    rows = []
    for form, command in FORMS.items():
        found, (what, kills, anomalies) = results[form], sizes[form]
        counts = (found["records"], anomalies, kills, found["lost"], found["repeated"], found["different"])
        ran = found["ran"]
        on = f"{ran['date']}, Python {ran['python']}, {ran['system']}, {ran['cores']} cores"
        rows.append((f"`{command}`", what, *map(_count, counts), _count(found["seconds"]), on))
    head = ("run", "what", "records", "anomalies", "kills", "lost", "twice", "different", "seconds", "ran")
    yield from _table(head, rows)


def _points(results: Mapping[str, Any]) -> Iterator[str]:
    simulated, real = results["simulation"]["kill_points"], results["chaos"]["points"]
    rows = [
        (point, _count(simulated[point]) if point in simulated else "", *(_count(n) for n in real[point].values()))
        for point in real
    ]
    yield from _table(("kill -9 fell", "simulated", *(f"real, {how}" for how in next(iter(real.values())))), rows)


def _faults(results: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for fault in FAULTS:
        happened = "; ".join(f"{what}: {_count(figure(results, where))}" for what, where in fault.counts)
        lost, twice = (sum(results[form][name] for form in fault.forms) for name in ("lost", "repeated"))
        tests = ", ".join(f"`{test}`" for test in fault.tests)
        rows.append((fault.name, fault.also, happened, _count(lost), _count(twice), tests))
    yield from _table(("fault", "also checked", "in the long runs", "lost", "twice", "and, alone, by"), rows)
