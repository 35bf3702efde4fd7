"""The commands that change what is stored."""

from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

from cyclopts import Parameter

from starsessions import inventory
from starsessions.backends.base import wall_clock
from starsessions.cli.looking import owner_of
from starsessions.cli.options import Change, Flag, Named, Result, Where
from starsessions.cli.screen import agrees, is_asked, many, progress, say, show
from starsessions.cli.target import Target, Unusable, opened, opened_stores
from starsessions.personal import erase_user
from starsessions.stores import sweep_all
from starsessions.stores.base import Scanning, Store, Sweeping
from starsessions.users import UserSessionPage, UserSessions

_WHERE, _RESULT, _CHANGE = Where(), Result(), Change()

_DAY = 24 * 60 * 60
"""Seconds that an end may take: no browser waits for it."""

_UNCHANGED = "Nothing was changed."

# What is true after an interruption

_REST_IS_REFUSED = "what has ended stays ended, and the rest is refused. Run it again to end them at once."
_REST_IS_LEFT = "run it again to erase the rest."
_REST_IS_NEXT = "what was removed stays removed, and the next run goes on."

_PAGE = 1000


async def end(
    handle: Annotated[str | None, Named] = None,
    /,
    *,
    user: Annotated[str | None, Parameter(metavar="USER", allow_leading_hyphen=True)] = None,
    everyone: Annotated[bool, Flag] = False,
    where: Where = _WHERE,
    change: Change = _CHANGE,
) -> int:
    """End a session, all sessions of a user, or those of all users.

    $ starsessions end HANDLE          one session
    $ starsessions end --user USER     all sessions of a user
    $ starsessions end --everyone      those of all users

    Parameters
    ----------
    handle
        The session's public name, as `list` shows it. The exit code is 1 if there is no such session.
    user
        The id of a user. With a handle: whose session it is, so that it need not be looked for in the whole store.
    everyone
        All users, by one write. Anonymous sessions live on. A session is refused when it is next written, or with
        check_epoch=True when it is next loaded.
    """
    if everyone == bool(handle or user):
        raise Unusable("Say what to end: HANDLE, --user USER or --everyone.")
    async with opened(where) as target:
        if everyone:
            return await _end_everyone(target, change)
        if handle is None:
            assert user is not None
            return await _end_all_of(target, user, change)
        return await _end_one(target, handle, user, change)


async def _end_one(target: Target, handle: str, user: str | None, change: Change) -> int:
    whose = await owner_of(target, handle) if user is None else user
    count = 0
    if whose is not None:
        async for page in _pages(target, whose):
            count |= any(one.handle == handle for one in page)
    if count and not change.dry_run:
        if not agrees("End this session?", change.yes):
            return _ended(target, 0, change, [_UNCHANGED], 1)
        assert whose is not None
        count = int(await _users(target).revoke(whose, handle))
    said = "No live session has this handle." if not count else _said(count, change)
    return _ended(target, count, change, [said], int(not count))


async def _end_all_of(target: Target, user: str, change: Change) -> int:
    count = 0
    if change.dry_run or is_asked(change.yes):
        with progress("Counting the sessions") as on_page:
            async for page in _pages(target, user):
                count += len(page)
                on_page(count)
    if not change.dry_run:
        if not agrees(f"End {_sessions(count)} of this user?", change.yes):
            return _ended(target, 0, change, [_UNCHANGED], 1)
        with progress("Ending the sessions") as on_page, _if_interrupted(_REST_IS_REFUSED):
            count = await _users(target).revoke_all(user, timeout=_DAY, on_page=on_page)
    return _ended(target, count, change, [_said(count, change)], 0)


async def _end_everyone(target: Target, change: Change) -> int:
    if change.dry_run:
        with progress("Counting the sessions") as on_page:
            count = (await inventory.stats(target.backend, on_page=on_page)).signed_in
        return _ended(target, count, change, [_said(count, change)], 0)
    if not agrees("End the sessions of ALL users?", change.yes):
        return _ended(target, 0, change, [_UNCHANGED], 1)
    await UserSessions(target.backend).revoke_everyone()
    return _ended(target, None, change, ["The sessions of all users are refused from now on."], 0)


def _users(target: Target) -> UserSessions:
    """Return what ends sessions, and tells the history of sign-ins. No other `on_event` is for this process."""
    return UserSessions(target.backend, on_event=getattr(target.history, "record", None))


async def _pages(target: Target, user: str) -> AsyncIterator[UserSessionPage]:
    """Yield a user's live sessions, page by page."""
    users, after = UserSessions(target.backend), None
    while True:
        page = await users.list(user, limit=_PAGE, after=after)
        yield page
        after = page.after
        if after is None:
            return


def _said(count: int, change: Change) -> str:
    return f"{_sessions(count)} {'would end' if change.dry_run else 'ended'}."


def _sessions(count: int) -> str:
    return many(count, "session", "sessions")


def _entries(count: int) -> str:
    return many(count, "entry", "entries")


def _ended(target: Target, count: int | None, change: Change, lines: Sequence[str], code: int) -> int:
    show({**target.names, "dry_run": change.dry_run, "sessions": count}, lines, change.json)
    return code


async def sweep(*, share: float = 0.25, where: Where = _WHERE, change: Change = _CHANGE) -> None:
    """Remove what has expired.

    It is for cron, or a scheduled job of Kubernetes. A SQL database needs it, or sweep_every in the application. Redis
    removes expired entries itself. Old entries of the history of sign-ins are removed, too. All stores of the
    application are swept. It never asks.

    Parameters
    ----------
    share
        The part of the time in which the database works for it, at most 1. It rests in between.
    """
    if not 0 < share <= 1:
        raise Unusable("--share must be more than 0, and at most 1.")
    removed = past = 0
    async with opened_stores(where) as (stores, histories):
        with progress("Removing what has expired") as on_page, _if_interrupted(_REST_IS_NEXT):
            for store in stores:
                if change.dry_run:
                    removed += await _dead(store, on_page)
                elif isinstance(store, Sweeping):
                    removed += (await sweep_all(store, share=share, on_batch=on_page, clock=wall_clock)).removed
            for history in histories:
                if not change.dry_run:
                    past += (await sweep_all(_Purging(history), share=share, on_batch=on_page)).removed
    verb = "Would remove" if change.dry_run else "Removed"
    lines = [f"{verb} {many(removed, 'expired entry', 'expired entries')}."]
    if past:
        lines.append(f"{verb} {_entries(past)} of the history.")
    show({"dry_run": change.dry_run, "removed": removed, "history": past}, lines, change.json)


class _Purging:
    """A history as what is swept."""

    def __init__(self, history: Any) -> None:
        self._history = history

    async def sweep(self, limit: int, *, now: int) -> int:
        removed: int = await self._history.purge(limit)
        return removed


async def _dead(store: Store, on_page: Callable[[int], object]) -> int:
    """Count the expired entries of a store that does not remove them itself."""
    if not (isinstance(store, Sweeping) and isinstance(store, Scanning)):
        return 0
    now, after, dead, seen = int(wall_clock()), None, 0, 0
    while True:
        page = await store.scan(limit=1000, now=0, after=after)
        dead += sum(entry.expires_at <= now for _, entry, _ in page.entries)
        seen += len(page.entries)
        on_page(seen)
        after = page.after
        if after is None:
            return dead


async def erase(user: Annotated[str, Named], /, *, where: Where = _WHERE, change: Change = _CHANGE) -> int:
    """End the sessions of a user, and remove all that names the user.

    It answers a request of erasure. Links of identity providers, what has expired, and the history of sign-ins are
    removed, too. It reads all entries of the store. Close the account first: a user who can still sign in is stored
    again. Backups and logs of the database are not changed.

    Parameters
    ----------
    user
        The user's id.
    """
    async with opened(where) as target:
        erase = partial(erase_user, target.backend, user, history=target.history)
        done = None
        if change.dry_run or is_asked(change.yes):
            with progress("Counting what there is"):
                done = await erase(dry_run=True)
        if not change.dry_run:
            sessions = _sessions(0 if done is None else done.sessions)
            if not agrees(f"End {sessions}, and erase all that names this user?", change.yes):
                say(_UNCHANGED)
                return 1
            with progress("Ending sessions, and looking at all entries") as on_page, _if_interrupted(_REST_IS_LEFT):
                done = await erase(on_page=on_page)
    assert done is not None
    shown = {name: getattr(done, name) for name in ("sessions", "entries", "history", "unreadable")}
    end, remove = ("Would end", "Would remove") if change.dry_run else ("Ended", "Removed")
    lines = [
        f"{end} {_sessions(shown['sessions'])}.",
        f"{remove} {many(shown['entries'], 'other entry', 'other entries')}, and {shown['history']} of the history.",
    ]
    if shown["unreadable"]:
        lines.append(f"Kept {_entries(shown['unreadable'])} that cannot be read with these keys.")
    show({**target.names, "dry_run": change.dry_run, **shown}, lines, change.json)
    return 0


async def create_table(*, where: Where = _WHERE, result: Result = _RESULT) -> None:
    """Create the tables in a SQL database, unless they exist.

    A table that exists is not changed: use Alembic for that.
    """
    created = 0
    async with opened_stores(where) as (stores, histories):
        for one in [*stores, *histories]:
            if hasattr(one, "create_table"):
                await one.create_table()
                created += 1
    if not created:
        raise Unusable("These sessions are in no SQL database: there is no table to create.")
    show({"tables": created}, [f"{created} tables are there." if created > 1 else "The table is there."], result.json)


@contextmanager
def _if_interrupted(then: str) -> Iterator[None]:
    """Say in which state an interruption leaves what is stored."""
    try:
        yield
    except CancelledError:
        say(f"Interrupted: {then}")
        raise
