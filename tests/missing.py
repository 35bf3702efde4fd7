"""What a test does that needs something which this machine does not have."""

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """A visible skip on a laptop, and a failure where nothing may be skipped (`scripts/test` with ``CI=true``)."""
    if os.environ.get("STARSESSIONS_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
