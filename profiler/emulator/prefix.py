"""By what a KV block is known: a hash over its tokens and all before them, as in vLLM.

Called by the engine for each request; the scheduler finds blocks by these hashes.
"""

from collections.abc import Sequence


def block_hashes(cut: Sequence[bytes | int], block_size: int) -> list[int]:
    """Hash each full block of the tokens, chained to those before it; numbers ≥ 0."""
    link, links = 0, []
    for end in range(block_size, len(cut) + 1, block_size):
        link = hash((link, *cut[end - block_size : end])) & (1 << 63) - 1
        links.append(link)
    return links
