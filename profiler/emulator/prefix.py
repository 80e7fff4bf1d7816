"""Which tokens of a prompt the KV cache still holds.

Called by the engine: `hit_tokens` when a request joins the scheduler's queue, `insert` when
its prompt is computed and again when its answer is. As in vLLM, blocks are known by a hash
over all that comes before them; here one list, least recently used out first, bounded by
the engine's blocks, stands for vLLM's free queue. It does not know which blocks the
answers under way have taken: under KV pressure it flatters the hit rate.
"""

from collections import OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """Hashes of the blocks that would be found again."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self._most = blocks
        self._block_size = block_size
        self._known: OrderedDict[int, None] = OrderedDict()

    def chain(self, cut: Sequence[bytes | int]) -> list[int]:
        """Hash each full block of the pieces, chained to those before it."""
        size, link, links = self._block_size, 0, []
        for end in range(size, len(cut) + 1, size):
            link = hash((link, *cut[end - size : end]))
            links.append(link)
        return links

    def hit_tokens(self, cut: Sequence[bytes | int]) -> int:
        """Count the leading tokens that are cached; at least one is always computed."""
        most = (len(cut) - 1) // self._block_size
        found = 0
        for link in self.chain(cut[: most * self._block_size]):
            if link not in self._known:
                break
            self._known.move_to_end(link)
            found += 1
        return found * self._block_size

    def insert(self, cut: Sequence[bytes | int]) -> None:
        """Remember the full blocks; the last of a sequence is the first to go."""
        for link in reversed(self.chain(cut)):
            self._known[link] = None
            self._known.move_to_end(link)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def clear(self) -> None:
        """Forget everything, as sleep does."""
        self._known.clear()
