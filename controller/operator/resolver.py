"""Resolve specs: a few at a time, beside the loops, and each question once.

The search behind a spec takes a good part of a second of a core. A thousand services that begin at
once must not starve the loops, and services that ask the same question share the answer.
"""

import asyncio
from collections.abc import Callable, Mapping

from controller.api.llmservice import LLMService
from controller.configure import InForce
from controller.operator.instruments import Instruments
from controller.service import Answer, Service, answer_to, made_service, question_of
from profiler.errors import Refused
from profiler.profile import EngineProfile

_AT_ONCE = 2
_KEPT = 512
_REFUSED_S = 600.0
"""How long a refusal stands: only a model's folder may change what the question does not show."""
Question = tuple[object, ...]


class Resolver:
    """Answers that were found lately, by what was asked."""

    def __init__(self, instruments: Instruments, now_s: Callable[[], float]) -> None:
        self._instruments = instruments
        self._now_s = now_s
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._found: dict[Question, Answer | Refused] = {}
        self._refused_s: dict[Question, float] = {}
        self._asking: dict[Question, asyncio.Lock] = {}

    async def resolve(
        self,
        manifest: LLMService,
        profiles: Mapping[str, EngineProfile],
        in_force: InForce | None,
    ) -> Service:
        """As `resolve_service`, in a thread; raises what that raises."""
        question = question_of(manifest.spec, profiles, in_force)
        with self._instruments.queued.track_inprogress():
            async with self._asking.setdefault(question, asyncio.Lock()):
                answer = self._known(question)
                if answer is None:
                    answer = await self._answer(manifest, profiles, in_force)
                    self._remember(question, answer)
        self._asking.pop(question, None)
        if isinstance(answer, Refused):
            raise answer
        return made_service(manifest, answer)

    def _known(self, question: Question) -> Answer | Refused | None:
        old = self._now_s() - self._refused_s.get(question, self._now_s()) > _REFUSED_S
        return None if old else self._found.get(question)

    async def _answer(
        self,
        manifest: LLMService,
        profiles: Mapping[str, EngineProfile],
        in_force: InForce | None,
    ) -> Answer | Refused:
        async with self._room:
            began_s = self._now_s()
            try:
                return await asyncio.to_thread(answer_to, manifest.spec, profiles, in_force)
            except Refused as refusal:
                return refusal
            finally:
                self._instruments.reconcile_s.observe(self._now_s() - began_s)

    def _remember(self, question: Question, answer: Answer | Refused) -> None:
        while len(self._found) >= _KEPT:
            oldest = next(iter(self._found))
            del self._found[oldest]
            self._refused_s.pop(oldest, None)
        self._found[question] = answer
        self._refused_s.pop(question, None)
        if isinstance(answer, Refused):
            self._refused_s[question] = self._now_s()
