"""Tokens without a tokenizer: how text is counted, and what an answer says.

Text is cut at white space; a word of up to `PIECE_BYTES` UTF-8 bytes is one token, a longer
one takes one for every `PIECE_BYTES` begun. So k short words are k tokens, and an answer of
k tokens counts as k when it comes back in the next turn's prompt.

A chat costs, per message, its content and `MESSAGE_MARKS`, and once `ANSWER_MARKS`: the
special tokens that the ChatML template of Qwen spends.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from math import exp, log
from statistics import NormalDist

PIECE_BYTES = 8
MESSAGE_MARKS = 5
ANSWER_MARKS = 3
VOCABULARY = 32_000
"""Ids that `/tokenize` answers with lie below this."""

LENGTH_MEDIAN_TOKENS = 200.0
LENGTH_SPREAD = 0.8
"""An answer that may stop is lognormal: median, and standard deviation of its logarithm;
the public chat traces lie at 150–250 tokens and 0.7–1.0."""

_WORDS = (
    "able air also area back base be big body both call car case city cold come cost day "
    "deep done door each east end even eye face fact far feel few find fire food form full "
    "game give go good hand hard head help high home hour idea kind land last late lead life "
    "line long look make mean mind more move name near need next night north note once open "
    "part past plan play power rain read real rest rise road room rule same sea seem send "
    "side sign size small sound south star still stone sun table take tell test than then "
    "time town tree true turn under unit very voice walk wall war water way week well west "
    "what wide wind wood word work world year you"
)
WORDS = tuple(_WORDS.split())
"""What answers are made of: short, ASCII, with nothing that JSON would escape."""

_SPACED = tuple(f" {word}" for word in WORDS)
_MASK = (1 << 64) - 1


def pieces(text: str) -> list[bytes | int]:
    """Cut text into its tokens."""
    cut: list[bytes | int] = []
    for word in text.encode().split():
        if len(word) <= PIECE_BYTES:
            cut.append(word)
        else:
            cut.extend(word[i : i + PIECE_BYTES] for i in range(0, len(word), PIECE_BYTES))
    return cut


def chat_pieces(messages: Iterable[tuple[str, str]]) -> list[bytes | int]:
    """Cut a chat, (role, content) each, as its template would lay it out."""
    cut: list[bytes | int] = []
    for role, content in messages:
        cut += [b"<|im_start|>", role.encode(), b"\n", *pieces(content), b"<|im_end|>", b"\n"]
    return [*cut, b"<|im_start|>", b"assistant", b"\n"]


def token_ids(cut: Iterable[bytes | int]) -> list[int]:
    """Number the pieces, the same piece always alike."""
    return [piece if isinstance(piece, int) else zlib.crc32(piece) % VOCABULARY for piece in cut]


def digest(cut: Iterable[bytes | int], seed: int) -> int:
    """64 bits that decide an answer; the same in every process."""
    content = b" ".join(p if isinstance(p, bytes) else b"%d" % p for p in cut)
    return int.from_bytes(blake2b(content, digest_size=8, salt=_salt(seed)).digest(), "big")


def _salt(seed: int) -> bytes:
    return (seed & _MASK).to_bytes(8, "big")


def answer_tokens(decided: int, least: int, most: int) -> int:
    """Draw how long an answer would be before it stops by itself, within [least, most]."""
    u = (decided + 0.5) / (_MASK + 1.0)
    u = min(max(u, 1e-12), 1.0 - 1e-12)
    drawn = exp(log(LENGTH_MEDIAN_TOKENS) + LENGTH_SPREAD * NormalDist().inv_cdf(u))
    return min(max(round(drawn), least, 1), most)


@dataclass(frozen=True, slots=True)
class Answer:
    """The words of one answer, decided by its 64-bit `digest`."""

    decided: int

    def word(self, place: int) -> str:
        """Text of the token at `place`, from 0; all but the first begin with a space."""
        mixed = (self.decided + place * 0x9E3779B97F4A7C15) & _MASK
        mixed = ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9) & _MASK
        which = (mixed >> 40) % len(WORDS)
        return _SPACED[which] if place else WORDS[which]

    def text(self, tokens: int) -> str:
        """Return the first `tokens` tokens as one string."""
        return "".join(self.word(place) for place in range(tokens))
