"""Which services may share a GPU, which may sleep beside whom, and on which slice one fits.

`share` and `partners` for replicas that serve from one GPU at once, `may_sleep` for standbys,
`mig_for` for slices that isolate.
"""

from recommender.sharing.neighbours import Interference, Pair, Sharing, partners, share
from recommender.sharing.sleeping import Sleep, may_sleep
from recommender.sharing.slices import Slice, mig_for
from recommender.sharing.tenant import Tenant
from recommender.sharing.use import HEADROOM_RATIO, Use, slowed

__all__ = [
    "HEADROOM_RATIO",
    "Interference",
    "Pair",
    "Sharing",
    "Sleep",
    "Slice",
    "Tenant",
    "Use",
    "may_sleep",
    "mig_for",
    "partners",
    "share",
    "slowed",
]
