"""Find an engine that holds requests and makes no tokens, whatever its `/health` says."""

from dataclasses import dataclass

from monitor.signals import EngineSignals

WEDGED_AFTER_S = 10.0
"""Far longer than any step; a prefill of 100,000 tokens takes seconds."""


@dataclass(frozen=True, slots=True)
class TokenProgress:
    """When tokens of one replica were last seen to move."""

    tokens: float | None = None
    moved_s: float | None = None

    def seen(self, signals: EngineSignals, at_s: float) -> tuple["TokenProgress", bool]:
        """Take in a reading: the progress so far, and whether the engine is wedged.

        Tokens are prompt and generated ones; idle engines and missing counters are never
        wedged.
        """
        parts = (signals.prompt_tokens_total, signals.generation_tokens_total, signals.running)
        if any(part is None for part in parts):
            return self, False
        prompt, generated, running = (float(part or 0.0) for part in parts)
        tokens = prompt + generated
        idle = running == 0 and not signals.waiting
        if tokens != self.tokens or self.moved_s is None or idle:
            return TokenProgress(tokens, at_s), False
        return self, at_s - self.moved_s > WEDGED_AFTER_S
