"""`whaleflux profile`: measure an engine, take a step apart, correct a profile.

`whaleflux profile URL …` measures; `estimate`, `capacity`, `decompose` and `recalibrate` are
commands below it.
"""

from typing import Any

import typer
from typer.core import TyperGroup

from controller.cli.profile.capacity import capacity
from controller.cli.profile.decompose import decompose
from controller.cli.profile.estimate import estimate
from controller.cli.profile.measure import measure
from controller.cli.profile.recalibrate import recalibrate

MEASURE = "measure"


class _MeasureByDefault(TyperGroup):
    """A first argument that names no command is an address to measure."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command's name before an address or an option of its own."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [MEASURE, *args]
        return super().parse_args(ctx, args)


APP = typer.Typer(
    cls=_MeasureByDefault,
    help="Measure an engine's step cost; take a step apart; correct a profile.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
APP.command(MEASURE)(measure)
APP.command("capacity")(capacity)
APP.command("decompose")(decompose)
APP.command("estimate")(estimate)
APP.command("recalibrate")(recalibrate)

__all__ = ["APP"]
