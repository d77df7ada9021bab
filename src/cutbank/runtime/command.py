"""Commands whose help ends in examples, and the one way in which every command of ours ends.

Wrong use is one line on stderr and exit code 2, other errors that we foresee one line and 1, Ctrl-C quiet and 130; a
reader of our output that goes away is no error. A traceback means a bug of ours. Imports little: `--help` is quick.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from cutbank.errors import CutbankError, UsageError
from cutbank.runtime.secrets import mask_secrets

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130


class Command(click.Command):
    """A command whose help ends in examples."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **given: Any) -> None:
        super().__init__(*args, **given)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_examples(self.examples, formatter)
        super().format_epilog(ctx, formatter)


class Group(click.Group):
    """A group of commands whose help ends in examples; without a command it is wrong use, in one line."""

    command_class = Command

    def __init__(self, *args: Any, examples: Sequence[str] = (), **given: Any) -> None:
        super().__init__(*args, **{"no_args_is_help": False, **given})
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_examples(self.examples, formatter)
        super().format_epilog(ctx, formatter)


def write_examples(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    """The section of a help text that shows command lines, as they are typed."""
    with formatter.section("Examples"):
        for example in examples:
            formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def execute(command: click.Command, argv: Sequence[str], *, program: str, obj: Any = None) -> int:
    """Run a click command to its exit code; every end that is the user's or the world's doing is one line at most."""
    try:
        # Not `command.main`: it answers a broken pipe and Ctrl-C in its own way.
        with command.make_context(program, list(argv), obj=obj) as context:
            result = command.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return _flushed(end.exit_code)
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except (click.ClickException, CutbankError, OSError) as error:
        return _refuse(error, program)
    return result if isinstance(result, int) else 0


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    return code


def _refuse(error: Exception, program: str) -> int:
    message = _click_message(error) if isinstance(error, click.ClickException) else str(error)
    sys.stderr.write(f"{program}: error: {mask_secrets(' '.join(message.split()))}\n")
    return EXIT_USAGE if isinstance(error, click.ClickException | UsageError) else EXIT_FAILED


def _click_message(error: click.ClickException) -> str:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    return f"{message.rstrip('.')} (see {context.command_path} --help)" if context is not None else message


def _forget_stdout() -> None:
    """Whoever read our output has gone: let the interpreter's last flush go nowhere instead of failing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
