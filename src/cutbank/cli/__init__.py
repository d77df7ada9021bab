"""The `cutbank` command. Owns the process: its arguments, its environment and its exit code.

Only here, in the services' `__main__` and in the producer's `lambda_function` is the environment read; everything
below is given it. Every command is imported when it is asked for, so that `--help` is quick.
"""

import os
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. `argv` without the program's name; None: the process's own."""
    import sys

    from cutbank.cli.root import cutbank
    from cutbank.runtime.command import execute

    return execute(cutbank, sys.argv[1:] if argv is None else argv, program="cutbank", obj=dict(os.environ))
