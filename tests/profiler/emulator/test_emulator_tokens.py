"""Tokens without a tokenizer: counting is additive, answers are decided by their request."""

from statistics import median

from hypothesis import given
from hypothesis import strategies as st

import profiler.emulator as face
from profiler.emulator import Answer, chat_pieces, pieces
from profiler.emulator.prefix import block_hashes
from profiler.emulator.tokens import WORDS, answer_tokens, digest, token_ids


@given(st.lists(st.text(alphabet="abcdefgh", min_size=1, max_size=8)))
def test_k_short_words_are_k_tokens(words: list[str]) -> None:
    assert len(pieces(" ".join(words))) == len(words)


@given(st.text(), st.text())
def test_counting_is_additive_over_white_space(a: str, b: str) -> None:
    assert pieces(f"{a} {b}") == pieces(a) + pieces(b)


def test_long_words_are_cut_by_bytes() -> None:
    assert pieces("internationalisation") == [b"internat", b"ionalisa", b"tion"]
    assert len(pieces("日本語")) == 2


@given(st.integers(0, 2**64 - 1), st.integers(1, 300))
def test_an_answer_of_k_tokens_counts_as_k(decided: int, k: int) -> None:
    answer = Answer(decided)
    assert len(pieces(answer.text(k))) == k
    assert "".join(answer.word(i) for i in range(k)) == answer.text(k)


def test_an_answer_does_not_repeat_itself() -> None:
    text = Answer(digest(pieces("hello"), 0)).text(400).split()
    assert len(set(zip(text, text[1:], text[2:], strict=False))) > 380
    assert set(text) <= set(WORDS)


@given(st.integers(0, 2**64 - 1), st.integers(0, 50), st.integers(50, 4000))
def test_lengths_stay_within_bounds(decided: int, least: int, most: int) -> None:
    assert max(least, 1) <= answer_tokens(decided, least, most) <= most


def test_lengths_have_the_documented_median() -> None:
    drawn = [answer_tokens(digest([i], 0), 0, 10_000) for i in range(2000)]
    assert 185 < median(drawn) < 215


def test_seeds_make_other_answers() -> None:
    assert digest(pieces("a b"), 0) != digest(pieces("a b"), 1) != digest(pieces("a"), 1)
    assert token_ids(pieces("a b")) == token_ids([*pieces("a"), *pieces("b")])


def test_a_chat_s_next_turn_begins_as_the_last_ended() -> None:
    first = chat_pieces([("user", "hi")])
    second = chat_pieces([("user", "hi"), ("assistant", "hello"), ("user", "bye")])
    assert second[: len(first)] == first


def test_a_block_is_known_by_its_tokens_and_all_before_them() -> None:
    cuts = ([1, 2, 3, 4, 5], [1, 2, 3, 4], [9, 2, 3, 4])
    one, same, other = (block_hashes(cut, 2) for cut in cuts)
    assert one == same
    assert len(one) == 2
    assert not set(one) & set(other)


def test_the_face_is_sorted_and_there() -> None:
    assert list(face.__all__) == sorted(face.__all__, key=lambda n: (not n.isupper(), n))
    assert all(hasattr(face, name) for name in face.__all__)
