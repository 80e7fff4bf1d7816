"""Which replica each request goes to; keeps nothing of what the engines do."""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from controller.replay.ledger import Ledger
from controller.replay.replica import Replica
from controller.replay.terms import Routing

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Router:
    """Sends requests to those that serve."""

    def __init__(self, routing: Routing) -> None:
        self.routing = routing
        self._turn = 0

    def send(self, rows: Ints, at_s: Floats, serving: Sequence[Replica], ledger: Ledger) -> None:
        """Send requests, in order, at their moments; somebody must serve."""
        if self.routing is Routing.ROUND_ROBIN:
            chosen = (self._turn + np.arange(rows.size)) % len(serving)
            self._turn = (self._turn + rows.size) % len(serving)
        else:
            chosen = _least_loaded([replica.outstanding for replica in serving], rows.size)
        for place, replica in enumerate(serving):
            mine = chosen == place
            replica.send(rows[mine], at_s[mine], ledger)


def _least_loaded(loads: Sequence[int], requests: int) -> Ints:
    """Place of the replica that each request goes to: who has fewest, the first of equals."""
    heap = [(load, place) for place, load in enumerate(loads)]
    heapq.heapify(heap)
    chosen = np.zeros(requests, np.int64)
    for i in range(requests):
        load, place = heap[0]
        heapq.heapreplace(heap, (load + 1, place))
        chosen[i] = place
    return chosen
