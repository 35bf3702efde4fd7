"""Each kind of backend, and tests that run on several of them: one test, which names the backends on which it fails.

    @each_backend
    async def test_a_session_is_saved(backend, clock, site_of): ...

Each kind has a clock, a backend, sites and a log (`caplog`) of its own. All other fixtures are shared.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from starsessions import CookieBackend, EncryptedCookieBackend, InMemoryBackend, SessionBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.stores.memory import MemoryStore
from tests.rows import Test, collected
from tests.site import KEY, Clock, DictBackend, Site

Kinds = Mapping[str, Callable[[Clock], SessionBackend]]

BACKENDS: Kinds = {
    "signed": lambda clock: CookieBackend(KEY, allow_unrevocable=True, clock=clock),
    "encrypted": lambda clock: EncryptedCookieBackend(KEY, allow_unrevocable=True, clock=clock),
    "memory": lambda clock: InMemoryBackend(clock=clock),
    "stored": lambda clock: StoreBackend(MemoryStore(), clock=clock),
    "custom": lambda clock: DictBackend(),
}
ON_SERVER = {name: BACKENDS[name] for name in ("memory", "stored", "custom")}
"""The kinds of backend that can end a session for good."""

IN_STORE = {name: BACKENDS[name] for name in ("memory", "stored")}
"""The kinds of backend that can also keep an old id usable for a while."""


def site_by(clock: Clock) -> Callable[..., Site]:
    """Makes a site by this clock; a signed cookie and autoload unless something else is said."""

    def make(**settings: Any) -> Site:
        if "backend" not in settings:
            settings.setdefault("secret_key", KEY)
        settings.setdefault("autoload", True)
        return Site(clock=clock, **settings)

    return make


def forget_the_log(fixtures: Mapping[str, Any]) -> None:
    if "caplog" in fixtures:
        fixtures["caplog"].clear()


def on_each(kinds: Kinds, name: str = "backend") -> Callable[[Test], Test]:
    """Run the test once for each kind of backend, all in one test. Its parameter `name` is the backend."""

    def decorate(test: Test) -> Test:
        parameters = inspect.signature(test).parameters
        assert name in parameters, f"{test.__name__} takes no {name}"

        def own(kind: str) -> dict[str, Any]:
            clock = Clock()
            made = {name: kinds[kind](clock), "clock": clock, "site_of": site_by(clock)}
            return {key: value for key, value in made.items() if key in parameters}

        def run(*self: Any, **fixtures: Any) -> None:
            with collected() as failed:
                for kind in kinds:
                    forget_the_log(fixtures)
                    with failed(kind):
                        test(*self, **fixtures, **own(kind))

        async def run_async(*self: Any, **fixtures: Any) -> None:
            with collected() as failed:
                for kind in kinds:
                    forget_the_log(fixtures)
                    with failed(kind):
                        await test(*self, **fixtures, **own(kind))

        wrapped: Any = functools.wraps(test)(run_async if inspect.iscoroutinefunction(test) else run)
        shared = [value for key, value in parameters.items() if key not in (name, "clock", "site_of")]
        wrapped.__signature__ = inspect.signature(test).replace(parameters=shared)
        return wrapped

    return decorate


def on_another(test: Test) -> Test:
    """Return the test as it was written: to be called with a backend of another kind, such as one on a server."""
    return cast(Test, test.__wrapped__)  # type: ignore[attr-defined]


each_backend = on_each(BACKENDS)
each_server_backend = on_each(ON_SERVER, "server_backend")
each_store_backend = on_each(IN_STORE, "store_backend")
