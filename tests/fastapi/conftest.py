"""A browser on both event loops."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient


@pytest.fixture
def browser_of(anyio_backend: str) -> Callable[..., TestClient]:
    """A browser that visits an application: it keeps cookies as browsers do, by name, domain and path."""

    def make(app: Any, **options: Any) -> TestClient:
        return TestClient(app, backend=anyio_backend, follow_redirects=False, **options)  # type: ignore[arg-type]

    return make
