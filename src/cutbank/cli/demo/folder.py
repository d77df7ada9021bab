"""The demo's folder: one log, one folder of objects, one spec. Owns what lies in it and who may work in it.

    demo.toml   the spec; its presence says that the folder is a demo's
    log.db*     the log; anomalies/ the objects and claims; state/ births and snapshots; logs/ what the services said
    demo.input.json  what the records come from: a fingerprint of the input's first bytes
    demo.lock   held while a demo runs or counts
    earlier/    what `--fresh` set aside

Invariant: nothing is ever deleted, and nothing moved but the names above. One folder holds one spec, so accounts,
claims and models of two specs never mix. Blocking calls, all short.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cutbank.cli.demo.origin import Origin, origin_of
from cutbank.errors import UsageError
from cutbank.pipeline.spec import NAME_PATTERN, PipelineSpec, load_spec

LABELS_STREAM = "labels"
"""Where the demo's producer says which records it made anomalous."""

OWN_NAMES = ("demo.toml", "demo.input.json", "log.db*", "anomalies", "state", "logs")
"""What `--fresh` sets aside; other files in the folder are not ours and stay."""

_DATA_NAMES = OWN_NAMES[2:]
"""What a demo's services write."""


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Paths and URLs in a demo's folder."""

    path: Path

    @property
    def spec(self) -> Path:
        """The spec's file."""
        return self.path / "demo.toml"

    @property
    def origin(self) -> Path:
        """What says where the log's records come from."""
        return self.path / "demo.input.json"

    @property
    def objects(self) -> Path:
        """Root of the object store: data objects under date folders, claims under `_cutbank/`."""
        return self.path / "anomalies"

    @property
    def logs(self) -> Path:
        """Where the services' logs are."""
        return self.path / "logs"

    @property
    def transport_url(self) -> str:
        """The log."""
        return f"local://{quote(str(self.path / 'log.db'))}"

    @property
    def store_url(self) -> str:
        """The sink's store."""
        return f"file://{quote(str(self.objects))}"

    @property
    def state_url(self) -> str:
        """The scorer's store."""
        return f"file://{quote(str(self.path / 'state'))}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and hold it. Raises UsageError when another demo does, or it can't be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror}; choose a folder with --data") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UsageError(f"{self.path}: another cutbank demo works here; choose a folder with --data") from None
        try:
            yield
        finally:
            os.close(handle)  # lets go of the lock

    def set_aside(self, *, when: str) -> Path | None:
        """Move what an earlier demo left to `earlier/<when>`; None when there is nothing."""
        present = sorted({found for name in OWN_NAMES for found in self.path.glob(name)})
        if not present:
            return None
        target = self.path / "earlier" / when
        try:
            target.mkdir(parents=True)
            for found in present:
                found.rename(target / found.name)
        except OSError as error:
            raise UsageError(f"{self.path}: can't set the earlier demo aside: {error.strerror}") from None
        return target

    def prepare(self, spec: PipelineSpec, *, input_: str | None = None) -> bool:
        """Write the spec and where records come from, or check that both are the same; True: it holds a demo already.

        Raises UsageError for a folder with another spec or input, or with a log that no demo made.
        """
        remedy = "set it aside with --fresh, or choose another folder with --data"
        if self.spec.exists():
            if same_meaning(load_spec(self.spec), spec):
                self._check_input(input_)
                self.logs.mkdir(exist_ok=True)
                return True
            raise UsageError(f"{self.path}: holds a demo with other columns, features or settings; {remedy}")
        foreign = [found.name for name in _DATA_NAMES for found in self.path.glob(name)]
        if foreign:
            raise UsageError(f"{self.path}: {foreign[0]} is there, but not from a demo; {remedy}")
        _write(self.origin, origin_of(input_).to_json())
        _write(self.spec, spec_toml(spec))  # last: its presence says that the folder is a demo's
        self.logs.mkdir(exist_ok=True)
        return False

    def _check_input(self, input_: str | None) -> None:
        """A file is gone on with where it was left, so it must be the same, but for what was added at its end."""
        before = Origin.from_json(self.origin.read_text(encoding="utf-8")) if self.origin.exists() else None
        if before is None or origin_of(input_, bytes_max=before.bytes) != before:
            raise UsageError(
                f"{self.path}: holds another input; begin anew with --fresh, or name another folder with --data"
            )
        now = origin_of(input_)
        if now != before:
            _write(self.origin, now.to_json())  # it has grown: more of it is known from now on

    def existing_spec(self) -> PipelineSpec:
        """The spec of the demo that was run here. Raises UsageError when there was none."""
        if not self.spec.exists():
            raise UsageError(f"{self.path}: no demo was run here; run `cutbank demo` first, or name its folder: --data")
        return load_spec(self.spec)


def same_meaning(one: PipelineSpec, other: PipelineSpec) -> bool:
    """Whether two specs say the same in everything but the description."""
    return one.model_copy(update={"description": ""}) == other.model_copy(update={"description": ""})


def name_of_input(path: str) -> str:
    """A pipeline's name from an input file's: its stem, in the characters that names take; `stdin` for `-`."""
    if path == "-":
        return "stdin"
    stem = re.sub(r"(\.(csv|tsv|txt|json|jsonl|ndjson|gz))+$", "", Path(path).name, flags=re.IGNORECASE)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem)[:80].lstrip("_.-")
    return name if re.fullmatch(NAME_PATTERN, name) else "input"


def spec_toml(spec: PipelineSpec) -> str:
    """The spec as TOML; `load_spec` of it gives the same."""
    table = spec.model_dump(mode="json", exclude={"columns", "detector"})
    lines = ["# The spec of this demo, written by `cutbank demo`; the services read it."]
    lines.extend(f"{key} = {_toml(value)}" for key, value in table.items())
    lines.append("columns = [")
    lines.extend(f"  {{ name = {_toml(column.name)}, type = {_toml(column.type)} }}," for column in spec.columns)
    lines.append("]")
    lines.append("\n[detector]")
    lines.extend(f"{key} = {_toml(value)}" for key, value in spec.detector.model_dump(mode="json").items())
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    written = path.with_name(path.name + ".new")
    written.write_text(text, encoding="utf-8")
    written.replace(path)


def _toml(value: object) -> str:
    """A string, number, boolean or list of them: JSON's notation is TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
