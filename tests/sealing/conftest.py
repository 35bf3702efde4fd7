"""Hypothesis on a machine that is shared with others: no deadline per example, or a slow moment fails a good test."""

from hypothesis import HealthCheck, settings

settings.register_profile("starsessions", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("starsessions")
