"""`cutbank demo`: producer, scorer and sink on this machine, shown live, and accounts that anybody can recount.

This file is the command: its options, and what it prints. `plan` checks what is asked, `session` runs it, `watching`
reads the log for the screen, `cutbank.pipeline.audit` recounts. Imports little, so that `--help` is quick.
"""

from collections.abc import Mapping
from pathlib import Path

import click

from cutbank.runtime.command import Command

__all__ = ["demo"]

_HELP = """Run producer, scorer and sink together and prove the accounts.

Stock trades go in, 5 % of them with a higher price and quantity; anomalies come out as objects under DATA/anomalies,
one a minute. Ctrl-C or the end drains everything; then records and anomalies are recounted from the log and the
objects, and the exit code is 1 if a line is missing, doubled or altered. Again, Ctrl-C stops at once; nothing is lost.

Run again, it goes on with the same log, model and objects, and the accounts cover all of them: the log keeps 24 hours.
A file given as --input has a folder of its own, and is gone on with where it was left; another file of its name is
refused. --fresh moves what an earlier demo left to DATA/earlier; nothing is ever deleted, and nothing touched that no
demo made.

The producer's variables RECORDS_PER_BATCH, RECORDS_PER_SECOND, ANOMALY_SHARE, ANOMALY_MULTIPLIER_MIN and _MAX, SEED,
SPEED, INPUT_FORMAT, DELIMITER and PARTITION_BY work here too. What the services log is added to DATA/logs."""

_EXAMPLES = (
    "cutbank demo                                              two minutes of trades",
    "cutbank demo --seconds 30 --report report.html            and a figure of them",
    "cutbank demo --input trades.csv.gz --features price,size --pace max",
    "zcat trades.ndjson.gz | cutbank demo --input - --features price,size --pace max",
    "cutbank demo --recount                                    count again what the last demo left",
)


@click.command(cls=Command, help=_HELP, examples=_EXAMPLES)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1.0, max=86_400.0),
    metavar="NUMBER",
    help="How long records come in.  [default: 120; with --input: until it ends]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of log, objects, model and logs.  [default: data; with --input: data/input-NAME]",
)
@click.option(
    "--fresh/--keep", default=False, help="Begin anew, and set aside what an earlier demo left; or go on with it."
)
@click.option("--input", "input_", metavar="FILE", help="Replay CSV or NDJSON, plain or .gz; - is standard input.")
@click.option("--features", metavar="A,B", help="The input's numeric columns that are scored, 1 to 30.")
@click.option(
    "--pace",
    type=click.Choice(["rate", "file", "max"]),
    help="At a rate, at the file's own pace, or as fast as it goes.  [default: rate; with a timestamp column: file]",
)
@click.option(
    "--rate",
    "--records-per-second",
    "rate",
    metavar="NUMBER",
    help="Records a second; 0: as fast as it goes.  [RECORDS_PER_SECOND; default: 100]",
)
@click.option("--timestamp-column", metavar="C", help="The input's column of timestamps, for its own pace.")
@click.option("--seed", metavar="INTEGER", help="Start of the made-up trades' randomness.  [SEED; default: 7]")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Draw features and score over time, anomalies marked, in one file that opens offline.",
)
@click.option("--recount", is_flag=True, help="Run nothing: recount what lies in DATA, and draw the report.")
@click.option("--screenshot", type=click.Path(path_type=Path, dir_okay=False), hidden=True, metavar="FILE.svg")
@click.pass_obj
def demo(
    environ: Mapping[str, str] | None,
    /,
    *,
    seconds: float | None,
    data: Path | None,
    fresh: bool,
    input_: str | None,
    features: str | None,
    pace: str | None,
    rate: str | None,
    timestamp_column: str | None,
    seed: str | None,
    report: Path | None,
    recount: bool,
    screenshot: Path | None,
) -> int:
    """The command; its help is above."""
    from cutbank.cli.demo.plan import Asked
    from cutbank.cli.demo.running import recount_only, run

    asked = Asked(
        seconds=seconds,
        data=data,
        fresh=fresh,
        input=input_,
        features=features,
        pace=pace,
        rate=rate,
        timestamp_column=timestamp_column,
        seed=seed,
    )
    if recount:
        return recount_only(asked, report=report)
    return run(asked, environ or {}, report=report, picture=screenshot)
