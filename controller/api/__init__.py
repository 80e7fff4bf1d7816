"""The API: LLMService and EngineProfile as pydantic types, and the CRDs made from them.

Validated once, at the edge; inside, `controller.service.Service` travels.
"""

from controller.api.llmservice import GROUP, VERSION, LLMService, LLMServiceSpec
from controller.api.manifests import Manifests, parse_service, read_manifests

__all__ = [
    "GROUP",
    "VERSION",
    "LLMService",
    "LLMServiceSpec",
    "Manifests",
    "parse_service",
    "read_manifests",
]
