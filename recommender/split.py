"""Prefill and decode on replicas of their own: what it would carry, and whether it pays.

Each half is a search of its own. A prefill replica makes one token a request within the TTFT; a
decode replica finds every prompt in its cache and makes the rest within the ITL. What passes
between them, a prompt's KV cache over the link that joins the GPUs of a node, and the decode
replica's first step come out of the TTFT. The halves need not be laid out alike.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from profiler.architecture import load_architecture
from profiler.errors import Refused
from profiler.hardware import GPUS
from profiler.slo import Slo
from recommender.race import Candidate
from recommender.search import Offers, fitted, search
from recommender.space import Pins
from recommender.workload import Workload

_ALL_SEEN = 1.0 - 1e-9
"""Hit ratio of a decode replica: all of a prompt but the token it must compute anew."""


@dataclass(frozen=True, slots=True)
class Split:
    """A pair of configurations, and how many replicas of each a rate takes."""

    prefill: Candidate
    decode: Candidate
    transfer_s: float
    """What moving a long prompt's cache takes."""

    def replicas(self, rate_rps: float) -> tuple[int, int]:
        """Prefill and decode replicas that carry a rate."""
        return self.prefill.replicas(rate_rps), self.decode.replicas(rate_rps)

    def gpus(self, rate_rps: float) -> int:
        """GPUs of those."""
        prefill, decode = self.replicas(rate_rps)
        return prefill * self.prefill.gpus + decode * self.decode.gpus

    def cost_per_hour(self, rate_rps: float) -> float:
        """What they cost."""
        return self.prefill.cost_per_hour(rate_rps) + self.decode.cost_per_hour(rate_rps)

    @property
    def rps_per_gpu(self) -> float:
        """Goodput of a GPU where both halves are as large as they should be."""
        return 1.0 / (1.0 / self.prefill.rps_per_gpu + 1.0 / self.decode.rps_per_gpu)


def split(
    model: str, offers: Offers, workload: Workload, slo: Slo, pins: Pins | None = None
) -> Split:
    """Find the best pair; raises `Refused` where one half cannot be had, saying which and why.

    The layout that is pinned, if any, holds for both halves.
    """
    if slo.itl_s is None:
        raise Refused("slo: without a bound on ITL there is nothing to gain by a split: give itl")
    workload = fitted(model, workload, pins or Pins())
    transfer_s = _transfer_s(model, offers, workload, slo)
    ttft_s = math.inf if slo.ttft_s is None else slo.ttft_s - transfer_s - slo.itl_s
    if ttft_s <= 0:
        raise Refused(
            f"slo: moving a prompt's cache takes {transfer_s * 1e3:.0f} ms and leaves nothing of "
            f"the TTFT: loosen it"
        )
    first = Slo(ttft_s=ttft_s if math.isfinite(ttft_s) else 60.0, percentile=slo.percentile)
    prefill = search(model, offers, _first_tokens(workload), first, pins)
    rest = Slo(itl_s=slo.itl_s, percentile=slo.percentile)
    decode = search(model, offers, _rest(workload), rest, pins)
    return Split(prefill.best, decode.best, transfer_s)


def _first_tokens(workload: Workload) -> Workload:
    """Requests as a prefill replica has them: one token each."""
    ones = np.ones_like(workload.output_tokens)
    recorded = workload.recorded
    if recorded is not None:
        recorded = replace(recorded, output_tokens=np.ones_like(recorded.output_tokens))
    return replace(workload, output_tokens=ones, recorded=recorded)


def _rest(workload: Workload) -> Workload:
    """Requests as a decode replica has them: the prompt is in the cache."""
    recorded = workload.recorded
    if recorded is not None:
        seen = recorded.input_tokens - 1
        recorded = replace(recorded, prefix_tokens=seen, hashes=None)
    return replace(workload, hit_ratio=_ALL_SEEN, recorded=recorded)


def _transfer_s(model: str, offers: Offers, workload: Workload, slo: Slo) -> float:
    """Time for the KV cache of a long prompt over one GPU's link, the slowest offered."""
    a = load_architecture(model)
    names = [offers] if isinstance(offers, str) else [offer.gpu for offer in offers]
    link_bytes_s = min(GPUS[name].link_bytes_s for name in names if name in GPUS)
    prompt = float(np.quantile(workload.input_tokens, slo.percentile))
    layers = a.full_attention_layers + a.window_layers
    return prompt * 2.0 * layers * a.kv_elements_per_token() / link_bytes_s
