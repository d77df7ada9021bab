"""Servers of tests that end with the process that started them, however that ends. Owns nothing."""

import os
import sys

_RUN = (  # the child asks to be killed with us, then becomes the program
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


def ends_with_us(*command: str) -> list[str]:
    """The command to run in place of this one. The program's path is whole; start it from a thread that lasts."""
    return [sys.executable, "-S", "-c", _RUN, str(os.getpid()), *command]
