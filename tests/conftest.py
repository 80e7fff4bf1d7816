"""For all rooms: hypothesis with the same examples in every run, and a browser for pages."""

from hypothesis import HealthCheck, settings

from tests.browser import driver  # noqa: F401 - a fixture

settings.register_profile(
    "whaleflux", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("whaleflux")
