"""`kubectl whaleflux`: see, explain, test and plan the services of a cluster.

Reads with the caller's own kubeconfig and rights, as kubectl does. Only `drill` changes anything.
"""

import typer

from controller.cli.kubectl.drill import drill
from controller.cli.kubectl.explain import explain
from controller.cli.kubectl.plan import plan
from controller.cli.kubectl.top import top
from controller.cli.one_line import in_one_line

APP = typer.Typer(
    name="kubectl whaleflux",
    help="See, explain, test and plan the LLMServices of a cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for _command in (top, explain, drill, plan):
    APP.command()(_command)


def main() -> None:
    """Run as `kubectl-whaleflux`, which kubectl finds on the PATH."""
    in_one_line(lambda: APP(prog_name="kubectl whaleflux"))


__all__ = ["APP", "main"]
