"""`whaleflux replay`: what scaling policies would have made of a trace, or of one's own history."""

from controller.cli.replay.command import replay

__all__ = ["replay"]
