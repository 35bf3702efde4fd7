"""Validate the settings of a middleware, and the stack around it, at construction. Each error says how to fix it."""

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec

from starsessions.backends.adapter import AdaptedBackend
from starsessions.backends.base import Backend, SessionBackend
from starsessions.backends.observer import Observer
from starsessions.core.durations import Duration, seconds
from starsessions.core.record import DEFAULT_MAX_AGE, Policy
from starsessions.exceptions import ImproperlyConfigured
from starsessions.lifecycle.config import Config, UserRules
from starsessions.lifecycle.startup import Misconfigured
from starsessions.stores.base import Store

_log = logging.getLogger("starsessions")

P = ParamSpec("P")

_ASGI_KEYS = frozenset(
    {"type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers"}
    | {"client", "server", "extensions", "subprotocols", "state", "app", "router", "endpoint", "path_params"}
    | {"user", "auth"}
)
_MOST_LAYERS = 100

DEFAULT_MAX_SESSIONS = 100
"""How many sessions a user may have, in a backend that lists them."""

DEFAULT_MAX_SIZE = 1024 * 1024
"""How long the encoded data of a session on the server may be, in bytes."""

ROTATE_GRACE = 60
"""Seconds for which an id that `rotate_every` replaced still works, for requests in flight."""
WITHHELD = (
    "A request from another site to %.200r came without the session cookie, which the browser withheld (SameSite). "
    "What the handler stored in the session was dropped, because a new session would replace the one that the browser "
    "has. See docs/guides/users/callbacks.md."
)
NESTED = (
    "Two nested SessionMiddlewares use the cookie {!r} with different keys or stores: give both the same, or one of "
    "them another session_cookie=…."
)
SERVED_BY_OUTER = (
    "A SessionMiddleware for the cookie %r is inside of another one with the same key or store: both applications use "
    "the session of the outer one, and the other settings of the inner one have no effect. Remove the inner one."
)
ONE_PLACE = (
    "Two SessionMiddlewares store their session in scope[%r]: handlers see only the session of the cookie %r, not that "
    "of %r. Give one of them another scope_key=…."
)
ONE_KEY = (
    "Two SessionMiddlewares share a secret_key and read Starlette's cookie format, which is not bound to the name of a "
    "cookie: a value of the cookie %r is also valid in the cookie %r. Give each its own secret_key, or use "
    "CookieBackend(…, starlette_format=False)."
)
TWICE = (
    "SessionMiddleware is installed twice with the cookie {!r}: remove one of them, or give it another "
    "session_cookie=… and scope_key=…."
)
ANOTHER = (
    "Another SessionMiddleware, perhaps Starlette's own, also writes the cookie {!r}: "
    "remove it, or give one of them another session_cookie=…."
)

NO_KEYWORD = "SessionMiddleware has no keyword"


# Settings of this library, and their names in other libraries and in earlier versions of this one.
_ELSEWHERE = {
    "absolute_timeout": "max_lifetime",
    "backend": "session_store store store_factory",
    "backend=RedisBackend(url)": "redis_url",
    "domain": "cookie_domain",
    "https_only": "cookie_https_only cookie_secure secure",
    "max_age": "expire expires session_lifetime timeout ttl",
    "max_age if rolling is on, or else absolute_timeout": "lifetime",
    "max_age with rolling=True": "idle_timeout",
    "path": "cookie_path",
    "rolling": "rolling_sessions",
    "same_site": "cookie_same_site cookie_samesite samesite",
    "secret_key": "key secret",
    "session_cookie": "cookie cookie_name name session_name",
    "**AAL2 of starsessions.timeouts": "limits",
    "clock=… of the backend": "clock",
    "encrypt_with=… of the backend, or EncryptedCookieBackend": "encrypt_with encryptor",
    "max_cookies=… of CookieBackend or EncryptedCookieBackend": "max_cookies",
    "prefix=… of RedisBackend": "key_prefix prefix",
    "remember=True of starsessions.users.sign_in, which is 30 days": "remember_for",
    "rotate_every, whose grace is 60 seconds": "rotate_grace",
    "serializer=… of the backend": "serializer",
}
_CURES = {name: f"use {meant}" for meant, names in _ELSEWHERE.items() for name in names.split()}
_CURES |= dict.fromkeys(("cookie_httponly", "http_only", "httponly"), "remove it, as the cookie is always HttpOnly")


def names_keywords(init: Callable[P, None]) -> Callable[P, None]:
    """Decorate a constructor, so that the error for a keyword of another library names the right keyword.

    (A `**unknown` in the signature would work as well, but then type checkers would accept any keyword.)
    """
    code = init.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        for name in kwargs:
            if name not in known:
                raise TypeError(f"{NO_KEYWORD} {name!r}: {_CURES.get(name, 'see its documentation for the list')}.")
        init(*args, **kwargs)

    return checked


def check_flags(**flags: object) -> None:
    """Raise `ImproperlyConfigured` for a flag that is no bool: `"false"` from an environment variable is true."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ImproperlyConfigured(f"{name} must be True or False, not {type(value).__name__}.")


def check_choices(app_name: Any, scope_key: Any, on_conflict: Any, on_event: Any, on_unavailable: Any) -> None:
    """Raise `ImproperlyConfigured` for an invalid value of a setting."""
    if app_name is not None and (not isinstance(app_name, str) or not app_name):
        raise ImproperlyConfigured("app_name must be a non-empty str, or None to use the name of the cookie.")
    if not isinstance(scope_key, str) or scope_key in _ASGI_KEYS:
        raise ImproperlyConfigured(f"scope_key={scope_key!r} must be a str that ASGI does not use itself: change it.")
    if on_conflict not in ("merge", "raise"):
        raise ImproperlyConfigured('on_conflict must be "merge" or "raise".')
    if on_event is not None and not callable(on_event):
        raise ImproperlyConfigured("on_event must be a function or a coroutine function that takes one event.")
    if on_unavailable not in ("error", "anonymous"):
        raise ImproperlyConfigured('on_unavailable must be "error" or "anonymous".')


def observer_from(telemetry: Any, backend: SessionBackend | Store, adapted: Backend) -> Observer:
    """Return what measures the sessions of the middleware that was given `backend`."""
    if isinstance(telemetry, type) or not callable(getattr(telemetry, "observer", None)):
        raise ImproperlyConfigured("telemetry must be starsessions.opentelemetry.OpenTelemetry(…), or None.")
    observer: Observer = telemetry.observer(type(getattr(adapted, "store", backend)).__name__)
    return observer


def policy_from(
    backend: Backend,
    max_age: Duration | None,
    absolute_timeout: Duration | None,
    rolling: bool,
    renew_every: Duration | None,
    rotate_every: Duration | None,
    anonymous_max_age: Duration | None,
) -> Policy:
    """Return how long sessions last."""
    if rotate_every is not None and not backend.has_grace:
        raise ImproperlyConfigured("rotate_every needs a backend with a store: remove it, or keep sessions in a store.")
    if max_age is None or max_age == 0 or max_age == timedelta(0):
        lifetime, browser_session = backend.max_age or DEFAULT_MAX_AGE, True
    else:
        # The shorter of the two settings applies, so that the cookie never outlives the session in the backend.
        lifetime, browser_session = seconds("max_age", max_age), False
        lifetime = min(lifetime, backend.max_age or lifetime)
    interval = _optional("renew_every", renew_every)
    if interval is not None and not rolling:
        raise ImproperlyConfigured("renew_every has no effect without rolling=True: add it, or remove renew_every.")
    if interval is not None and interval >= lifetime:
        raise ImproperlyConfigured("renew_every must be shorter than max_age, or sessions expire before a renewal.")
    return Policy(
        max_age=lifetime,
        absolute_timeout=_optional("absolute_timeout", absolute_timeout),
        rolling=rolling,
        renew_every=interval,
        browser_session=browser_session,
        rotate_every=_optional("rotate_every", rotate_every),
        rotate_grace=ROTATE_GRACE,
        anonymous_max_age=_optional("anonymous_max_age", anonymous_max_age),
    )


def _optional(setting: str, value: Duration | None) -> int | None:
    return None if value is None else seconds(setting, value)


def check_effect(config: Config) -> None:
    """Raise if an id would rotate within the grace of the last one; warn of a setting that another one outdoes."""
    policy = config.policy
    if policy.rotate_every is not None and policy.rotate_every <= policy.rotate_grace:
        raise ImproperlyConfigured(
            f"rotate_every must be longer than the {policy.rotate_grace} seconds for which a replaced id still works."
        )
    if config.raises_on_conflict and config.is_client_side:
        _log.warning(
            'on_conflict="raise" has no effect: the server does not keep a cookie to compare with. Use a store.'
        )
    # A `max_age` that is the default was not chosen: then a shorter `absolute_timeout` is all that was meant.
    max_age = 0 if policy.browser_session or policy.max_age == DEFAULT_MAX_AGE else policy.max_age
    durations = {"max_age": max_age, "renew_every": policy.renew_every, "rotate_every": policy.rotate_every}
    for setting, value in durations.items():
        if policy.absolute_timeout is not None and (value or 0) > policy.absolute_timeout:
            _log.warning("%s has no effect: absolute_timeout is shorter. Remove one of them.", setting)


def user_rules(backend: Backend, max_sessions: int | None, on_too_many: str) -> UserRules:
    """Return the rules for sessions of signed-in users."""
    if on_too_many not in ("evict", "refuse"):
        raise ImproperlyConfigured('on_too_many must be "evict" or "refuse".')
    if max_sessions is not None:
        if isinstance(max_sessions, bool) or not isinstance(max_sessions, int) or max_sessions < 1:
            raise ImproperlyConfigured("max_sessions_per_user must be an int of 1 or more, or None for no limit.")
        if backend.user_index is None and max_sessions != DEFAULT_MAX_SESSIONS:
            raise ImproperlyConfigured(
                "max_sessions_per_user needs a backend that lists each user's sessions: keep sessions in a store, or "
                "pass revocations=<store> to the cookie backend."
            )
    # A place of many is not worth a write with each sign-in. So it is confirmed only if the number was chosen.
    confirms = max_sessions not in (None, DEFAULT_MAX_SESSIONS) and backend.user_index is not None
    return UserRules(max_sessions, on_too_many == "evict", confirms)


def size_limit(backend: Backend, max_size: int | None) -> int | None:
    """Return the longest payload in bytes; None: any. Cookies have limits of their own, and a `SessionBackend`, too."""
    if max_size is not None and (isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1):
        raise ImproperlyConfigured("max_size must be an int of 1 or more, in bytes, or None for no limit.")
    return None if backend.is_client_side or isinstance(backend, AdaptedBackend) else max_size


def check_stack(app: object, config: Config, scope_key: str) -> None:
    """Raise `ImproperlyConfigured` if a wrapped middleware writes the same cookie, or is itself misconfigured."""
    name = config.cookie.name
    for layer in layers(app):
        wrapped = getattr(layer, "app", None)
        if isinstance(wrapped, Misconfigured):
            raise wrapped.error
        inner = getattr(layer, "config", None)
        if isinstance(inner, Config):
            if inner.cookie.name == name:
                raise ImproperlyConfigured(TWICE.format(name))
            if getattr(layer, "scope_key", None) == scope_key:
                _log.warning(ONE_PLACE, scope_key, inner.cookie.name, name)
            if not set(inner.backend.starlette_keys).isdisjoint(config.backend.starlette_keys):
                _log.warning(ONE_KEY, inner.cookie.name, name)
        if writes(layer, name):
            raise ImproperlyConfigured(ANOTHER.format(name))


def layers(app: object) -> Iterator[object]:
    """Yield the nested applications, from the outside in. The number is limited, because a mock has no end."""
    for _ in range(_MOST_LAYERS):
        if app is None:
            return
        yield app
        app = getattr(app, "app", None)


def writes(layer: object, cookie_name: str) -> bool:
    """Return whether the layer is Starlette's own SessionMiddleware, or a similar one, with this cookie."""
    name = getattr(layer, "session_cookie", None)
    return isinstance(name, str) and name == cookie_name
