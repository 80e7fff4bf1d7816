"""Nodes that differ in nothing but name and zone, and how many replicas go into them.

One integer per node would be a search over thousands of equal names; one per pool is not.
Whether counts fit is exact where replica sizes divide each other (1, 2, 4, 8): placed from
the largest down, a size s finds sum(domain // s) slots whatever lies there already, so

    for every size s:  sum over sizes t >= s of  t / s * count(t)  <=  slots(s).

Other sizes (3 beside 4) need patterns: see `maximal_patterns`.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from recommender.allocation.values import Market, Node


@dataclass(frozen=True, slots=True)
class Pool:
    """Interchangeable nodes; zones may differ."""

    nodes: tuple[Node, ...]

    @property
    def gpu(self) -> str:
        """GPU type of all its nodes."""
        return self.nodes[0].gpu

    @property
    def spot(self) -> bool:
        """Whether it may be taken away."""
        return self.nodes[0].market is Market.SPOT

    @property
    def marginal_per_gpu_hour(self) -> float:
        """What using one more GPU costs."""
        return self.nodes[0].marginal_per_gpu_hour

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return len(self.nodes) * self.nodes[0].gpus

    @property
    def zones(self) -> tuple[str, ...]:
        """Zones of its nodes, sorted."""
        return tuple(sorted({node.zone for node in self.nodes}))

    @property
    def domains(self) -> Counter[int]:
        """Link domains by size."""
        return Counter({s: n * len(self.nodes) for s, n in Counter(self._domains).items()})

    @property
    def _domains(self) -> tuple[int, ...]:
        return self.nodes[0].domains

    def slots(self, gpus: int) -> int:
        """Replicas of that size that an empty pool takes."""
        return len(self.nodes) * sum(domain // gpus for domain in self._domains)


def make_pools(nodes: Sequence[Node]) -> tuple[Pool, ...]:
    """Group nodes by everything that a cost or a fit depends on, in order of appearance."""
    groups: dict[object, list[Node]] = defaultdict(list)
    for node in nodes:
        key = (node.gpu, node.market, node.price_per_gpu_hour, node.gpus, node.link_domain)
        groups[key].append(node)
    return tuple(Pool(tuple(group)) for group in groups.values())


def split_pools(pools: Sequence[Pool], troubled: Collection[int]) -> tuple[Pool, ...]:
    """Make each node of the troubled pools a pool of its own: nothing is left to packing."""
    return tuple(
        part
        for index, pool in enumerate(pools)
        for part in ([Pool((n,)) for n in pool.nodes] if index in troubled else [pool])
    )


def divide_each_other(sizes: Collection[int]) -> bool:
    """Whether each size is a multiple of every smaller one."""
    ordered = sorted(sizes)
    return all(b % a == 0 for a, b in pairwise(ordered))


def level_rows(pool: Pool, sizes: Collection[int]) -> Iterator[tuple[int, int]]:
    """Give (size, slots) for each size whose row no smaller size implies."""
    implied = -1
    for size in sorted(sizes):
        slots = pool.slots(size)
        if slots * size != implied:
            yield size, slots
        implied = slots * size


def maximal_patterns(domain: int, sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Ways to fill a domain to which no further replica can be added; counts by size."""

    def fill(left: int, rest: Sequence[int]) -> Iterator[tuple[int, ...]]:
        if not rest:
            yield ()
            return
        for count in range(left // rest[0], -1, -1):
            for tail in fill(left - count * rest[0], rest[1:]):
                yield (count, *tail)

    def room(pattern: tuple[int, ...]) -> int:
        return domain - sum(c * s for c, s in zip(pattern, sizes, strict=True))

    return [pattern for pattern in fill(domain, sizes) if room(pattern) < min(sizes)]
