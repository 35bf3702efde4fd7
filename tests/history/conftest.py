"""Fixtures for compatibility tests: a browser on both event loops, and version 1.0.2 itself."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.history.sealed_by_1_0_2 import Version102
from tests.missing import missing

CACHED = Path(__file__).parents[2] / ".venv" / "starsessions-1.0.2"


@pytest.fixture
def browser_of(anyio_backend: str) -> Callable[..., TestClient]:
    """A browser that visits an application: it keeps cookies as browsers do, by name, domain and path."""

    def make(app: Any, **options: Any) -> TestClient:
        return TestClient(app, backend=anyio_backend, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def version_1_0_2() -> Version102:
    """The published package. It has the same import name, so it needs its own directory and process."""
    directory = Path(os.environ.get("STARSESSIONS_1_0_2") or CACHED)
    if not (directory / "starsessions" / "__init__.py").is_file():
        reason = (
            "the directory in STARSESSIONS_1_0_2 holds no starsessions: "
            f"pip install --no-deps --target {CACHED} starsessions==1.0.2"
        )
        missing(reason)
    return Version102(directory)
