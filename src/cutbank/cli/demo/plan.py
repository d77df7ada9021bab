"""What one run of the demo is to do: folder, spec, and the settings of the three services. Checks all of it first.

Values; the only I/O is to look at the input's first lines and to prepare the folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutbank.cli.demo.folder import LABELS_STREAM, DemoFolder, name_of_input
from cutbank.cli.demo.origin import STDIN
from cutbank.errors import UsageError
from cutbank.pipeline.inputs import Input, open_input
from cutbank.pipeline.spec import PipelineSpec, parse_spec
from cutbank.settings import Settings
from cutbank_producer.settings import ProducerSettings
from cutbank_scorer.settings import ScorerSettings
from cutbank_sink.settings import SinkSettings

DEMO_SECONDS = 120.0
"""How long trades are made up unless told otherwise."""

PRODUCER_SPARE_S = 60.0
"""The producer would end by itself so long after the demo should have stopped it."""

SNAPSHOT_S = 5
"""Seconds between two snapshots of the demo's scorer: short, so that one that is killed has little to score again."""

SERVICES: Mapping[str, type[Settings]] = {
    "producer": ProducerSettings,
    "scorer": ScorerSettings,
    "sink": SinkSettings,
}

FROM_ENVIRONMENT = (
    "records_per_batch",
    "records_per_second",
    "anomaly_share",
    "anomaly_multiplier_min",
    "anomaly_multiplier_max",
    "seed",
    "speed",
    "input_format",
    "delimiter",
    "partition_by",
)
"""Settings of the producer that are taken from the environment; every other variable of a service is the demo's."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line's options, as they came; None: not given."""

    seconds: float | None = None
    data: Path | None = None
    fresh: bool = False
    input: str | None = None
    features: str | None = None
    pace: str | None = None
    rate: str | None = None
    timestamp_column: str | None = None
    seed: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A run of the demo, checked."""

    folder: DemoFolder
    spec: PipelineSpec
    producer: ProducerSettings
    environs: Mapping[str, Mapping[str, str]]
    """The environment of each service's process."""
    seconds: float | None
    """How long; None: until the input ends."""
    input: str | None
    """Where the records come from, as it was asked; None: they are made up."""
    source: Input | None
    """Standard input, opened, where that is replayed: only this process has it."""
    labels: str | None
    """The stream of labels, where the producer makes any."""


def folder_of(asked: Asked) -> DemoFolder:
    """`data`, or for an input a folder of its own in it, unless told otherwise."""
    if asked.data is not None:
        return DemoFolder(asked.data)
    return DemoFolder(Path("data") if asked.input is None else Path("data") / f"input-{name_of_input(asked.input)}")


def make_plan(asked: Asked, environ: Mapping[str, str]) -> Plan:
    """Check everything; for standard input, open it. Raises UsageError, before anything was written."""
    if asked.input is None:
        for name in ("features", "timestamp_column"):
            if getattr(asked, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} is about an --input, and none is given")
        return _plan(asked, environ, PipelineSpec(), None)
    features = tuple(name.strip() for name in (asked.features or "").split(",") if name.strip())
    if not features:
        raise UsageError("--input needs --features: the numeric columns to score, such as --features price,quantity")
    source = open_input(asked.input, **_how_to_read(environ))
    try:
        columns = [column.model_dump() for column in source.columns(features=features)]
        table = {
            "name": name_of_input(asked.input),
            "description": f"Extracts anomalous records of {source.name}.",
            "columns": columns,
            "features": features,
        }
        spec = parse_spec(table, where=f"--input {asked.input} --features {','.join(features)}")
        plan = _plan(asked, environ, spec, source if asked.input == STDIN else None)
    except BaseException:
        source.close()
        raise
    if plan.source is None:
        source.close()
    return plan


def _plan(asked: Asked, environ: Mapping[str, str], spec: PipelineSpec, source: Input | None) -> Plan:
    folder = folder_of(asked)
    seconds = asked.seconds if asked.input is not None else (asked.seconds or DEMO_SECONDS)
    labels = LABELS_STREAM if asked.input is None else None
    shared = {"transport_url": folder.transport_url, "spec": str(folder.spec), "log_format": "console"}
    pace = asked.pace or ("file" if asked.timestamp_column is not None else None)
    chosen: dict[str, dict[str, Any]] = {
        "producer": {
            **shared,
            "stream_name": spec.source,
            "labels_stream": labels,
            "duration_seconds": 0 if seconds is None else seconds + PRODUCER_SPARE_S,
            "records_per_second": asked.rate,
            "seed": asked.seed,
            "input": asked.input,
            "pace": pace,
            "timestamp_column": asked.timestamp_column,
            # A file is gone on with, after a kill as well as by a later demo; standard input can't be.
            "resume": "true" if asked.input not in (None, STDIN) else None,
        },
        "scorer": {**shared, "state_url": folder.state_url, "emit": "all", "snapshot_s": SNAPSHOT_S},
        "sink": {**shared, "store_url": folder.store_url, "flush_on_stop": "true"},
    }
    environs = {name: _child_environ(environ, name, chosen[name]) for name in SERVICES}
    for name, settings in SERVICES.items():
        settings.load(environs[name])
    return Plan(
        folder=folder,
        spec=spec,
        producer=ProducerSettings.load(environs["producer"]),
        environs=environs,
        seconds=seconds,
        input=asked.input,
        source=source,
        labels=labels,
    )


def _child_environ(environ: Mapping[str, str], name: str, chosen: Mapping[str, Any]) -> dict[str, str]:
    """The environment without any service's variables, then what this service is told."""
    ours = {kind.environment_name(field) for kind in SERVICES.values() for field in kind.model_fields}
    settings = SERVICES[name]
    passed_on = (
        {ProducerSettings.environment_name(field) for field in FROM_ENVIRONMENT} if name == "producer" else set()
    )
    found = {variable: value for variable, value in environ.items() if variable not in ours or variable in passed_on}
    return found | {
        settings.environment_name(field): str(value) for field, value in chosen.items() if value is not None
    }


def _how_to_read(environ: Mapping[str, str]) -> dict[str, Any]:
    """How the input is to be read, as the producer will."""
    given = {
        field: environ[ProducerSettings.environment_name(field)]
        for field in ("input_format", "delimiter")
        if ProducerSettings.environment_name(field) in environ
    }
    settings = ProducerSettings.load({}, **given)
    return {"input_format": settings.input_format, "delimiter": settings.delimiter}
