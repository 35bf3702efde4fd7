"""What only the tests of the shell share."""

import pytest

from starsessions import SessionBackend
from tests.shell.people import LISTING
from tests.site import Clock


@pytest.fixture(params=list(LISTING))
def listing(request: pytest.FixtureRequest, clock: Clock) -> SessionBackend:
    """The kinds of backend that can list the sessions of a user."""
    return LISTING[request.param](clock)
