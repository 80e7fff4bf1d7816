"""Runtimes: where replicas run. One protocol, one contract suite for all of them."""

from controller.runtimes.protocol import Runtime

__all__ = ["Runtime"]
