"""The console: one live page, read-only, no external assets; `/metrics` beside it."""

from controller.console.server import serve_console

__all__ = ["serve_console"]
