"""Hypothesis without a deadline per example: on a busy machine, a correct test would fail."""

from hypothesis import HealthCheck, settings

settings.register_profile("starsessions", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("starsessions")
