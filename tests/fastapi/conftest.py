"""A browser on both event loops, and a clock that it and the application share."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from starsessions import Session


@pytest.fixture
def browser_of(anyio_backend: str) -> Callable[..., TestClient]:
    """A browser that visits an application: it keeps cookies as browsers do, by name, domain and path."""

    def make(app: Any, **options: Any) -> TestClient:
        return TestClient(app, backend=anyio_backend, follow_redirects=False, **options)  # type: ignore[arg-type]

    return make


# STAND-IN: until the identity of a session is in `Session` itself. Remove this when it is.
@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(Session, "sign_in"):
        return

    async def sign_in(self: Session, user_id: str, **_: object) -> None:
        await self.regenerate_id()
        self.update({"__user__": user_id, "__at__": self._setting.clock()})

    async def sign_out(self: Session, **_: object) -> None:
        await self.delete()

    def is_fresh(self: Session, within: int | timedelta) -> bool:
        assert isinstance(within, int)
        return bool(self._setting.clock() - self["__at__"] <= within)

    monkeypatch.setattr(Session, "user_id", property(lambda self: self.get("__user__")), raising=False)
    monkeypatch.setattr(Session, "sign_in", sign_in, raising=False)
    monkeypatch.setattr(Session, "sign_out", sign_out, raising=False)
    monkeypatch.setattr(Session, "is_fresh", is_fresh, raising=False)
