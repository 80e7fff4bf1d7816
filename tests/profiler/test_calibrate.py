"""A few measurements move what they touch; outliers and thin data move little."""

import numpy as np
import pytest

from profiler.analytical import analytical_cost
from profiler.architecture import load_architecture
from profiler.calibrate import Measurement, Steps, calibrate, predict_s
from profiler.errors import Refused
from profiler.estimate import DATA_SHEET, GROUPS, Estimate, scaled
from profiler.hardware import find_gpu
from profiler.operators import Replica
from profiler.scheduler import Shape

PRIOR = Estimate.from_source(
    "data sheet",
    analytical_cost(Replica(load_architecture("Llama-3.1-8B-Instruct"), find_gpu("H100-SXM"))),
    DATA_SHEET,
)
RNG = np.random.default_rng(4)
TRUTH = scaled(PRIOR.cost, 0.7 * RNG.normal(size=len(GROUPS)) * DATA_SHEET.array())


def prefill(tokens: int) -> Measurement:
    shape = Shape(tokens, 1, 1, tokens**2 / 2, 0.0, 0.0, 0.0, tokens, tokens)
    return measured(f"prefill {tokens}", shape, requests=1.0)


def decode(sequences: int, context: int) -> Measurement:
    shape = Shape(sequences, sequences, 0, 0.0, 0.0, float(sequences * context), 0.0)
    return measured(f"decode {sequences} × {context}", shape)


def measured(name: str, shape: Shape, requests: float = 0.0) -> Measurement:
    steps = (Steps(shape),)
    seconds = predict_s(TRUTH, Measurement(name, steps, 1.0, requests))
    return Measurement(name, steps, seconds, requests)


HELD_OUT = [prefill(700), prefill(5000), decode(24, 700), decode(100, 3000)]
POINTS = [prefill(1), prefill(2048), prefill(8192), decode(1, 100), decode(64, 100),
          decode(64, 4000), decode(200, 1000)]  # fmt: skip


def worst_error(estimate: Estimate) -> float:
    return max(abs(predict_s(estimate.cost, m) / m.seconds - 1) for m in HELD_OUT)


def test_without_measurements_the_prior_comes_back():
    assert calibrate(PRIOR, []).estimate is PRIOR


def test_enough_points_find_the_truth():
    found = calibrate(PRIOR, POINTS)
    assert worst_error(PRIOR) > 0.1
    assert worst_error(found.estimate) < 0.02
    assert found.mean_error_ratio < 0.05


def test_two_points_already_help_and_leave_what_they_do_not_touch():
    found = calibrate(PRIOR, [prefill(2048), decode(64, 1000)], cross_validate=False)
    assert worst_error(found.estimate) < 0.6 * worst_error(PRIOR)
    assert found.estimate.cost.token_link_s == PRIOR.cost.token_link_s
    assert found.held_out == ()


def test_what_was_measured_is_known_better_than_before_and_says_so():
    found = calibrate(PRIOR, POINTS).estimate
    known = dict(zip(GROUPS, found.origins, strict=True))
    assert known["weights"] == known["compute"] == "measured"
    assert known["link"] == "data sheet"
    assert found.uncertainty.compute < 0.3 * DATA_SHEET.compute
    assert found.uncertainty.link == pytest.approx(DATA_SHEET.link, rel=0.01)


def test_one_wild_point_among_many_does_not_poison_the_rest():
    wild = decode(32, 500)
    wild = Measurement(wild.name, wild.steps, 5 * wild.seconds)
    assert worst_error(calibrate(PRIOR, [*POINTS, wild]).estimate) < 0.06


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seconds": 0.0}, "a duration is positive"),
        ({"seconds": float("nan")}, "a duration is positive"),
        ({"error_ratio": 0.0}, "error_ratio"),
        ({"steps": (), "requests": 0.0}, "no step"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changes, told):
    fields = {"name": "m", "steps": POINTS[0].steps, "seconds": 1.0, **changes}
    with pytest.raises(Refused, match=told):
        Measurement(**fields)
