"""Talking to the Kubernetes API: one aiohttp session, objects decoded straight to structs.

`kubernetes` reads the configuration and the credentials; lists, watches and writes go
through `client`, and `reflector` keeps a cache that survives gaps in the stream.
"""

from controller.kube.client import Conflict, Forbidden, KubeClient, KubeError, NotFound
from controller.kube.reflector import Reflector, newer

__all__ = ["Conflict", "Forbidden", "KubeClient", "KubeError", "NotFound", "Reflector", "newer"]
