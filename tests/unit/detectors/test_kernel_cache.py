"""Where compiled kernels are kept, and that nowhere is no reason to fail."""

import json
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import numpy as np
import pytest

from cutbank import detectors
from cutbank.detectors.kernels import checking, compiling, forest
from cutbank.detectors.kernels.compiling import cache_folder, sources_digest

RUN = """
import json, numpy
from cutbank.detectors.kernels import compiling
from cutbank.detectors.kernels.elementary import natural_log
value = natural_log(2.0)
print(json.dumps([value, str(compiling._FOLDER), sum(natural_log.stats.cache_hits.values())]))
"""


def run_with_cache(folder: Path) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_the_second_process_compiles_nothing(tmp_path: Path) -> None:
    value, folder, hits = run_with_cache(tmp_path)
    assert Path(folder).parent == tmp_path
    assert hits == 0
    assert run_with_cache(tmp_path) == [value, folder, 1]


def test_no_place_for_a_cache_still_computes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    value, folder, hits = run_with_cache(tmp_path / "file")
    assert (value, folder, hits) == (0.6931471805599453, "None", 0)


def test_a_user_without_a_home_has_no_cache_there_and_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(user_id: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {user_id}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    assert compiling._bases() == [Path(compiling.__file__).parent / "__pycache__"]


def test_the_first_place_that_can_be_written_to_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    folder = cache_folder([tmp_path / "file", tmp_path / "second", tmp_path / "third"], digest="d")
    assert folder == tmp_path / "second" / "cutbank-d"
    assert not (tmp_path / "third").exists()


def test_a_filled_cache_that_is_read_only_is_used_through_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root writes anywhere, so a read-only file system is played by refusing the probe's temporary file.
    filled = tmp_path / "image" / "cutbank-d" / "kernels_1"
    filled.mkdir(parents=True)
    (filled / "kernel.nbi").write_bytes(b"index")
    (filled / "kernel.1.nbc").write_bytes(b"code")

    def read_only(**given: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    copy = cache_folder([tmp_path / "image", tmp_path / "other"], digest="d")
    assert copy is not None
    assert tmp_path not in copy.parents
    assert {path.name: path.read_bytes() for path in copy.glob("*/*")} == {
        "kernel.nbi": b"index",
        "kernel.1.nbc": b"code",
    }
    assert cache_folder([tmp_path / "other"], digest="d") is None, "an empty one is of no use"


def test_the_digest_moves_with_any_kernel_file(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("x = 1")
    (tmp_path / "two.py").write_text("y = 1")
    before = sources_digest(tmp_path)
    assert before == sources_digest(tmp_path)
    (tmp_path / "two.py").write_text("y = 2")
    assert sources_digest(tmp_path) != before


def test_every_kernel_is_compiled_for_one_kind_of_argument() -> None:
    """A second specialisation would be compiled at a user's first odd array, in seconds, while records wait."""
    for name in ("rcf", "ensemble"):
        model = detectors.create(name, dimensions=2, number_of_trees=2)
        read_only = np.asfortranarray(np.ones((30, 2)))
        read_only.flags.writeable = False
        model.score_then_learn(np.ones((30, 2)))
        model.score_then_learn(read_only)
        model.score_then_learn(np.ones((60, 2))[::2])
        detectors.from_bytes(model.to_bytes()).score_then_learn(np.ones((1, 2)))
    for kernel in (forest.prepare, forest.score_then_learn, checking.first_fault):
        assert len(kernel.signatures) == 1
        assert kernel.targetoptions["nogil"] is True
        assert "fastmath" not in kernel.targetoptions
