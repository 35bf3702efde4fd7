"""The rules: from facts to findings. Nothing here asks a server, a clock or the environment."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

from starsessions.backends.clocks import MOST_APART
from starsessions.check.facts import Facts, Layer, SessionFact, StoreFact
from starsessions.check.findings import Finding, found
from starsessions.core.durations import seconds
from starsessions.lifecycle import advice, validation
from starsessions.stores.redis.eviction import EVICTS
from starsessions.timeouts import Timeouts

LONG = 30 * 24 * 60 * 60
"""The longest that a session should last without use, in seconds: what a user gets who asks to be remembered."""

_MOST_PATHS = 3
"""The paths that a finding names."""

_SAID = {
    validation.ONE_KEY: "S104",
    validation.ONE_PLACE: "S306",
    advice.MESSAGES["max_cookies"]: "S206",
    advice.MESSAGES["partitioned"]: "S207",
}
"""The numbers of what the library says itself when an application is built. All else is S005."""


def judge(facts: Facts, timeouts: Timeouts | None = None) -> Iterator[Finding]:
    """Return all findings, in no order, and some of them perhaps twice."""
    yield from _application(facts)
    yield from _keys(facts)
    for session in facts.sessions:
        yield from _cookie(session)
        yield from _limits(session, timeouts)
        yield from _forgery(facts, session)
        yield from _order(facts, session)
        yield from _stored(facts, session)


def _application(facts: Facts) -> Iterator[Finding]:
    if facts.error is not None:
        yield found("S001", error=facts.error)
    elif not facts.sessions:
        yield found("S002")
    if facts.is_debug:
        yield found("S003")
    for template, said in facts.said:
        yield found(_SAID.get(template, "S005"), said=said)
    for session in facts.sessions:
        if session.clock is not None:
            yield found("S004", session.cookie.name, clock=session.clock)


# Keys


def _keys(facts: Facts) -> Iterator[Finding]:
    uses = defaultdict[bytes, dict[tuple[object, str], str]](dict)
    for session in facts.sessions:
        name = session.cookie.name
        for key in session.keys:
            uses[key.mark].setdefault((session.backend, key.setting), f"{key.setting} of the cookie {name!r}")
            if key.is_public:
                yield found("S101", name, setting=key.setting)
            elif key.is_weak:
                yield found("S102", name, setting=key.setting)
    for other in facts.other_keys:
        if other.fact.mark in uses:
            uses[other.fact.mark][other.of, other.fact.setting] = f"{other.fact.setting} of {other.of}"
    for used in uses.values():
        first, *others = used.values()
        if others:
            yield found("S103", setting=first, others=" and ".join(others))


# The cookie


def _cookie(session: SessionFact) -> Iterator[Finding]:
    cookie = session.cookie
    could_have_prefix = cookie.domain is None and cookie.path == "/" and cookie.https_only is not False
    if cookie.https_only is False:
        yield found("S201", cookie.name)
    elif could_have_prefix and not cookie.name.lower().startswith(("__host-", "__http-")):
        yield found("S203", cookie.name)
    elif cookie.https_only is None and not cookie.needs_secure:
        yield found("S202", cookie.name)
    if cookie.domain is not None:
        yield found("S204", cookie.name, domain=cookie.domain)
    if cookie.same_site == "none":
        yield found("S205", cookie.name)


# The limits


def _limits(session: SessionFact, timeouts: Timeouts | None) -> Iterator[Finding]:
    name, policy = session.cookie.name, session.policy
    if timeouts is not None:
        longest, idle = (
            seconds("absolute_timeout", timeouts["absolute_timeout"]),
            seconds("max_age", timeouts["max_age"]),
        )
        if policy.absolute_timeout is None or policy.absolute_timeout > longest:
            yield found("S501", name, setting="absolute_timeout", limit=longest)
        if policy.max_age > idle:
            yield found("S501", name, setting="max_age", limit=idle)
    elif policy.absolute_timeout is None:
        yield found("S502", name)
    if session.max_sessions is None:
        yield found("S503", name)
    if policy.max_age > LONG:
        yield found("S504", name)


# The middlewares


def _forgery(facts: Facts, session: SessionFact) -> Iterator[Finding]:
    """Whether each route that may change something is protected against requests of other sites."""
    protections = {layer.number for layer in facts.layers if layer.kind in ("csrf", "our csrf")}
    ways = [way for way in facts.ways if session.layer in way.layers]
    bare = [way for way in ways if not (way.is_protected or protections & way.layers)]
    name = session.cookie.name
    if bare and len(bare) == len(ways):
        yield found("S301", name)
    elif bare:
        paths = ", ".join(way.path for way in bare[:_MOST_PATHS])
        yield found(
            "S302", name, paths=paths + ("" if len(bare) <= _MOST_PATHS else f", and {len(bare) - _MOST_PATHS} more")
        )
    all_sessions = {each.layer for each in facts.sessions}
    if any(layer.kind == "our csrf" and not all_sessions & layer.outside for layer in _around(facts, session)):
        yield found("S303", name)


def _order(facts: Facts, session: SessionFact) -> Iterator[Finding]:
    """Whether the middlewares around this one and inside of it go together with it."""
    name = session.cookie.name
    around = _around(facts, session)
    inside = [layer for layer in facts.layers if session.layer in layer.outside]
    for other in facts.sessions:
        if other.cookie.name == name and any(layer.number == other.layer for layer in around):
            if other.place == session.place:
                yield found("S308", name, said=validation.SERVED_BY_OUTER % name)
            else:
                yield found("S304", name, said=validation.NESTED.format(name))
    for layer in chain(around, inside):
        if layer.kind == "other session":
            if layer.cookie == name:
                yield found(
                    "S305", name, clash="also writes this cookie, so that each overwrites the sessions of the other"
                )
            elif session.scope_key == "session":
                yield found(
                    "S305", name, clash='also puts its session in scope["session"], where handlers find only one'
                )
    if any(layer.kind == "authentication" for layer in around):
        yield found("S307", name)


def _around(facts: Facts, session: SessionFact) -> list[Layer]:
    """Return the layers around this middleware."""
    [own] = [layer for layer in facts.layers if layer.number == session.layer]
    return [layer for layer in facts.layers if layer.number in own.outside]


# The stores


def _stored(facts: Facts, session: SessionFact) -> Iterator[Finding]:
    name = session.cookie.name
    for store in facts.stores:
        if store.identity in session.stores:
            if facts.workers > 1 and (store.is_memory or not store.survey.is_shared):
                yield found("S401", name, workers=facts.workers)
            if store.error is not None:
                yield found("S402", name, error=store.error)
            yield from _surveyed(store, name)
    if session.keeps_unencrypted:
        yield found("S410", name)


def _surveyed(store: StoreFact, name: str) -> Iterator[Finding]:
    survey = store.survey
    if abs(store.seconds_ahead) > MOST_APART:
        yield found("S405", name, seconds=round(abs(store.seconds_ahead)))
    if survey.evicts is not None:
        yield found("S403", name, said=EVICTS % survey.evicts)
    if not survey.persists:
        yield found("S404", name)
    if survey.changes_session:
        yield found("S406", name)
    if survey.wrong_table is not None:
        yield found("S407" if survey.is_table_missing else "S408", name, error=survey.wrong_table)
    for columns in survey.missing_indexes:
        yield found("S409", name, columns=columns)
