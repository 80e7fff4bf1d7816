"""What becomes of each request, and what of it has been told to a scrape.

Written by the replicas as they run, with the moments of the engine's clock, which may lie a
step ahead of the world's: whoever asks says up to when. Arrays are [requests], in the trace's
order.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from profiler.trace import Trace

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NOWHERE = -1


class Fate(IntEnum):
    """How a request was disposed of, apart from what the engine did."""

    OPEN = 0
    CUT = 1
    """Its replica died while it was being answered."""
    TURNED_AWAY = 2
    """The service did not exist when it came."""


class Ledger:
    """One row a request."""

    def __init__(self, trace: Trace) -> None:
        n = len(trace)
        self.trace = trace
        self.fate = np.zeros(n, np.int8)
        self.replica = np.full(n, NOWHERE)
        """Where it was sent last."""
        self.first_s = np.full(n, np.nan)
        """Moment of its first token."""
        self.token_s = np.full(n, np.nan)
        """Moment of its last token so far."""
        self.made = np.zeros(n, np.int64)
        """Tokens made by then."""
        self.ended = np.zeros(n, np.bool_)
        self.sends = np.zeros(n, np.int64)
        """How often it was sent to a replica."""
        self._told_first = np.zeros(n, np.bool_)
        self._told_end = np.zeros(n, np.bool_)
        self._told_made = np.zeros(n, np.int64)
        self._untold = np.zeros(0, np.int64)
        """Requests that were sent and have not been told to the end."""

    def sent(self, rows: Ints, replica: int) -> None:
        """Note where requests went."""
        new = rows[self.replica[rows] == NOWHERE]
        self._untold = np.concatenate([self._untold, new])
        self.replica[rows] = replica
        self.sends[rows] += 1

    def went_on(self, rows: Ints, first_s: Floats, token_s: Floats, made: Ints) -> None:
        """Note how far answers under way have come."""
        self.first_s[rows], self.token_s[rows], self.made[rows] = first_s, token_s, made

    def has_ended(self, rows: Ints, now_s: float) -> Bools:
        """Whether the answers were complete."""
        done: Bools = self.ended[rows] & (self.token_s[rows] <= now_s)
        return done

    def lose(self, rows: Ints, now_s: float) -> Ints:
        """Their replica died: cut those whose answer had begun; who is to be sent again."""
        lost = rows[~self.has_ended(rows, now_s)]
        begun = self.first_s[lost] <= now_s
        self.fate[lost[begun]] = Fate.CUT
        self.ended[lost] = False
        again = lost[~begun]
        self.first_s[again] = self.token_s[again] = np.nan
        self.made[again] = 0
        return np.sort(again)

    def tell(self, silent: Ints, now_s: float) -> "Told":
        """What happened up to now and was not told; nothing of the replicas that are silent."""
        rows = self._untold
        if silent.size:
            rows = rows[~np.isin(self.replica[rows], silent)]
        began = rows[(self.first_s[rows] <= now_s) & ~self._told_first[rows]]
        done = rows[self.has_ended(rows, now_s)]
        made = self.made[rows] - (self.token_s[rows] > now_s)
        tokens = int((made - self._told_made[rows]).sum())
        self._told_made[rows], self._told_first[began], self._told_end[done] = made, True, True
        left = self._untold
        self._untold = left[~self._told_end[left] & (self.fate[left] == Fate.OPEN)]
        return Told(self, began, done, tokens)


class Told:
    """Requests that a scrape tells of."""

    def __init__(self, ledger: Ledger, began: Ints, ended: Ints, tokens: int) -> None:
        self.tokens = tokens
        trace = ledger.trace
        self.finished = int(ended.size)
        self.prompt_tokens = int(trace.input_tokens[began].sum())
        self.ttft_s = ledger.first_s[began] - trace.arrival_s[began]
        self.e2e_s = ledger.token_s[ended] - trace.arrival_s[ended]
        several = ended[ledger.made[ended] > 1]
        decode_s = ledger.token_s[several] - ledger.first_s[several]
        self.itl_s = decode_s / (ledger.made[several] - 1)
        self.input_tokens = trace.input_tokens[ended]
        self.output_tokens = ledger.made[ended]
