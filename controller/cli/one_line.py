"""How every command line of this product ends in a mistake: one line, exit code 2."""

from collections.abc import Callable

import typer

from profiler.errors import WhaleFluxError

USAGE_ERROR = 2


def in_one_line(run: Callable[[], object]) -> None:
    """Run; an error that a person can mend is told in one line on stderr."""
    try:
        run()
    except WhaleFluxError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(USAGE_ERROR) from None
