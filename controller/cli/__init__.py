"""The command line: one module per command, each a thin edge over its room.

A user's mistake is one line on stderr and exit code 2; never a traceback.
"""

import importlib
import sys

import typer

from controller.cli.one_line import in_one_line

COMMANDS = (
    "up", "operator", "plan", "allocate", "profile", "simulate", "replay", "replay-pool", "bench",
    "emulate", "crds", "dashboards", "kubectl",
)  # fmt: skip
"""Each names a module `controller.cli.NAME`, its dashes underscores, that offers a function of that
name, or an APP of commands."""


def build_app(only: str | None = None) -> typer.Typer:
    """Make the application; `only` loads a single command, so that it starts fast."""
    app = typer.Typer(
        name="whaleflux",
        help="A control plane for LLM serving: plan, serve, scale, protect.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(_root)
    for name in (only,) if only else COMMANDS:
        place = name.replace("-", "_")
        module = importlib.import_module(f"controller.cli.{place}")
        if hasattr(module, "APP"):
            app.add_typer(module.APP, name=name)
            continue
        settings = getattr(module, "CONTEXT_SETTINGS", None)
        app.command(name, context_settings=settings)(getattr(module, place))
    return app


def _root() -> None:
    """Keep sub-command style even when a single command is loaded."""


def main() -> None:
    """Run the command line; the console script's entry point."""
    asked = sys.argv[1] if len(sys.argv) > 1 else None

    def run() -> None:
        build_app(asked if asked in COMMANDS else None)()

    in_one_line(run)
