"""The commands that change nothing."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from secrets import token_urlsafe
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from starsessions import check as checks
from starsessions import inventory, personal, timeouts
from starsessions.cli.options import APP, Flag, Named, Result, Where
from starsessions.cli.screen import coloured, many, moment, printable, progress, show, table
from starsessions.cli.target import Target, Unusable, loaded, opened
from starsessions.personal import StoredSession
from starsessions.users import UserSessions

_WHERE, _RESULT = Where(), Result()

_LEVELS = {"1": timeouts.AAL1, "2": timeouts.AAL2, "3": timeouts.AAL3}
_COLOUR_OF = {"error": "red", "warning": "yellow", "info": "cyan"}

_WORDS = {
    "sessions": "live sessions",
    "signed_in": "  signed in",
    "anonymous": "  anonymous",
    "users": "users who are signed in, about",
    "revoked": "sessions that `end --everyone` has ended",
    "pointers": "old ids of sessions that have a new one",
    "others": "sign-ins under way, links, and other cookies",
    "unreadable": "entries that cannot be read",
    "expired": "entries that have expired",
    "bytes": "bytes of all values",
    "size_p50": "bytes of a session, half of them at most",
    "size_p99": "bytes of a session, 99 % of them at most",
    "size_max": "bytes of the largest session",
}
"""The numbers of `Stats` in words."""


def keygen(*, result: Result = _RESULT) -> None:
    """Print a new key, for secret_key or encrypt_with.

    It has 256 random bits. Put it where the application reads its secrets, and nowhere else.
    """
    key = token_urlsafe(32)
    show({"key": key}, [key], result.json)


async def check(
    app: Annotated[str | None, Parameter(env_var=APP)] = None,
    /,
    *,
    silence: Annotated[Sequence[str], Parameter(negative="", show_default=False, metavar="NUMBER")] = (),
    fail_on: Literal["info", "warning", "error"] = "warning",
    aal: Literal["1", "2", "3"] | None = None,
    workers: int | None = None,
    explain: Annotated[str | None, Parameter(metavar="NUMBER")] = None,
    result: Result = _RESULT,
) -> int:
    """Find what a deployment gets wrong, before it is deployed.

    It builds the middlewares of the application and asks its stores, whose data it does not change. The exit code is 1
    if there is a finding. Each finding has a number, which is explained on the page "Checks before a deployment".

    Parameters
    ----------
    app
        The application: module:app, or module:create_app().
    silence
        The number of a finding that is right for this deployment, such as S104. It can be repeated.
    fail_on
        The least severity for which the exit code is 1.
    aal
        The NIST level of assurance to hold the timeouts against.
    workers
        The number of worker processes. Left out: what the environment says, otherwise 1.
    explain
        Print what a number means, and check nothing.
    """
    if explain is not None:
        return _explain(explain, result)
    if app is None:
        raise Unusable("Say which application to check: starsessions check module:app.")
    try:
        found = await checks.check(
            loaded(app, "The application"),
            silence=silence,
            timeouts=None if aal is None else _LEVELS[aal],
            workers=workers,
            argv=(),
        )
    except ValueError as error:
        raise Unusable(str(error)) from None
    shown = [_finding(one.number, one.severity, one.sentence, one.cure, one.where) for one in found]
    show({"findings": shown}, _lines_of(shown), result.json)
    return int(any(one.severity >= checks.Severity[fail_on.upper()] for one in found))


def _explain(number: str, result: Result) -> int:
    known = checks.CHECKS.get(number.upper())
    if known is None:
        raise Unusable(f"There is no check {number}. The numbers are {min(checks.CHECKS)} to {max(checks.CHECKS)}.")
    shown = [_finding(number.upper(), known.severity, known.sentence, known.cure, "")]
    show({"findings": shown}, _lines_of(shown), result.json)
    return 0


def _finding(number: str, severity: checks.Severity, sentence: str, cure: str, where: str) -> dict[str, str]:
    return {
        "number": number,
        "severity": severity.name.lower(),
        "sentence": sentence,
        "cure": cure,
        "cookie": where,
        "page": f"reference/checks.md#{number.lower()}",
    }


def _lines_of(findings: Sequence[dict[str, str]]) -> Iterable[str]:
    if not findings:
        yield coloured("Nothing was found.", "green")
    for one in findings:
        about = f" (cookie {one['cookie']})" if one["cookie"] else ""
        severity = coloured(one["severity"], _COLOUR_OF[one["severity"]])
        yield f"{one['number']} {severity}{about}: {printable(one['sentence'])}"
        yield f"     {printable(one['cure'])}"


async def stats(*, where: Where = _WHERE, result: Result = _RESULT) -> None:
    """Count the sessions, and say how large they are.

    It reads all entries of the store, about 20,000 a second, in constant memory.
    """
    async with opened(where) as target:
        with progress("Counting the entries") as on_page:
            counted = await inventory.stats(target.backend, on_page=on_page)
    numbers = asdict(counted)
    width = max(len(f"{number:,}") for number in numbers.values())
    lines = [f"{numbers[name]:>{width},}  {words}" for name, words in _WORDS.items()]
    show({**target.names, **numbers}, lines, result.json)


async def list_sessions(
    user: Annotated[str, Named],
    /,
    *,
    limit: int = 100,
    after: str | None = None,
    where: Where = _WHERE,
    result: Result = _RESULT,
) -> None:
    """List the live sessions of a user.

    Parameters
    ----------
    user
        The user's id.
    limit
        The most sessions to show.
    after
        Where the page begins: what the page before ended with. The newest sign-in comes first.
    """
    if limit < 1:
        raise Unusable("--limit must be 1 or more.")
    async with opened(where) as target:
        page = await UserSessions(target.backend).list(user, limit=limit, after=after)
    heading = ("HANDLE", "SIGNED IN", "LAST USED", "HOW", "WITH", "NETWORK")
    rows = [
        (one.handle, moment(one.signed_in_at), moment(one.last_used_at), one.method, one.agent, one.address)
        for one in page
    ]
    lines = table([heading, *rows]) if rows else ["There are no live sessions of this user."]
    if page.after is not None:
        lines.append(f"More: --after {page.after}")
    sessions = [{name: getattr(one, name) for name in _LISTED} for one in page]
    show({**target.names, "sessions": sessions, "after": page.after}, lines, result.json)


_LISTED = ("handle", "began_at", "signed_in_at", "last_used_at", "method", "agent", "address")


async def show_session(
    handle: Annotated[str, Named],
    /,
    *,
    user: Annotated[str | None, Parameter(metavar="USER", allow_leading_hyphen=True)] = None,
    show_values: Annotated[bool, Flag] = False,
    where: Where = _WHERE,
    result: Result = _RESULT,
) -> int:
    """Show one session.

    Parameters
    ----------
    handle
        The session's public name, as `list` shows it. The exit code is 1 if there is no such session.
    user
        The id of its user. Without it, all entries of the store are read to find the session.
    show_values
        Show the id of the user, and the data of the session.
    """
    async with opened(where) as target:
        whose = await owner_of(target, handle) if user is None else user
        found = None if whose is None else await _find(target, whose, handle)
    if found is None:
        show({**target.names, "session": None}, ["No session has this handle."], result.json)
        return 1
    shown = {**personal.as_json(found), "user_id": whose if show_values else None, "values": len(found.data or ())}
    if not show_values:
        shown["data"] = None
    show({**target.names, "session": shown}, _lines_of_session(found, shown), result.json)
    return 0


async def owner_of(target: Target, handle: str) -> str | None:
    """Return whose live session has this handle."""
    seen = 0
    with progress("Looking for the session") as on_page:
        async for page in inventory.live_sessions(target.backend):
            for one in page.sessions:
                if one.handle == handle:
                    return one.user_id
            seen += len(page.sessions)
            on_page(seen)
    return None


async def _find(target: Target, user: str, handle: str) -> StoredSession | None:
    exported = await personal.export_user(target.backend, user)
    return next((one for one in exported.sessions if one.handle == handle), None)


def _lines_of_session(found: StoredSession, shown: dict[str, Any]) -> list[str]:
    hidden = "hidden: --show-values shows it"
    data = (
        "in the cookie, which only the browser has"
        if found.data is None
        else f"{many(len(found.data), 'value', 'values')}, {hidden}"
    )
    facts = [
        ("handle", found.handle),
        ("state", "live" if found.is_live else "expired, or not saved yet"),
        ("signed in", moment(found.signed_in_at)),
        ("began", moment(found.began_at)),
        ("last used", moment(found.last_used_at)),
        ("expires", moment(found.expires_at)),
        ("how", found.method),
        ("with", found.agent),
        ("network", found.address),
        ("user", shown["user_id"] or hidden),
        ("data", data if shown["data"] is None else json.dumps(shown["data"])),
    ]
    return table(facts)


async def export(user: Annotated[str, Named], /, *, where: Where = _WHERE, result: Result = _RESULT) -> None:
    """Print all that is stored of a user, always as JSON.

    It answers a request of access to personal data. Sessions that have expired and were not removed yet are included,
    and the history of sign-ins. Data in cookies is in the user's browser only.

    Parameters
    ----------
    user
        The user's id.
    """
    async with opened(where) as target:
        exported = await personal.export_user(target.backend, user, history=target.history)
    show({**target.names, **personal.as_json(exported)}, (), as_json_text=True)
