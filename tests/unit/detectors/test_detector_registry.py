"""The registry: names, ranges, limits, missing extras, the self check and what importing costs."""

import json
import subprocess
import sys
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from cutbank import detectors
from cutbank.detectors import registry
from cutbank.detectors.check import fixed_input
from cutbank.errors import DetectorMismatch, MissingExtra, UsageError

BLOCKED = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def in_a_new_process(code: str, *, blocked: tuple[str, ...] = ()) -> object:
    """What `code` prints, as JSON, with some distributions missing."""
    whole = BLOCKED.format(blocked=blocked) + "import json\n" + code
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_is_cheap_and_needs_neither_numba_nor_river() -> None:
    code = """
from cutbank import detectors
versions = {name: detectors.algorithm_version(name) for name in detectors.DETECTORS}
print(json.dumps([versions, [n for n in ("numba", "river", "scipy", "asyncio") if n in sys.modules]]))
"""
    versions, imported = in_a_new_process(code, blocked=("numba", "river"))
    assert versions == {"ensemble": 1, "rcf": 1, "hst": 1}
    assert imported == []


@pytest.mark.parametrize(
    ("name", "blocked", "says"),
    [
        ("rcf", "numba", "pip install numba"),
        ("hst", "river", "pip install river"),
        ("ensemble", "river", "pip install numba river"),
    ],
)
def test_what_is_missing_is_named_when_it_is_needed(name: str, blocked: str, says: str) -> None:
    code = f"""
from cutbank import detectors, errors
try:
    detectors.create({name!r}, dimensions=2)
except errors.MissingExtra as error:
    print(json.dumps(str(error)))
"""
    message = in_a_new_process(code, blocked=(blocked,))
    assert message.startswith(f"detector {name!r} needs")
    assert says in message


def test_hst_needs_no_numba_and_rcf_no_river() -> None:
    code = """
import numpy
from cutbank import detectors
print(json.dumps(len(detectors.create({name!r}, dimensions=2).score_then_learn(numpy.zeros((3, 2))))))
"""
    assert in_a_new_process(code.format(name="rcf"), blocked=("river",)) == 3
    assert in_a_new_process(code.format(name="hst"), blocked=("numba",)) == 3


def test_the_registry_says_the_versions_that_the_models_have() -> None:
    for name, kind in detectors.DETECTORS.items():
        model = detectors.create(name, dimensions=1)
        assert (model.name, model.algorithm_version) == (name, kind.algorithm_version)


def test_an_unknown_name_lists_the_known() -> None:
    for ask in (detectors.algorithm_version, detectors.self_check, lambda name: detectors.create(name, dimensions=1)):
        with pytest.raises(UsageError, match="unknown detector 'rfc'; detectors are ensemble, hst, rcf"):
            ask("rfc")


@pytest.mark.parametrize(
    ("parameter", "least", "greatest"),
    [
        ("dimensions", 1, 1000),
        ("seed", 0, 2**63 - 1),
        ("number_of_trees", 1, 1000),
        ("sub_sample_size", 10, 1000),
        ("time_decay", 1, 2147483647),
        ("shingle_size", 1, 30),
    ],
)
def test_a_parameter_out_of_its_range_is_refused_with_the_range(parameter: str, least: int, greatest: int) -> None:
    for value in (least - 1, greatest + 1, 1.5, "5", True, None):
        with pytest.raises(UsageError, match=f"{parameter} must be an integer from {least} to {greatest}"):
            detectors.create("rcf", **{"dimensions": 1, parameter: value})


def test_both_ends_of_every_range_are_taken() -> None:
    least = {"seed": 0, "number_of_trees": 1, "sub_sample_size": 10, "time_decay": 11, "shingle_size": 1}
    greatest = {"seed": 2**63 - 1, "number_of_trees": 1000, "time_decay": 2147483647}
    for parameters in (
        least | {"dimensions": 1},
        least | greatest | {"dimensions": 1},
        least | {"dimensions": 1000},
        least | {"dimensions": 33, "shingle_size": 30},
        least | {"dimensions": 1, "sub_sample_size": 1000, "time_decay": 1001},
    ):
        features = np.arange(50.0 * parameters["dimensions"]).reshape(50, -1)
        scores = detectors.create("rcf", **parameters).score_then_learn(features)
        assert np.isfinite(scores).all()


def test_parameters_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(UsageError, match=r"sub_sample_size \(256\) must be below time_decay \(256\)"):
        detectors.create("rcf", dimensions=1, time_decay=256)
    with pytest.raises(UsageError, match=r"dimensions \* shingle_size must be at most 1000, not 34 \* 30"):
        detectors.create("rcf", dimensions=34, shingle_size=30)


def test_a_models_size_is_known_before_it_is_made_and_limited() -> None:
    model = detectors.create("rcf", dimensions=2)
    assert detectors.model_bytes("rcf", dimensions=2) == sum(array.nbytes for array in model._forest)
    assert detectors.model_bytes("ensemble", dimensions=2) > detectors.model_bytes("rcf", dimensions=2)
    assert detectors.model_bytes("ensemble", dimensions=2) < detectors.MODEL_BYTES_MAX


def test_warm_up_lasts_until_the_sample_size_in_shingles_was_learnt() -> None:
    features = fixed_input()[:100]
    scores = detectors.create("rcf", dimensions=3, sub_sample_size=20, shingle_size=4).score_then_learn(features)
    assert (scores[:23] == 0.0).all()
    assert (scores[23:] > 0.0).all()


def test_a_shingle_is_the_last_records_side_by_side() -> None:
    features = fixed_input()[:200]
    joined = np.hstack([features[0:-2], features[1:-1], features[2:]])
    shingled = detectors.create("rcf", dimensions=3, seed=1, sub_sample_size=20, shingle_size=3)
    wide = detectors.create("rcf", dimensions=9, seed=1, sub_sample_size=20)
    assert shingled.score_then_learn(features)[2:].tolist() == wide.score_then_learn(joined).tolist()


def test_a_shorter_time_decay_forgets_sooner() -> None:
    """After a lasting change of level, the new level is usual soon with a short decay, and not yet with a long one."""
    features = np.concatenate([fixed_input()[:600, :1], fixed_input()[:400, :1] + 500.0])
    late = {}
    for time_decay in (60, 100_000):
        model = detectors.create("rcf", dimensions=1, sub_sample_size=50, time_decay=time_decay)
        late[time_decay] = float(np.median(model.score_then_learn(features)[800:]))
    assert late[60] < late[100_000]


@pytest.mark.parametrize("name", ["rcf", "hst", "ensemble"])
def test_every_detector_passes_its_own_check(name: str) -> None:
    detectors.self_check(name)


def test_a_detector_whose_scores_differ_refuses_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"rcf": replace(detectors.DETECTORS["rcf"], digest="0" * 64)}
    monkeypatch.setattr(registry, "DETECTORS", MappingProxyType({**detectors.DETECTORS, **other}))
    with pytest.raises(
        DetectorMismatch, match=r"'rcf' scores its fixed input differently .*expected 0000.*cutbank warm"
    ):
        detectors.self_check("rcf")
    with pytest.raises(DetectorMismatch):
        detectors.warm()


def test_warming_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    detectors.warm()
    assert capfd.readouterr() == ("", "")


def test_missing_extras_are_wrong_use() -> None:
    assert issubclass(MissingExtra, UsageError)
