"""Hypothesis for all rooms: the same examples in every run, and no stop-watch."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "whaleflux", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("whaleflux")
