"""Find the store: in an application, or by a URL."""

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, NamedTuple

from starsessions.backends.base import Backend
from starsessions.backends.cookie import CookieBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.urls import backend_from_url
from starsessions.check.application import Application
from starsessions.cli.options import APP, STORE, Where
from starsessions.core.record import NEVER, Policy
from starsessions.exceptions import ImproperlyConfigured
from starsessions.middleware import SessionMiddleware
from starsessions.stores.base import Store
from starsessions.stores.memory import MemoryStore

ENCRYPT_WITH = "STARSESSIONS_ENCRYPT_WITH"


class Unusable(Exception):
    """What was given cannot be used. The message says why, and the cure."""


class Target(NamedTuple):
    """The sessions of one cookie."""

    backend: Backend
    history: Any
    """The history of sign-ins; None: there is none."""

    @property
    def names(self) -> dict[str, str]:
        """Whose sessions they are, for a result."""
        binding = self.backend.binding
        return {"cookie": binding.cookie_name, "app_name": binding.app_name}


@asynccontextmanager
async def opened(where: Where) -> AsyncIterator[Target]:
    """Find the sessions that are meant, and close what was opened to reach them."""
    app = _app_of(where)
    target = _by_url(where) if app is None else _in_application(app, where)
    _check_stores(target.backend.stores)
    async with _closing([*target.backend.stores, target.history]):
        yield target


@asynccontextmanager
async def opened_stores(where: Where) -> AsyncIterator[tuple[Sequence[Store], Sequence[Any]]]:
    """Find all stores and histories of an application, or the one of a URL, and close them."""
    app = _app_of(where)
    targets = [_by_url(where)] if app is None else [_target(one, where) for one in _middlewares(app)]
    stores = list({id(store): store for one in targets for store in one.backend.stores}.values())
    _check_stores(stores)
    histories = list({id(one.history): one.history for one in targets if one.history is not None}.values())
    async with _closing([*stores, *histories]):
        yield stores, histories


def loaded(target: str, what: str) -> Any:
    """Return the object that `module:name` or `module:function()` names."""
    module, _, name = target.partition(":")
    if not module or not name:
        raise Unusable(f"{what} must be module:name, or module:function() if a function makes it.")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = import_module(module)
        for part in name.removesuffix("()").split("."):
            found = getattr(found, part)
        return found() if name.endswith("()") else found
    except Exception as error:
        # What another library says may contain a URL with its password.
        why = str(error) if isinstance(error, ImproperlyConfigured | ImportError | AttributeError) else ""
        said = type(error).__name__ + (f": {why}" if why else "")
        raise Unusable(f"{what} {target} could not be loaded: {said.rstrip('.')}.") from error


def _app_of(where: Where) -> str | None:
    """Return the application that is meant; None: the store. What was typed comes before a variable."""
    app_is_typed = where.app != os.environ.get(APP)
    store_is_typed = where.store is not None and where.store != os.environ.get(STORE)
    return None if store_is_typed and not app_is_typed else where.app


def _by_url(where: Where) -> Target:
    if where.store is None:
        raise Unusable("Say where the sessions are: --app module:app or --store URL (see --help).")
    made = backend_from_url(where.store, encrypt_with=_keys(where) or False)
    # How long the middleware lets sessions live is unknown here. The entry of a session expires when it says.
    made.policy = Policy(max_age=NEVER)
    if where.revocations and isinstance(made, StoreBackend):
        made = CookieBackend(token_urlsafe(32), revocations=made)
    return Target(made.bound_for(where.cookie or "session", where.app_name), _history(where, None))


def _keys(where: Where) -> list[str]:
    if where.key_file is None:
        return os.environ.get(ENCRYPT_WITH, "").split()
    try:
        return where.key_file.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError):
        raise Unusable("The file of --key-file cannot be read as text.") from None


def _in_application(app: str, where: Where) -> Target:
    found = _middlewares(app)
    wanted = [
        one
        for one in found
        if where.cookie in (None, one.config.cookie.name)
        and where.app_name in (None, one.config.backend.binding.app_name)
    ]
    if len(wanted) == 1:
        return _target(wanted[0], where)
    names = ", ".join(sorted(one.config.cookie.name for one in found))
    if wanted:
        raise Unusable(f"The application has several SessionMiddlewares: choose one with --cookie ({names}).")
    raise Unusable(f"The application has no such SessionMiddleware. The cookies are: {names}.")


def _middlewares(app: str) -> list[SessionMiddleware]:
    found = Application(loaded(app, "The application"))
    if found.error is not None:
        raise Unusable(f"The application cannot start: {found.error}")
    if not found.sessions:
        raise Unusable("There is no SessionMiddleware in this application.")
    return list(found.sessions.values())


def _target(middleware: SessionMiddleware, where: Where) -> Target:
    return Target(middleware.config.backend, _history(where, middleware.config.on_event))


def _history(where: Where, on_event: Any) -> Any:
    if where.history is not None:
        return loaded(where.history, "The history")
    made_of = getattr(on_event, "__self__", None)
    return made_of if hasattr(made_of, "export") and hasattr(made_of, "erase") else None


def _check_stores(stores: Sequence[Store]) -> None:
    if not stores:
        raise Unusable(
            "Only browsers have these sessions, or a SessionBackend of the application: there is no store to look at."
        )
    if any(isinstance(store, MemoryStore) for store in stores):
        raise Unusable(
            "These sessions are in the memory of the process that serves the application: no other can see them. Keep "
            "them in Redis or SQL."
        )


@asynccontextmanager
async def _closing(used: Sequence[Any]) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for one in used:
            if hasattr(one, "aclose"):
                stack.push_async_callback(one.aclose)
            elif hasattr(one, "lifespan"):
                stack.push_async_callback(_end_lifespan, one)
        yield


async def _end_lifespan(history: Any) -> None:
    """Close the connections of a history, which does so at the end of its lifespan."""
    async with history.lifespan():
        pass
