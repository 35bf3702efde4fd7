"""What can be wrong with a middleware's settings, and with where it stands: said when it is built, with the cure."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from starsessions.backends.base import Backend
from starsessions.core.cookies import CookieSpec
from starsessions.core.durations import Duration, seconds
from starsessions.core.record import DEFAULT_MAX_AGE, Policy
from starsessions.exceptions import ImproperlyConfigured
from starsessions.lifecycle.config import Config, UserRules
from starsessions.timeouts import Limits

_log = logging.getLogger("starsessions")

_ASGI_KEYS = frozenset(
    {"type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers"}
    | {"client", "server", "extensions", "subprotocols", "state", "app", "router", "endpoint", "path_params"}
    | {"user", "auth"}
)
_MOST_LAYERS = 100
ANOTHER = (
    "Another SessionMiddleware, Starlette's own perhaps, writes the cookie {!r} too: "
    "remove it, or give one of them another session_cookie=…."
)


def check_choices(
    *, app_name: Any = None, clock: Any, scope_key: Any, on_conflict: Any, on_event: Any, on_unavailable: Any
) -> None:
    """Refuse what is none of the things that a setting can be."""
    if app_name is not None and (not isinstance(app_name, str) or not app_name):
        raise ImproperlyConfigured("app_name must be a str that is not empty, or None for the name of the cookie.")
    if clock is not None and not callable(clock):
        raise ImproperlyConfigured("clock must be callable and return seconds since 1970, as time.time does.")
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
    limits: Limits | None,
    max_age: Duration | None,
    absolute_timeout: Duration | None,
    rolling: bool,
    renew_every: Duration | None,
    rotate_every: Duration | None,
    rotate_grace: Duration,
) -> Policy:
    """For how long sessions live. `limits` stands for three of the settings."""
    if limits is not None:
        if (max_age, absolute_timeout, rolling) != (DEFAULT_MAX_AGE, None, False):
            raise ImproperlyConfigured("limits=… says max_age, absolute_timeout and rolling: leave these out.")
        max_age, absolute_timeout, rolling = limits.idle, limits.overall, True
    if rotate_every is not None and not backend.has_grace:
        raise ImproperlyConfigured("rotate_every needs a backend that keeps sessions in a store: leave it out.")
    if max_age is None or max_age == 0 or max_age == timedelta(0):
        lifetime, browser_session = backend.max_age or DEFAULT_MAX_AGE, True
    else:
        # Two settings, one deadline: the shorter one, so that the cookie never promises what the backend refuses.
        lifetime, browser_session = seconds("max_age", max_age), False
        lifetime = min(lifetime, backend.max_age or lifetime)
    interval = None if renew_every is None else seconds("renew_every", renew_every)
    if interval is not None and not rolling:
        raise ImproperlyConfigured("renew_every has no effect without rolling=True.")
    if interval is not None and interval >= lifetime:
        raise ImproperlyConfigured("renew_every must be shorter than max_age, or use comes too late to renew.")
    return Policy(
        max_age=lifetime,
        absolute_timeout=None if absolute_timeout is None else seconds("absolute_timeout", absolute_timeout),
        rolling=rolling,
        renew_every=interval,
        browser_session=browser_session,
        rotate_every=None if rotate_every is None else seconds("rotate_every", rotate_every),
        rotate_grace=seconds("rotate_grace", rotate_grace),
    )


def user_rules(
    backend: Backend, limits: Limits | None, remember_for: Duration, max_sessions: int | None, on_too_many: str
) -> UserRules:
    """What holds for people who are signed in. `limits` hold for those, too, who asked to be remembered."""
    if on_too_many not in ("evict", "refuse"):
        raise ImproperlyConfigured('on_too_many must be "evict" or "refuse".')
    if max_sessions is not None:
        if isinstance(max_sessions, bool) or not isinstance(max_sessions, int) or max_sessions < 1:
            raise ImproperlyConfigured("max_sessions_per_user must be a number of 1 or more.")
        if backend.user_index is None:
            raise ImproperlyConfigured(
                "max_sessions_per_user needs to know whose sessions there are: keep them in a store, or give the "
                "cookie backend revocations=… (a store)."
            )
    longest = seconds("remember_for", remember_for)
    if limits is not None:
        longest = min(longest, limits.idle)
    return UserRules(longest, max_sessions, on_too_many == "evict")


def check_stack(app: object, cookie: CookieSpec, scope_key: str) -> None:
    """Refuse to be built around another middleware that would write the same cookie."""
    for inner in layers(app):
        config = getattr(inner, "config", None)
        if isinstance(config, Config):
            if config.cookie.name == cookie.name:
                raise ImproperlyConfigured(
                    f"SessionMiddleware is installed twice with the cookie {cookie.name!r}: "
                    "remove one, or give it another session_cookie=… and scope_key=…."
                )
            if getattr(inner, "scope_key", None) == scope_key:
                _log.warning(
                    "Two SessionMiddlewares put their sessions into scope[%r]: handlers see that of the cookie %r "
                    "only, and not that of %r. Give one of them another scope_key=….",
                    scope_key,
                    config.cookie.name,
                    cookie.name,
                )
        if writes(inner, cookie.name):
            raise ImproperlyConfigured(ANOTHER.format(cookie.name))


def check_starlette_keys(app: object, backend: Backend) -> None:
    """Warn of another middleware that takes the same cookies in Starlette's format, which is bound to no name."""
    for inner in layers(app):
        config = getattr(inner, "config", None)
        if isinstance(config, Config) and not set(config.backend.starlette_keys).isdisjoint(backend.starlette_keys):
            _log.warning(
                "Two SessionMiddlewares share a secret_key, and read Starlette's cookie format, which does not say for "
                "which cookie it is: the value of the cookie %r is a session in the cookie %r, too. Give each a "
                "secret_key of its own, or CookieBackend(…, starlette_format=False).",
                config.backend.binding.cookie_name,
                backend.binding.cookie_name,
            )


def layers(app: object) -> Iterator[object]:
    """The applications that are wrapped in one another, from the outside in; a mock has no end of them."""
    for _ in range(_MOST_LAYERS):
        yield app
        app = getattr(app, "app", None)


def writes(layer: object, cookie_name: str) -> bool:
    """Whether it is Starlette's own SessionMiddleware, or one like it, with this cookie."""
    name = getattr(layer, "session_cookie", None)
    return isinstance(name, str) and name == cookie_name
