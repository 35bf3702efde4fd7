"""What a deployment gets wrong, found before it is deployed.

`check` looks at an application, and asks its stores:

    for finding in await check(app):
        print(finding.number, finding.sentence, finding.cure)

docs/reference/checks.md explains each number.
"""

import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence

from starsessions.backends.base import wall_clock
from starsessions.backends.clocks import MOST_APART
from starsessions.check.application import Application
from starsessions.check.asking import fact_of_store
from starsessions.check.facts import Facts, SessionFact
from starsessions.check.findings import CHECKS, Check, Finding, Severity, without
from starsessions.check.rules import judge
from starsessions.check.workers import workers_in
from starsessions.core.durations import Clock
from starsessions.middleware import SessionMiddleware
from starsessions.stores.base import Store
from starsessions.stores.memory import MemoryStore
from starsessions.timeouts import Timeouts

__all__ = ["CHECKS", "Check", "Finding", "Severity", "check"]


async def check(
    app: object,
    *,
    silence: Collection[str] = (),
    timeouts: Timeouts | None = None,
    workers: int | None = None,
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Return what is wrong with the sessions of an application, ordered by number.

    It builds the middlewares of the application, and asks each store, whose data it does not change. A store that does
    not answer is a finding.

    Args:
        app: a Starlette or FastAPI application, or any ASGI application with a `SessionMiddleware` around it.
        silence: the numbers of findings that are right for this deployment.
        timeouts: the level of assurance to hold the limits against, such as `AAL2` of `starsessions.timeouts`.
        workers: the number of worker processes. None: what `argv` and `environ` say.
        argv: the command line of the server. None: that of this process.
        environ: the environment of the server. None: that of this process.

    Raises:
        ValueError: a number in `silence` is unknown.

    >>> import asyncio
    >>> from starlette.applications import Starlette
    >>> [one.number for one in asyncio.run(check(Starlette(debug=True)))]
    ['S002', 'S003']
    >>> [one.number for one in asyncio.run(check(Starlette(debug=True), silence=["S003"]))]
    ['S002']
    """
    without((), silence)
    if workers is None:
        workers = workers_in(sys.argv if argv is None else argv, os.environ if environ is None else environ)
    found = Application(app)
    sessions = [_session(number, middleware) for number, middleware in found.sessions.items()]
    stores: dict[int, tuple[Store, Clock]] = {}
    for middleware in found.sessions.values():
        for store in middleware.config.backend.stores:
            stores.setdefault(id(store), (store, middleware.config.clock))
    facts = Facts(
        sessions=sessions,
        layers=found.layers,
        ways=found.ways,
        stores=[await fact_of_store(store, clock) for store, clock in stores.values()],
        other_keys=found.other_keys,
        said=found.said,
        error=found.error,
        is_debug=found.is_debug,
        workers=workers,
    )
    return without(list(judge(facts, timeouts)), silence)


def _session(layer: int, middleware: SessionMiddleware) -> SessionFact:
    config = middleware.config
    backend, keys = config.backend, config.backend.key_facts
    is_stored = bool(backend.stores) and not backend.is_client_side
    return SessionFact(
        layer=layer,
        cookie=config.cookie,
        scope_key=middleware.scope_key,
        place=backend.place,
        backend=id(backend.original),
        policy=backend.policy,
        max_sessions=config.users.max_sessions if backend.user_index is not None else 0,
        keys=keys,
        stores=[id(store) for store in backend.stores],
        keeps_unencrypted=is_stored and not (keys or isinstance(backend.stores[0], MemoryStore)),
        clock=_what_is_wrong_with(config.clock),
    )


def _what_is_wrong_with(clock: Clock) -> str | None:
    if clock is wall_clock:
        return None
    if type(clock).__module__.startswith("starsessions.testing"):
        return "it is that of starsessions.testing"
    apart = abs(clock() - time.time())
    return f"it is {round(apart)} s away from it" if apart > MOST_APART else None
