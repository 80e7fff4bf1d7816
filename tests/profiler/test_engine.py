"""An engine stepped from outside loses no token, whatever is aborted on the way."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.engine import Engine
from profiler.scheduler import Limits
from profiler.trace import Trace

from .engines import COST, VARIANTS, limits, traces

variants = st.sampled_from(sorted(VARIANTS)).flatmap(lambda name: limits(**VARIANTS[name]))


@settings(max_examples=60, deadline=None)
@given(traces(hashed=False), variants, st.data())
def test_an_engine_stepped_from_outside_delivers_every_token_once_whatever_is_aborted(
    trace: Trace, bounds: Limits, data: st.DataObject
) -> None:
    engine = Engine(COST, bounds, slots=2, longest_tokens=data.draw(st.sampled_from([None, 400])))
    wanted = dict(enumerate(np.maximum(trace.output_tokens, 1).tolist()))
    for n, prompt in enumerate(trace.input_tokens.tolist()):
        engine.enqueue(n, 0.0, prompt, wanted[n], hashes=range(prompt // bounds.block_size))
    aborted: set[int] = set()
    made, now_s = dict.fromkeys(wanted, 0), 0.0
    while engine.busy:
        if data.draw(st.integers(0, 9)) == 0:
            victim = data.draw(st.sampled_from(sorted(wanted)))
            if engine.abort(victim):
                aborted.add(victim)
        if engine.begin(now_s) is not None:
            continue
        now_s = engine.next_end_s or now_s
        for emission in engine.end(now_s):
            made[emission.request] += 1
            assert emission.generated == made[emission.request]
            assert emission.finished == (emission.generated == wanted[emission.request])
    assert {n: made[n] for n in wanted if n not in aborted} == {
        n: wanted[n] for n in wanted if n not in aborted
    }
    assert engine.running == engine.waiting == 0
    assert engine.kv_usage_ratio == 0.0
