"""The planner's two loops: forecasts, the division, and what may be given up."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.replay.opponents import DynamoLoad, DynamoSettings, DynamoThroughput
from controller.replay.opponents.dynamo import Series, engine_rps
from controller.replay.opponents.dynamo_forecast import arima, kalman, observe, predict
from controller.replay.opponents.dynamo_model import Learned, StepTime, fit, learn
from controller.replay.policy import Scrape
from tests.controller.replay.opponents.builders import Driver, each, known, sample, scrape

CONSTANT = DynamoSettings(load_predictor="constant", throughput_adjustment_interval_s=60.0)


def _traffic(at_s: float, requests: int, prompt: int = 1000, output: int = 200) -> Scrape:
    return scrape(
        at_s,
        each([1.0]),
        since_s=5.0,
        arrivals=requests,
        input_tokens=(prompt,) * requests,
        output_tokens=(output,) * requests,
    )


def _run(driver: Driver, seconds: int, requests: int, **lengths: int) -> int:
    for _ in range(seconds // 5):
        wish = driver.tick(_traffic(driver.now_s, requests, **lengths))
    return wish.replicas


def test_divides_the_forecast_rate_by_the_engines():
    driver = Driver(DynamoThroughput(CONSTANT), known(), 1)
    assert _run(driver, 60, 50) == 1  # the first turn is an interval after the start
    assert _run(driver, 5, 50) == 3  # ten a second, four an engine
    assert _run(driver, 55, 100) == 3  # holds between turns
    assert _run(driver, 5, 100) == 5


def test_scales_the_engines_rate_with_the_lengths():
    told = known()
    usual = Series((1.0,), (1000.0,), (200.0,))
    # 1000/20000 + 200/1000 = 0.25 s of an engine; twice both is 0.5
    assert engine_rps(told, 1000.0, 200.0, usual) == pytest.approx(4.0)
    assert engine_rps(told, 2000.0, 400.0, usual) == pytest.approx(2.0)
    assert engine_rps(told, 5000.0, 200.0, usual) == pytest.approx(4.0 * 0.25 / 0.45)


def test_skips_unknown_demand():
    driver = Driver(DynamoThroughput(CONSTANT), known(), 5)
    _run(driver, 65, 100)
    counts = [driver.tick(None).replicas for _ in range(30)]
    assert counts == [5] * 30


def test_an_idle_turn_has_no_lengths_and_changes_nothing():
    driver = Driver(DynamoThroughput(CONSTANT), known(), 1)
    _run(driver, 65, 100)
    assert _run(driver, 120, 0) == 5


def test_requests_without_a_finished_one_are_no_data():
    driver = Driver(DynamoThroughput(CONSTANT), known(), 2)
    for _ in range(13):
        wish = driver.tick(scrape(driver.now_s, each([9.0]), since_s=5.0, arrivals=500))
    assert (wish.replicas, wish.reason) == (2, "no_traffic_data")


def test_leading_idle_points_are_skipped():
    assert observe((), 0.0) == ()
    assert observe((3.0,), 0.0) == (3.0, 0.0)
    assert observe((3.0,), float("nan")) == (3.0, 0.0)


def test_constant_is_the_last_point():
    assert predict((1.0, 7.0), "constant") == 7.0
    assert predict((), "constant") == 0.0


def test_kalman_follows_a_trend():
    ramp = tuple(10.0 * step for step in range(30))
    assert kalman(ramp) == pytest.approx(300.0, abs=10.0)
    assert kalman((5.0,) * 20) == pytest.approx(5.0)
    assert kalman((5.0,)) == 5.0


def test_arima_follows_a_ramp_and_a_repeated_value():
    ramp = tuple(100.0 + 10.0 * step + (step % 3) for step in range(40))
    assert arima(ramp) == pytest.approx(501.0, abs=3.0)
    assert arima((4.0,) * 10) == 4.0
    assert arima((4.0, 8.0)) == 8.0  # too few: the last


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_forecasts_are_finite_and_arima_is_never_negative(points):
    assert arima(points) >= 0.0
    assert abs(kalman(points)) < 1e9


def _model(**overrides: float) -> StepTime:
    """10 ms a step, 20,000 prompt tokens a second, 0.2 µs a cached token."""
    fields = {
        "base_s": 0.01,
        "prompt_token_s": 5e-5,
        "cached_token_s": 2e-7,
        "input_tokens": 1000.0,
        "decode_tokens": 1000.0,
        "prompt_tokens_per_step": 100.0,
    }
    return StepTime(**(fields | overrides))


def test_ttft_is_the_queues_prompts_step_by_step():
    # 9000 tokens in two steps: 8192 and 808
    expected = 2 * 0.01 + 9000 * 5e-5
    assert _model().ttft_s(8000.0, 0.0, 8192) == pytest.approx(expected)
    assert _model().itl_s(50_000.0) == pytest.approx(0.01 + 0.005 + 51_000 * 2e-7)


def test_the_regression_finds_the_plane_and_never_a_falling_one():
    plane = [(p, c, 0.01 + 5e-5 * p + 2e-7 * c) for p in (0.0, 99.0, 400.0) for c in (1e4, 5e4)]
    model = fit(Learned(tuple(plane), (1000.0,), (900.0,)), 20_000.0, 5)
    assert model is not None
    assert model.base_s == pytest.approx(0.01)
    assert model.prompt_token_s == pytest.approx(5e-5)
    assert model.cached_token_s == pytest.approx(2e-7)
    falling = fit(Learned(tuple((0.0, c, 0.1 - 1e-6 * c) for _, c, _ in plane)), 20_000.0, 5)
    assert falling is not None
    assert falling.base_s == pytest.approx(0.07)
    assert falling.cached_token_s == 0.0
    assert fit(Learned(tuple(plane[:4])), 20_000.0, 5) is None


def test_observations_stay_spread():
    learned = Learned()
    for place in range(100):
        rare = place == 0
        seen = scrape(
            float(place),
            (sample(running=10.0, kv=0.9 if rare else 0.1),),
            itl_s=(0.02,),
            prompt_tokens=1000,
            input_tokens=(100,),
        )
        learned = learn(learned, seen, known(), 64)
    assert len(learned.observations) == 64
    assert learned.observations[0][1] == pytest.approx(90_000.0)


def _estimated(waiting: list[float], kv: list[float], **overrides: float) -> int:
    pairs = enumerate(zip(waiting, kv, strict=True))
    replicas = tuple(sample(f"r{n}", waiting=queue, kv=use) for n, (queue, use) in pairs)
    told = known(ttft_s=0.5, itl_s=0.05)
    return DynamoLoad()._estimates(scrape(replicas=replicas), _model(**overrides), told)[0]


@pytest.mark.parametrize(
    ("waiting", "kv", "expected"),
    [
        ([20.0, 20.0], [0.5, 0.5], 3),  # every TTFT over 0.5 s
        ([20.0, 0.0], [0.5, 0.5], 2),  # one engine is free
        ([0.0, 0.0], [0.9, 0.9], 2),  # the survivor's cache would overflow
        ([0.0, 0.0], [0.3, 0.3], 1),
        ([4.0, 0.0], [0.3, 0.3], 2),  # eight prompts behind the survivor's own: over 80 %
        ([0.0], [0.1], 1),
    ],
)
def test_load_loop_moves_by_one(waiting, kv, expected):
    assert _estimated(waiting, kv) == expected


def test_load_loop_goes_up_when_every_gap_is_over_its_bound():
    assert _estimated([0.0, 0.0], [0.9, 0.9], cached_token_s=1e-6) == 3


def test_load_loop_waits_for_data_and_for_a_change_under_way():
    driver = Driver(DynamoLoad(), known(), 2)
    assert driver.tick(scrape(replicas=each([1.0, 1.0]))).reason == "insufficient_data"
    assert driver.tick(scrape(replicas=each([1.0]))).reason == "worker_count_mismatch"
    assert driver.tick(None).reason == "no_fpm_data"
    driver.serving, driver.starting = 1, 1
    assert driver.tick(scrape(replicas=each([1.0]))).reason == "scaling_in_progress"


@pytest.mark.parametrize(
    ("kind", "uses", "expected"),
    [
        ("throughput", [1.01, 0.2], 3),
        ("throughput", [0.7, 0.2], 2),
        ("throughput", [0.5, 0.5], 1),
        ("latency", [0.41, 0.0], 3),
        ("latency", [0.2, 0.0], 2),
        ("latency", [0.05, 0.05], 1),
    ],
)
def test_easy_targets_compare_cache_use_with_thresholds(kind, uses, expected):
    driver = Driver(DynamoLoad(DynamoSettings(optimization_target=kind)), known(), len(uses))
    replicas = tuple(sample(f"r{n}", kv=use) for n, use in enumerate(uses))
    assert driver.tick(scrape(replicas=replicas)).replicas == expected


def test_the_throughput_loop_is_the_load_loops_floor():
    policy = DynamoLoad(CONSTANT)
    driver = Driver(policy, known(), 1)
    replicas = {}
    for tick in range(20):
        names = tuple(
            sample(f"r{n}", running=5.0, kv=0.05 + 0.01 * (tick % 5)) for n in range(driver.serving)
        )
        seen = scrape(
            driver.now_s,
            names,
            since_s=5.0,
            arrivals=50,
            prompt_tokens=1000 * (40 + tick % 7),
            itl_s=(0.01 + 0.001 * (tick % 5) + 0.0005 * (tick % 7),),
            input_tokens=(1000,) * 50,
            output_tokens=(200,) * 50,
        )
        at_s = driver.now_s
        replicas[at_s] = driver.tick(seen)
    assert (replicas[60.0].replicas, replicas[60.0].reason) == (3, "scale_up")
    assert replicas[95.0].replicas == 3
    assert replicas[95.0].reason == "scale_down_capped_by_throughput"
