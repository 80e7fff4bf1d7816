"""Prompts of a wanted length that no prefix cache has seen.

Used by `profiler.measure.client`. Every prompt begins with tokens drawn from the run's seed
and the request's number, and caches match from the first token on, so two requests share no
block. The trace's own prefixes are not reproduced.
"""

from enum import StrEnum

import numpy as np

TOKEN_LOW = 300
"""Below lie bytes and control tokens in most vocabularies."""
TOKEN_HIGH = 3_300
"""The smallest vocabulary met, a test model's, holds 4,096."""
WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world"),
    *("school", "state", "family", "student", "group", "country", "problem", "hand", "part"),
    *("place", "case", "week", "company", "system", "program", "question", "work", "number"),
    *("night", "point", "home", "water", "room", "mother", "area", "money", "story", "fact"),
    *("month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue"),
)
"""Common enough to be one token each in most vocabularies of English."""


class PromptKind(StrEnum):
    """How a prompt is sent."""

    TOKENS = "tokens"
    """A list of token ids: exactly the length wanted; vLLM and its router take it."""
    TEXT = "text"
    """As many words: near the length wanted, for servers that take only text."""


def make_prompt(kind: PromptKind, length_tokens: int, seed: int, index: int) -> list[int] | str:
    """The prompt of request `index` in the run of this `seed`."""
    rng = np.random.default_rng((seed, index))
    if kind is PromptKind.TOKENS:
        ids: list[int] = rng.integers(TOKEN_LOW, TOKEN_HIGH, length_tokens).tolist()
        return ids
    return " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=length_tokens))
