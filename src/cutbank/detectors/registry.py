"""The one list of detectors, and how each is made, restored and checked. Owns names; models belong to whoever asked.

Cheap to import: numba and River are imported by the opener of the detector that needs them. Stateless, thread-safe.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cutbank.detectors.base import Detector
from cutbank.detectors.check import check_scores
from cutbank.detectors.parameters import Parameters
from cutbank.detectors.state import STATE_BYTES_MAX, State, decode_state
from cutbank.errors import MissingExtra, SnapshotUnusable, UsageError

MODEL_BYTES_MAX = STATE_BYTES_MAX
"""Largest model that is made, bytes; the parameters' ranges alone would allow 24 GB. Known before anything is made."""


@dataclass(frozen=True, slots=True)
class Factory:
    """What a detector's opener gives: how to make and restore its models."""

    create: Callable[[Parameters], Detector]
    """An empty model."""
    restore: Callable[[State], Detector]
    """The model whose state this is. Raises SnapshotUnusable."""
    model_bytes: Callable[[Parameters], int]
    """Memory that a model takes, bytes."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A detector as the registry knows it, without importing what it needs."""

    summary: str
    """One line for people."""
    algorithm_version: int
    """Changes only when a score would; part of the pipeline spec's hash."""
    digest: str
    """What `self_check` expects: see check.py."""
    needs: tuple[str, ...]
    """Distributions that it imports."""
    open: Callable[[], Factory]
    """Imports the detector's module. Raises ImportError where a distribution is missing."""


def _open_rcf() -> Factory:
    from cutbank.detectors import rcf

    return Factory(rcf.RandomCutForest, rcf.RandomCutForest.restore, rcf.model_bytes)


def _open_hst() -> Factory:
    from cutbank.detectors import hst

    return Factory(hst.HalfSpaceTrees, hst.HalfSpaceTrees.restore, hst.model_bytes)


def _open_ensemble() -> Factory:
    from cutbank.detectors import ensemble

    return Factory(ensemble.Ensemble, ensemble.Ensemble.restore, ensemble.model_bytes)


DETECTORS: Mapping[str, Kind] = MappingProxyType(
    {
        "ensemble": Kind(
            summary="random cut forest, raised by half-space trees below 1 (default)",
            algorithm_version=1,
            digest="2c51db83f9e615e019312c6b8713b5a42de1ecf20e23cfc1e79810e2a5d7b022",
            needs=("numba", "river"),
            open=_open_ensemble,
        ),
        "rcf": Kind(
            summary="random cut forest, as RANDOM_CUT_FOREST of Kinesis Data Analytics",
            algorithm_version=1,
            digest="0aff0fb08ef2ec4d8a07ff202e7ce02a4026ef02a85daf7f6860a23ba8b5e6c1",
            needs=("numba",),
            open=_open_rcf,
        ),
        "hst": Kind(
            summary="River's half-space trees behind its MinMaxScaler",
            algorithm_version=1,
            digest="04d779afd5b7d97b3d08f0e34cb7914bc49cbac5e6aa3dafed7986719b0a0907",
            needs=("river",),
            open=_open_hst,
        ),
    }
)
"""Name -> detector."""


def kind_of(name: str) -> Kind:
    """The detector of this name. Raises UsageError, which lists the names."""
    try:
        return DETECTORS[name]
    except KeyError:
        raise UsageError(f"unknown detector {name!r}; detectors are {', '.join(sorted(DETECTORS))}") from None


def _opened(name: str) -> Factory:
    kind = kind_of(name)
    try:
        return kind.open()
    except ImportError as error:
        needs = " ".join(kind.needs)
        raise MissingExtra(f"detector {name!r} needs {needs}: pip install {needs} ({error})") from None


def algorithm_version(name: str) -> int:
    """The version of a detector's algorithm, without building a model. Raises UsageError for an unknown name."""
    return kind_of(name).algorithm_version


def create(
    name: str,
    *,
    dimensions: int,
    seed: int = 7,
    number_of_trees: int = 100,
    sub_sample_size: int = 256,
    time_decay: int = 100_000,
    shingle_size: int = 1,
) -> Detector:
    """An empty model. The same arguments and the same records give the same scores, bit for bit.

    Args:
        name: "ensemble", "rcf" or "hst".
        dimensions: features of a record, 1 to 1000; times shingle_size at most 1000.
        seed: start of all randomness, 0 to 2**63 - 1.
        number_of_trees: trees of the forest, 1 to 1000.
        sub_sample_size: records that a tree samples, 10 to 1000; scores are 0 until as many shingles were learnt.
        time_decay: shingles after which the past counts for a factor e less, 1 to 2147483647, above sub_sample_size.
        shingle_size: records in a row that are scored as one point, 1 to 30.

    hst takes `dimensions` and `seed`, is otherwise as River's defaults make it, and ignores the rest.

    Raises:
        UsageError: an unknown name, a parameter out of its range (the message says the range), a model of more than
            MODEL_BYTES_MAX.
        MissingExtra: what the detector imports is not installed; the message says what to install.
    """
    parameters = Parameters(
        dimensions=dimensions,
        seed=seed,
        number_of_trees=number_of_trees,
        sub_sample_size=sub_sample_size,
        time_decay=time_decay,
        shingle_size=shingle_size,
    )
    factory = _opened(name)
    _sized(name, factory, parameters)
    return factory.create(parameters)


def model_bytes(name: str, *, dimensions: int, **parameters: int) -> int:
    """Memory that a model made by `create` with these arguments takes, bytes, computed and not tried: nothing is made.

    Exact for rcf, an upper bound for what River makes. Raises what `create` raises, the limit included.
    """
    return _sized(name, _opened(name), Parameters(dimensions=dimensions, **parameters))


def _sized(name: str, factory: Factory, parameters: Parameters) -> int:
    """A model's bytes. Raises UsageError over the limit, with the figure and what to lower."""
    needed = factory.model_bytes(parameters)
    if needed > MODEL_BYTES_MAX:
        raise UsageError(
            f"a model of {name} with these parameters needs {needed} bytes, more than MODEL_BYTES_MAX "
            f"({MODEL_BYTES_MAX}): lower number_of_trees, sub_sample_size, shingle_size or the number of features"
        )
    return needed


def from_bytes(data: bytes) -> Detector:
    """The model whose `to_bytes` this is; it goes on bit-identically.

    Raises:
        SnapshotUnusable: altered, cut off, of another format or algorithm version, of an unknown detector, or no
            sound model inside. Nothing in `data` is trusted and nothing in it runs code.
        MissingExtra: what the detector imports is not installed.
    """
    state = decode_state(data)
    if state.name not in DETECTORS:
        raise SnapshotUnusable(f"detector state is of an unknown detector, {state.name!r}")
    version = DETECTORS[state.name].algorithm_version
    if state.algorithm_version != version:
        raise SnapshotUnusable(
            f"detector state is of {state.name} version {state.algorithm_version}; this program has version {version}"
        )
    factory = _opened(state.name)
    if factory.model_bytes(state.parameters) > MODEL_BYTES_MAX:
        raise SnapshotUnusable(f"detector state is of a model larger than MODEL_BYTES_MAX ({MODEL_BYTES_MAX})")
    return factory.restore(state)


def self_check(name: str) -> None:
    """Score a fixed input and compare with what every machine must give; compiles what is not compiled yet.

    Takes milliseconds once compiled. Raises DetectorMismatch, which says what to do; UsageError; MissingExtra.
    """
    factory = _opened(name)
    check_scores(name, create=factory.create, restore=from_bytes, expected=kind_of(name).digest)


def warm(names: Iterable[str] = tuple(DETECTORS)) -> None:
    """Compile all kernels into their cache, at set-up or in an image's build: each detector checks itself once.

    Takes seconds with an empty cache. Prints nothing. Raises as `self_check`.
    """
    for name in names:
        self_check(name)
