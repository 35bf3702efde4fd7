"""A middleware that cannot work stops the server.

Starlette constructs its middlewares at the first message, which is the server's `lifespan`. uvicorn, hypercorn and
granian take an exception at that moment for "this application has no lifespan": they start, and each request is a 500.
So the error is kept, and reported as the failure of the startup.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import anyio
from starlette.types import Receive, Scope, Send

P = ParamSpec("P")


class Misconfigured:
    """The application inside of a middleware whose settings are wrong: it fails the startup, and each request."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.failed", "message": str(self.error)})
        raise self.error.with_traceback(None)  # otherwise it would grow with each request


def fails_at_startup(**settings: Any) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Decorate a middleware's constructor: inside of an event loop, its error becomes the failure of the startup.

    Args:
        settings: valid settings of the middleware, for its place in the stack until the server has stopped.
    """

    def decorate(init: Callable[P, None]) -> Callable[P, None]:
        @wraps(init)
        def construct(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                init(*args, **kwargs)
            except Exception as error:
                if not _is_in_event_loop():
                    raise
                any_init: Callable[..., None] = init
                any_init(args[0], Misconfigured(error), **settings)

        return construct

    return decorate


def _is_in_event_loop() -> bool:
    try:
        anyio.get_cancelled_exc_class()
    except RuntimeError:
        return False
    return True
