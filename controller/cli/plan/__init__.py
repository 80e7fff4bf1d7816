"""`whaleflux plan`: recommend a configuration, say what it carries, and why."""

from controller.cli.plan.command import plan

__all__ = ["plan"]
