"""Makes docs/sink-figures.md from docs/results/bench-sink.json, the last line of one run of `make bench-sink`.

Nothing is typed in by hand but what each part of the run is. Reads one file; writes none.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "bench-sink.json"

_HEAD = """# Figures of the sink on S3

`make bench-sink`, its parts one after another, S3 being SeaweedFS {seaweedfs} on the same machine: Python
{python}, {processor}, {cores} cores, which log, sink and server share. Lines of 282 bytes. Written by `make docs` from
`docs/results/bench-sink.json`. *Asked* is what we hold ourselves to.

| figure | asked | found | met |
|---|---|---|---|
"""

_THROUGHPUT = """
## Throughput, each round

From `local://` into S3, from the birth of the chain to the last commit: {objects} objects of 16 MiB before compression,
one partition. *gzip alone* is Python's `gzip.compress`, level 6, one thread, on the content of the same objects, in the
same round. Records/s:

| round | gzip | gzip alone | share | none | zstd |
|---|---|---|---|---|---|
"""

_MEMORY = """
## Memory while storage answers 503

{records:,} records are offered as fast as they go. MiB of resident memory above the idle process, which has taken its
partitions up; the byte limit is {byte_limit_mib} MiB:

| partitions, compression | above idle | with the recovery that follows |
|---|---|---|
"""

_VERIFY = """
## `cutbank verify` against plain reading

{anomalies:,} anomalies; *plain* reads the same objects through the same store and parses each line with orjson, in one
thread, in turn with `verify`; the median of the rounds.

| layout | lines/s, verify | lines/s, plain | share | share of processor time | peak memory, MiB |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The page. Raises KeyError where the run left a part out."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    verify, memory = found["verify"], found["memory"]
    some = next(iter(memory.values()))
    return "".join(
        (
            _HEAD.format(**found["machine"]),
            *_figures(found),
            _THROUGHPUT.format(objects=found["throughput"]["rounds"][0]["gzip"]["objects"]),
            *_rounds(found["throughput"]["rounds"]),
            _MEMORY.format(**some),
            *_memories(memory),
            _VERIFY.format(**verify),
            *_layouts(verify),
        )
    )


def _figures(found: Mapping[str, Any]) -> Iterator[str]:
    throughput, minutes, verify = found["throughput"], found["minutes"], found["verify"]
    over = max(one["over_the_limit_mib"] for one in found["memory"].values())
    puts, late_s = minutes["puts_per_minute_and_partition"], minutes["visible_after_minute_end_s"]["p99"]
    slowest = min(
        value for name, value in verify.items() if name.endswith("_share_of_plain") and "processor" not in name
    )
    late_s_max = minutes["grace_s"] + 2.0
    share = throughput["share_of_gzip_alone"]
    yield _figure("log into S3 with gzip, as a share of gzip alone", "at least .6 (aim .8)", share, met=share >= 0.6)
    yield _figure(
        "memory over the byte limit while storage refuses everything, MiB above idle",
        "at most 32",
        over,
        met=over <= 32.0,
    )
    yield _figure(
        f"puts a minute and partition, {minutes['partitions']} quiet partitions, {minutes['minutes']} minutes",
        "2",
        puts,
        met=puts <= 2.0,
    )
    yield _figure(
        "minute's end to object visible, p99, s",
        f"at most {late_s_max:g} (grace + 2)",
        late_s,
        met=late_s <= late_s_max,
    )
    yield _figure(
        "`cutbank verify`, slowest layout, as a share of plain reading", "at least .5", slowest, met=slowest >= 0.5
    )


def _figure(name: str, asked: str, found: float, *, met: bool) -> str:
    return f"| {name} | {asked} | {found:g} | {'yes' if met else '**no**'} |\n"


def _rounds(rounds: list[Mapping[str, Any]]) -> Iterator[str]:
    for number, one in enumerate(rounds, 1):
        speeds = {name: f"{one[name]['records_per_s']:,}" for name in ("gzip", "gzip_alone", "none", "zstd")}
        share = one["share"]
        yield "| {} | {gzip} | {gzip_alone} | {} | {none} | {zstd} |\n".format(number, share, **speeds)


def _memories(memory: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, one in memory.items():
        _, partitions, compression = name.split("_")
        yield (
            f"| {partitions}, {compression} | {one['above_idle_mib']} | {one['peak_with_recovery_above_idle_mib']} |\n"
        )


def _layouts(verify: Mapping[str, Any]) -> Iterator[str]:
    end = "_verify_lines_per_s"
    for of in (name.removesuffix(end) for name in verify if name.endswith(end)):
        scheme, _, layout = of.partition("_")
        yield (
            f"| `{scheme}://`, {layout} | {verify[f'{of}{end}']:,} | {verify[f'{of}_plain_lines_per_s']:,} "
            f"| {verify[f'{of}_share_of_plain']} | {verify[f'{of}_processor_share_of_plain']} "
            f"| {verify[f'{of}_memory_mib']} |\n"
        )
