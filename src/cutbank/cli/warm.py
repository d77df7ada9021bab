"""`cutbank warm`: compiles the detectors' kernels into their cache, at set-up or in an image's build."""

import time

import click

from cutbank.runtime.command import Command


@click.command(
    cls=Command,
    examples=("cutbank warm    once after installation; it takes up to a minute, and later starts take seconds less",),
)
def warm() -> None:
    """Compile the detectors' kernels now, not at the first record.

    The result is cached beside the installed package, or where NUMBA_CACHE_DIR says.
    """
    from cutbank import detectors

    began_s = time.monotonic()
    detectors.warm()
    click.echo(f"kernels ready after {time.monotonic() - began_s:.1f} s")
