"""Find the middlewares of an application, its routes, and what the library says of its settings."""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Router
from starlette.staticfiles import StaticFiles

from starsessions.check.facts import Kind, Layer, OtherKey, Way
from starsessions.core.csrf import SAFE_METHODS
from starsessions.csrf import CsrfMiddleware, verify
from starsessions.exceptions import ImproperlyConfigured
from starsessions.lifecycle import validation
from starsessions.lifecycle.advice import CookieAdvice
from starsessions.lifecycle.startup import Misconfigured
from starsessions.middleware import SessionMiddleware
from starsessions.notices import Notices
from starsessions.sealing.keys import raw_keys
from starsessions.sealing.strength import fact_of

_MOST = 100
"""The nested applications that are looked at: a mock has no end."""

_HANDLERS = ("post", "put", "patch", "delete")
_log = logging.getLogger("starsessions")


class Application:
    """What was found in an application.

    Args:
        app: any ASGI application.
    """

    def __init__(self, app: object) -> None:
        self.layers: list[Layer] = []
        self.ways: list[Way] = []
        self.sessions: dict[int, SessionMiddleware] = {}
        """Our middlewares, by the number of their layer."""
        self.other_keys: list[OtherKey] = []
        self.said: list[tuple[str, str]] = []
        self.error: str | None = None
        self.is_debug: bool = False
        with unlogged() as said:
            self._walk(app, frozenset(), "")
            for middleware in self.sessions.values():
                self._look_again(middleware)
        self.said += dict.fromkeys(said)

    def _look_again(self, middleware: SessionMiddleware) -> None:
        """Let the library say again what it has said when the middleware was made, which may be long ago."""
        config = middleware.config
        try:
            validation.check_stack(middleware.app, config, middleware.scope_key)
        except ImproperlyConfigured as error:
            self.error = str(error)
        validation.check_effect(config)
        CookieAdvice(config.cookie, Notices()).on_settings(config.backend.max_cookies)

    # From the outside in

    def _walk(self, node: Any, around: frozenset[int], path: str) -> None:
        for _ in range(_MOST):
            if isinstance(node, Starlette):
                node = self._built(node)
            elif isinstance(node, Router):
                node = node.middleware_stack
            elif inspect.ismethod(node) and isinstance(node.__self__, Router):
                self._routes(node.__self__, around, path)
                return
            else:
                around |= self._layer(node, around)
                inner = None if isinstance(node, type) else getattr(node, "app", None)
                if inner is None:
                    self._end(node, around, path)
                    return
                node = inner

    def _built(self, app: Starlette) -> Any:
        """Return the outermost middleware of an application, which Starlette makes at the first request."""
        self.is_debug = self.is_debug or app.debug
        ours: Any = SessionMiddleware
        for one in app.user_middleware:
            if one.cls is not ours:
                self._look_for_keys(one.kwargs, getattr(one.cls, "__name__", "a middleware"))
        if app.middleware_stack is not None:
            return app.middleware_stack
        try:
            return app.build_middleware_stack()
        except Exception as error:
            self.error = _told(error)
            return app.router

    def _look_for_keys(self, settings: Mapping[str, Any], owner: str) -> None:
        for setting, value in settings.items():
            if "key" in setting or "secret" in setting:
                with suppress(ImproperlyConfigured):  # it may be something else than a key
                    self.other_keys += [OtherKey(fact_of(setting, key), owner) for key in raw_keys(value, setting)]

    def _layer(self, node: Any, around: frozenset[int]) -> frozenset[int]:
        """Return the number of a middleware, if it is of a kind that matters."""
        if isinstance(getattr(node, "app", None), Misconfigured):
            self.error = _told(node.app.error)
            return frozenset()
        kind = _kind_of(node)
        if kind is None:
            return frozenset()
        number = len(self.layers)
        cookie = node.config.cookie.name if kind == "session" else getattr(node, "session_cookie", "")
        self.layers.append(Layer(number, kind, around, cookie))
        if kind == "session":
            self.sessions[number] = node
        return frozenset({number})

    def _routes(self, router: Router, around: frozenset[int], path: str) -> None:
        for route in _flat(router.routes):
            here = path + getattr(route, "path", "")
            if hasattr(route, "endpoint"):
                self._route(route, around, here)
            elif hasattr(route, "app"):
                self._walk(route.app, around, here)

    def _route(self, route: Any, around: frozenset[int], path: str) -> None:
        for node in validation.layers(getattr(route, "app", None)):  # a route can have middlewares of its own
            around |= self._layer(node, around)
        if _may_change(route) and not _is_of_library(route.endpoint):
            self.ways.append(Way(path, around, _is_verified(getattr(route, "dependant", None))))

    def _end(self, node: Any, around: frozenset[int], path: str) -> None:
        """Note an application that has no routes to look at, and may do anything."""
        if not (isinstance(node, StaticFiles) or _is_of_library(node)):
            self.ways.append(Way(path or "/", around, is_protected=False))


def _told(error: Exception) -> str:
    """Return the message of an error, if it is one of this library: others may show anything."""
    said = str(error)
    is_known = isinstance(error, ImproperlyConfigured) or said.startswith(validation.NO_KEYWORD)
    return said if is_known else f"{type(error).__name__}."


def _kind_of(node: Any) -> Kind | None:
    if isinstance(node, SessionMiddleware):
        return "session"
    if isinstance(node, CsrfMiddleware):
        return "our csrf"
    if isinstance(node, AuthenticationMiddleware):
        return "authentication"
    if isinstance(getattr(node, "session_cookie", None), str):
        return "other session"
    return "csrf" if "csrf" in type(node).__name__.lower() else None


def _is_of_library(app: Any) -> bool:
    """Return whether this library serves it: its pages check tokens, and the others read only or take no cookie."""
    return type(app).__module__.startswith("starsessions.")


def _flat(routes: Sequence[Any]) -> Iterator[Any]:
    """Yield the routes, those of FastAPI's included routers, too, with the dependencies of these routers."""
    for route in routes:
        included = getattr(route, "effective_candidates", None)
        if included is None:
            yield getattr(route, "starlette_route", None) or route
        else:
            yield from _flat(included())


def _may_change(route: Any) -> bool:
    """Return whether a route takes other requests than GET, HEAD and OPTIONS, or is a WebSocket."""
    methods = getattr(route, "methods", None)
    if methods is not None:
        return not SAFE_METHODS.issuperset(methods)
    if isinstance(route.endpoint, type) and issubclass(route.endpoint, HTTPEndpoint):
        return any(hasattr(route.endpoint, name) for name in _HANDLERS)
    return True


def _is_verified(dependant: Any) -> bool:
    """Return whether a dependency of FastAPI checks a token, by its name: `csrf.verify` of this library does."""
    if dependant is None:
        return False
    call = dependant.call
    name = f"{getattr(call, '__module__', '')}.{getattr(call, '__qualname__', type(call).__qualname__)}"
    return call is verify or "csrf" in name.lower() or any(map(_is_verified, dependant.dependencies))


@contextmanager
def unlogged() -> Iterator[list[tuple[str, str]]]:
    """Keep what the library logs out of the log, and return its templates and messages.

    It listens even if the application has switched this log off, or inside of another `unlogged()`.
    """
    said: list[tuple[str, str]] = []

    def keep(record: logging.LogRecord) -> bool:
        said.append((str(record.msg), record.getMessage()))
        return False

    level, is_disabled = _log.level, _log.disabled
    _log.setLevel(logging.WARNING)
    _log.disabled = False
    _log.filters.insert(0, keep)
    try:
        yield said
    finally:
        _log.removeFilter(keep)
        _log.disabled = is_disabled
        _log.setLevel(level)
