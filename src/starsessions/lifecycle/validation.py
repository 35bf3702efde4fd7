"""Check a middleware's settings, and the stack that it is part of, when it is built. Each error names the cure."""

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec

from starsessions.backends.base import Backend
from starsessions.core.durations import Duration, seconds
from starsessions.core.record import DEFAULT_MAX_AGE, Policy
from starsessions.exceptions import ImproperlyConfigured
from starsessions.lifecycle.config import Config, UserRules

_log = logging.getLogger("starsessions")

P = ParamSpec("P")

_ASGI_KEYS = frozenset(
    {"type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers"}
    | {"client", "server", "extensions", "subprotocols", "state", "app", "router", "endpoint", "path_params"}
    | {"user", "auth"}
)
_MOST_LAYERS = 100

ROTATE_GRACE = 60
"""Seconds for which an id that `rotate_every` replaced still works, for requests that were on their way."""
ANOTHER = (
    "Another SessionMiddleware, Starlette's own perhaps, writes the cookie {!r} too: "
    "remove it, or give one of them another session_cookie=…."
)


# What other libraries, and earlier versions of this one, call a setting; and what it is called here.
_ELSEWHERE = {
    "clock": "clock=… of the backend",
    "cookie": "session_cookie",
    "cookie_domain": "domain",
    "cookie_https_only": "https_only",
    "cookie_name": "session_cookie",
    "cookie_path": "path",
    "cookie_same_site": "same_site",
    "cookie_samesite": "same_site",
    "cookie_secure": "https_only",
    "expire": "max_age",
    "expires": "max_age",
    "key": "secret_key",
    "key_prefix": "prefix=… of RedisBackend",
    "lifetime": "max_age",
    "limits": "**AAL2 of starsessions.timeouts",
    "max_lifetime": "absolute_timeout",
    "name": "session_cookie",
    "prefix": "prefix=… of RedisBackend",
    "redis_url": "backend=RedisBackend(url)",
    "remember_for": "remember=True of starsessions.users.sign_in, which is 30 days",
    "rolling_sessions": "rolling",
    "rotate_grace": "rotate_every, whose grace is 60 seconds",
    "samesite": "same_site",
    "secret": "secret_key",
    "secure": "https_only",
    "serializer": "serializer=… of the backend",
    "session_lifetime": "max_age",
    "session_name": "session_cookie",
    "session_store": "backend",
    "store": "backend",
    "store_factory": "backend",
    "timeout": "max_age",
    "ttl": "max_age",
}


def names_keywords(init: Callable[P, None]) -> Callable[P, None]:
    """Make a constructor say which keyword is meant, when it is given the one of another library.

    (A `**unknown` in its signature would do as well, but then no type checker knows its keywords.)
    """
    code = init.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        for name in kwargs:
            if name not in known:
                ours = _ELSEWHERE.get(name)
                cure = f"it is {ours} here" if ours else "its documentation lists them"
                raise TypeError(f"SessionMiddleware has no keyword {name!r}: {cure}.")
        init(*args, **kwargs)

    return checked


def check_choices(*, app_name: Any, scope_key: Any, on_conflict: Any, on_event: Any, on_unavailable: Any) -> None:
    """Refuse a value that a setting cannot have."""
    if app_name is not None and (not isinstance(app_name, str) or not app_name):
        raise ImproperlyConfigured("app_name must be a str that is not empty, or None for the name of the cookie.")
    if not isinstance(scope_key, str) or scope_key in _ASGI_KEYS:
        raise ImproperlyConfigured(f"scope_key={scope_key!r} cannot be used: the scope needs that key itself.")
    if on_conflict not in ("merge", "raise"):
        raise ImproperlyConfigured('on_conflict must be "merge" or "raise".')
    if on_event is not None and not callable(on_event):
        raise ImproperlyConfigured("on_event must be a function, or a coroutine function, of one event.")
    if on_unavailable not in ("error", "anonymous"):
        raise ImproperlyConfigured('on_unavailable must be "error" or "anonymous".')


def policy_from(
    backend: Backend,
    max_age: Duration | None,
    absolute_timeout: Duration | None,
    rolling: bool,
    renew_every: Duration | None,
    rotate_every: Duration | None,
) -> Policy:
    """Return how long sessions last."""
    if rotate_every is not None and not backend.has_grace:
        raise ImproperlyConfigured("rotate_every needs a backend that keeps sessions in a store: remove it.")
    if max_age is None or max_age == 0 or max_age == timedelta(0):
        lifetime, browser_session = backend.max_age or DEFAULT_MAX_AGE, True
    else:
        # Two settings, one deadline: the shorter one, so that the cookie never promises what the backend refuses.
        lifetime, browser_session = seconds("max_age", max_age), False
        lifetime = min(lifetime, backend.max_age or lifetime)
    interval = _optional("renew_every", renew_every)
    if interval is not None and not rolling:
        raise ImproperlyConfigured("renew_every has no effect without rolling=True.")
    if interval is not None and interval >= lifetime:
        raise ImproperlyConfigured("renew_every must be shorter than max_age, or use comes too late to renew.")
    return Policy(
        max_age=lifetime,
        absolute_timeout=_optional("absolute_timeout", absolute_timeout),
        rolling=rolling,
        renew_every=interval,
        browser_session=browser_session,
        rotate_every=_optional("rotate_every", rotate_every),
        rotate_grace=ROTATE_GRACE,
    )


def _optional(setting: str, value: Duration | None) -> int | None:
    return None if value is None else seconds(setting, value)


def user_rules(backend: Backend, max_sessions: int | None, on_too_many: str) -> UserRules:
    """Return what holds for signed-in users."""
    if on_too_many not in ("evict", "refuse"):
        raise ImproperlyConfigured('on_too_many must be "evict" or "refuse".')
    if max_sessions is not None:
        if isinstance(max_sessions, bool) or not isinstance(max_sessions, int) or max_sessions < 1:
            raise ImproperlyConfigured("max_sessions_per_user must be a number of 1 or more.")
        if backend.user_index is None:
            raise ImproperlyConfigured(
                "max_sessions_per_user needs a list of each user's sessions: keep them in a store, or pass "
                "revocations=<store> to the cookie backend."
            )
    return UserRules(max_sessions, on_too_many == "evict")


def check_stack(app: object, config: Config, scope_key: str) -> None:
    """Refuse to be built around another middleware that would write the same cookie."""
    name = config.cookie.name
    for layer in layers(app):
        inner = getattr(layer, "config", None)
        if isinstance(inner, Config):
            if inner.cookie.name == name:
                raise ImproperlyConfigured(
                    f"SessionMiddleware is installed twice with the cookie {name!r}: "
                    "remove one, or give it another session_cookie=… and scope_key=…."
                )
            if getattr(layer, "scope_key", None) == scope_key:
                _log.warning(
                    "Two SessionMiddlewares put their sessions into scope[%r]: handlers see that of the cookie %r "
                    "only, and not that of %r. Give one of them another scope_key=….",
                    scope_key,
                    inner.cookie.name,
                    name,
                )
            if not set(inner.backend.starlette_keys).isdisjoint(config.backend.starlette_keys):
                _log.warning(
                    "Two SessionMiddlewares share a secret_key, and read Starlette's cookie format, which does not say "
                    "for which cookie it is: the value of the cookie %r is a session in the cookie %r, too. Give each "
                    "a secret_key of its own, or CookieBackend(…, starlette_format=False).",
                    inner.cookie.name,
                    name,
                )
        if writes(layer, name):
            raise ImproperlyConfigured(ANOTHER.format(name))


def layers(app: object) -> Iterator[object]:
    """The applications that are wrapped in one another, from the outside in; a mock has no end of them."""
    for _ in range(_MOST_LAYERS):
        yield app
        app = getattr(app, "app", None)


def writes(layer: object, cookie_name: str) -> bool:
    """Whether it is Starlette's own SessionMiddleware, or one like it, with this cookie."""
    name = getattr(layer, "session_cookie", None)
    return isinstance(name, str) and name == cookie_name
