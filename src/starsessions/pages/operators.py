"""Pages for operators: the sessions of a user, and how to end them.

The user is looked for with a form that is sent, and no id of a user is in a URL: it would be in the log of each proxy.
So each page but the first is the response to a POST.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import isawaitable
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from starsessions import csrf
from starsessions.backends.base import wall_clock
from starsessions.core.durations import Clock
from starsessions.events import EndedByOperator, OnEvent
from starsessions.exceptions import ImproperlyConfigured
from starsessions.pages.html import Html, element
from starsessions.pages.layout import Render
from starsessions.pages.parts import device_list, history_list
from starsessions.pages.site import PAGE, Pages, field_of, form, notices
from starsessions.pages.texts import Say, Translate
from starsessions.reporting import dispatch
from starsessions.session import load_session
from starsessions.users import UserSession, UserSessions

if TYPE_CHECKING:
    from starsessions.history import SignInHistory

Guard = Callable[[Request], str | Awaitable[str | None] | None]
"""Returns who the operator is; None if the request is not from one."""

Counts = Callable[[], Awaitable[Mapping[str, int]]]
"""Returns numbers by their names."""

MOST_COUNTED = 1000
"""The sessions of a user that are counted; of more, the page says that they are more."""

_log = logging.getLogger("starsessions.audit")


class OperatorPages(Pages):
    """The live sessions of a user, for operators, who can end one of them or all.

    Each end is an `EndedByOperator` event, and a line in the log `starsessions.audit`, at the level INFO.

    Args:
        users: lists and ends sessions.
        guard: a function or coroutine function of the request. It returns the name of the operator, for the audit, or
            None: the response is a 404 then, as if there were no such page. For a 403, raise an `HTTPException`. The
            session is loaded. There is no default.
        history: a `SignInHistory`, to show a user's history, too.
        counts: a coroutine function that returns numbers by their names, which the first page shows: for instance how
            many sessions there are. None: no numbers.
        on_event: is told of each end: for instance `history.record`.
        render: see `DevicesPages`.
        translate: see `DevicesPages`.
        home_url: see `DevicesPages`.
        clock: returns the seconds since 1970; for tests.

    Raises:
        ImproperlyConfigured: a setting is malformed, or python-multipart is missing.

    >>> from starlette.applications import Starlette
    >>> from starsessions import InMemoryBackend, SessionMiddleware
    >>> from starsessions.users import get_user_id
    >>> app, backend = Starlette(), InMemoryBackend()
    >>> app.add_middleware(SessionMiddleware, backend=backend)
    >>> def guard(request):
    ...     user = get_user_id(request)
    ...     return user if user in {"ann", "ben"} else None
    >>> app.mount("/operators", OperatorPages(UserSessions(backend), guard=guard))
    """

    def __init__(
        self,
        users: UserSessions,
        *,
        guard: Guard,
        history: "SignInHistory | None" = None,
        counts: Counts | None = None,
        on_event: OnEvent | None = None,
        render: Render | None = None,
        translate: Translate | None = None,
        home_url: str | None = "/",
        clock: Clock = wall_clock,
    ) -> None:
        if not callable(guard):
            raise ImproperlyConfigured("guard must be a function: guard(request) returns the operator's name, or None.")
        self._guard = guard
        self._history = history
        self._counts = counts
        self._on_event = on_event
        routes = [("/", "operators", ["GET", "POST"], self._serve)]
        super().__init__(users, render, translate, home_url, clock, routes)

    async def _serve(self, request: Request) -> Response:
        operator = await self._operator(request)
        if request.method != "POST":
            return await self._show(request, "")
        await csrf.verify(request)
        user = (await field_of(request, "user") or "").strip()
        say = self._translate(request)
        handle = await field_of(request, "end")
        if handle:
            return await self._end_one(request, say, operator, user, handle)
        if await field_of(request, "end-all"):
            ended = await self._end(operator, user, "", lambda: self._users.revoke_all(user))
            return await self._show(
                request, user, (say("Sessions that have ended: {count}").format(count=ended), "success")
            )
        return await self._show(request, user)

    async def _style(self, request: Request) -> Response:
        await load_session(request)
        await self._operator(request)  # to others, there is no such page at all
        return await super()._style(request)

    async def _operator(self, request: Request) -> str:
        """Return who the operator is, or raise a 404."""
        answer = self._guard(request)
        name = await answer if isawaitable(answer) else answer
        if name is None:
            raise HTTPException(404)
        if not isinstance(name, str) or not name:
            raise TypeError("guard must return the name of the operator as a str that is not empty, or None.")
        return name

    async def _end_one(self, request: Request, say: Say, operator: str, user: str, handle: str) -> Response:
        if await self._end(operator, user, handle, lambda: self._users.revoke(user, handle)):
            return await self._show(request, user, (say("That session has ended."), "success"))
        return await self._show(request, user, (say("That session had ended before."), "warning"), status=404)

    async def _end(self, operator: str, user: str, handle: str, end: Callable[[], Awaitable[int]]) -> int:
        """End sessions, and tell the audit, even if that fails or is cancelled."""
        ended: int | None = None
        try:
            ended = int(await end())
        finally:
            what, how = (
                f"session {handle!r}" if handle else "all sessions",
                "failed" if ended is None else f"{ended} ended",
            )
            _log.info("The operator %r has ended %s of the user %r: %s.", operator, what, user, how)
            await dispatch([EndedByOperator(operator, user, handle, ended)], self._on_event)
        return ended

    async def _show(self, request: Request, user: str, *more: tuple[str, str], status: int = 200) -> Response:
        say = self._translate(request)
        title = say("Sessions of users")
        field = element(
            "input", id="ss-user", name="user", value=user, required=True, autocomplete="off", spellcheck="false"
        )
        label = element("label", say("User id"), for_="ss-user")
        button = element("button", say("Search"), class_="ss-main")
        body = [
            self._navigation(request, say, [], ""),
            element("h1", title),
            form(request, "./", label, field, button, class_="ss-search"),
            notices(request, *more),
            *(await self._sessions(request, say, user) if user else [await self._numbers(say)]),
        ]
        return await self._respond(request, "operators", title, body, status, user_id=user)

    async def _numbers(self, say: Say) -> Html | None:
        if self._counts is None:
            return None
        counts = await self._counts()
        rows = (element("div", element("dt", say(name)), element("dd", f"{count:,}")) for name, count in counts.items())
        return element("dl", *rows, class_="ss-numbers")

    async def _sessions(self, request: Request, say: Say, user: str) -> Sequence[Html | None]:
        """Return what is known of a user."""
        after, after_entry = await _page(request, "after"), await _page(request, "after-entry")
        page = await self._users.list(user, request, limit=PAGE, after=after)
        who = element("input", type="hidden", name="user", value=user)

        def action(one: UserSession, name: str) -> Html:
            label = say("End {device}").format(device=name)
            button = element("button", say("End"), name="end", value=one.handle, aria_label=label)
            return form(request, "./", who, button)

        def next_page(name: str, after: str | None) -> Html | None:
            button = element("button", say("Older"), name=name, value=after)
            return None if after is None else form(request, "./", who, button, class_="ss-actions")

        heading = element("h2", say("Sessions of {user}").format(user=user), class_="ss-section")
        shown: Sequence[Html | None]
        if not page and after is None:
            shown = [heading, element("p", say("This user is not signed in."), class_="ss-quiet")]
        else:
            shown = [
                heading,
                element("p", await self._counted(user, say), class_="ss-lead"),
                device_list(page, say, self._clock(), action),
                next_page("after", page.after),
                _end_all(request, say, who),
            ]
        if self._history is None:
            return shown
        entries = await self._history.list(user, limit=PAGE, after=after_entry)
        lines = history_list(entries, say, names_operators=True) if entries else element("p", say("Nothing yet."))
        title = element("h2", say("Sign-in history"), class_="ss-section")
        return [*shown, title, lines, next_page("after-entry", entries.after)]

    async def _counted(self, user: str, say: Say) -> str:
        every = await self._users.list(user, limit=MOST_COUNTED)
        count = str(len(every)) if every.after is None else say("More than {count}").format(count=MOST_COUNTED)
        return say("Live sessions: {count}").format(count=count)


def _end_all(request: Request, say: Say, who: Html) -> Html:
    """Return the button that ends all, behind one that opens it: a confirmation without a script."""
    button = element("button", say("End all sessions"), name="end-all", value="1", class_="ss-danger")
    warning = element("p", say("This signs the user out everywhere."))
    return element("details", element("summary", say("End all sessions …")), warning, form(request, "./", who, button))


async def _page(request: Request, name: str) -> str | None:
    return await field_of(request, name) if request.method == "POST" else None
