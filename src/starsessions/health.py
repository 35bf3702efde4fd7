"""Whether the store of the sessions answers: for the readiness probe of Kubernetes or a load balancer.

It reads a key that no session has, within the store's own limit of time. It never writes. So it does not notice that a
store can only be read.
"""

from threading import get_ident

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from starsessions.backends.adapter import adapt
from starsessions.backends.base import Backend, SessionBackend
from starsessions.backends.sharing import SharedReads
from starsessions.exceptions import BackendUnavailable
from starsessions.notices import Notices, why_failed
from starsessions.stores.base import Store

__all__ = ["HealthCheck", "check_health"]

_KEY = "health"
"""No session has this key: those are 43 characters long. In memory they are ids, and reading one does no harm."""

_NO_STORE = {"cache-control": "no-store"}


async def check_health(backend: SessionBackend | Store) -> None:
    """Read from the store of a backend. Cookies without a store are always healthy.

    Args:
        backend: the backend that the middleware uses, or a store.

    Raises:
        BackendUnavailable: the store failed or did not answer in time.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend
    >>> asyncio.run(check_health(InMemoryBackend()))
    """
    await _read(adapt(backend))


async def _read(backend: Backend) -> None:
    index, now = backend.user_index, int(backend.clock())
    try:
        if index is not None:
            await index.store.get(_KEY, now=now)
        elif not backend.is_client_side:
            await backend.fetch(_KEY, now)
    except BackendUnavailable:
        raise
    except Exception as error:  # of an application's own backend
        raise BackendUnavailable(f"The store failed: {type(error).__name__}.") from error


class HealthCheck:
    """An ASGI application that answers 200 if the store answers, and otherwise 503. Many probes at once share a read.

    A failure is logged once a minute. The response says no more than that: `{"status": "ok"}`, or "unavailable".

    Args:
        backend: the backend that the middleware uses, or a store.

    >>> from starlette.applications import Starlette
    >>> from starlette.routing import Route
    >>> from starlette.testclient import TestClient
    >>> from starsessions import InMemoryBackend
    >>> app = Starlette(routes=[Route("/readyz", HealthCheck(InMemoryBackend()))])
    >>> TestClient(app).get("/readyz").json()
    {'status': 'ok'}
    """

    def __init__(self, backend: SessionBackend | Store) -> None:
        self._backend = adapt(backend)
        self._notices = Notices()
        self._reads = SharedReads()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        response = await self._answer() if Request(scope).method in {"GET", "HEAD"} else _refusal()
        await response(scope, receive, send)

    async def _answer(self) -> Response:
        try:
            await self._reads.read(str(get_ident()), lambda: _read(self._backend))  # an event loop is of one thread
        except BackendUnavailable as error:
            self._notices.warn("health", "The session store is not healthy: %s", why_failed(error), every=60)
            return JSONResponse({"status": "unavailable"}, 503, _NO_STORE)
        return JSONResponse({"status": "ok"}, headers=_NO_STORE)


def _refusal() -> Response:
    return Response(status_code=405, headers={"allow": "GET, HEAD"})
