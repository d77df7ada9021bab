"""Runs one of our modules as `python -m` would, in a process that is told to stop when the one that started it is gone.

`python -m cutbank.cli.demo.child PARENT MODULE`: so a demo that is killed leaves no service behind. Linux tells a
process of its parent's death; elsewhere the service just runs on.
"""

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def stop_with_parent(parent: int) -> None:
    """Ask for SIGTERM when the parent ends; exit at once if it has ended already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)


def main(arguments: list[str]) -> None:
    """`arguments`: the parent's process id, the module."""
    parent, module = arguments
    stop_with_parent(int(parent))
    sys.argv[:] = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
