"""How kernels are compiled and where the machine code is kept. Owns the choice of the cache folder, nothing else.

Invariant: a cached kernel is used only with the very sources it came from. Numba's cache looks at the file of the
function that is called and not at those it calls, so the folder's name holds a digest of all kernel files.
Runs at import, before any thread of ours.
"""

import atexit
import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import numba

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_KERNELS = Path(__file__).parent


def sources_digest(folder: Path = _KERNELS) -> str:
    """16 hex digits that change with any file of the kernels."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder(bases: Iterable[Path], *, digest: str) -> Path | None:
    """The first folder for machine code under `bases` that can be written to; None: there is none.

    One that was filled and can't be written to (an image warmed as root that runs as somebody else, a read-only file
    system) is copied to a private one, since numba refuses what it can't write to, even to read.
    """
    for base in bases:
        folder = base / f"cutbank-{digest}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            if any(folder.glob("*/*.nbi")):
                return _private_copy(folder)
    return None


def _private_copy(folder: Path) -> Path | None:
    """A copy of a folder that lives as long as this process; None where there is no room for temporary files."""
    try:
        copy = Path(tempfile.mkdtemp(prefix="cutbank-kernels-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        return Path(shutil.copytree(folder, copy, dirs_exist_ok=True))
    except OSError:
        return None


def _bases() -> list[Path]:
    """Where machine code may lie: where NUMBA_CACHE_DIR says; else beside the kernels, else in the user's cache."""
    if numba.config.CACHE_DIR:
        return [Path(numba.config.CACHE_DIR)]
    bases = [_KERNELS / "__pycache__"]
    # A container that runs as any user id has no HOME and no entry for it: then there is no user's cache.
    with contextlib.suppress(RuntimeError):
        bases.append(Path("~/.cache/cutbank").expanduser())
    return bases


_FOLDER = cache_folder(_bases(), digest=sources_digest())


def compiled(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Compile at the first call; keep the machine code on disk where that is possible, else in this process only.

    The same as `numba.njit(cache=True, nogil=True, error_model="numpy")`: the error model makes a division by zero
    give IEEE's answer without a branch.
    """
    if _FOLDER is None:
        return cast("Callable[_Parameters, _Result]", numba.njit(nogil=True, error_model="numpy")(function))
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_FOLDER)
    try:
        kernel = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = before
    return cast("Callable[_Parameters, _Result]", kernel)
