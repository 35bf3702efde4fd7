"""Pages for people: their devices, and the history of their sign-ins."""

from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import isawaitable
from typing import TYPE_CHECKING

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from starsessions import csrf
from starsessions.backends.base import wall_clock
from starsessions.core.durations import Clock, Duration, seconds
from starsessions.core.history import as_csv, heading
from starsessions.core.record import MissReason
from starsessions.csrf import CsrfFailed, WhyRefused
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.flash import add_flash
from starsessions.pages.html import Html, element
from starsessions.pages.layout import Render
from starsessions.pages.parts import device_list, history_list
from starsessions.pages.site import PAGE, Pages, check_url, field_of, form, notices, with_next
from starsessions.pages.texts import Say, Translate
from starsessions.session import get_miss_reason
from starsessions.users import UserSession, UserSessions, get_user_id, is_fresh

if TYPE_CHECKING:
    from starsessions.history import SignInHistory

StepUp = Duration | Callable[[Request], bool | Awaitable[bool]]
"""How long ago a sign-in may be, or a function that says whether a request need not be confirmed."""


class DevicesPages(Pages):
    """A person's devices, where each other one can be signed out, or all others at once; and a history of sign-ins.

    Mount it: `app.mount("/devices", DevicesPages(users, sign_in_url="/login"))`. It needs no JavaScript.

    Args:
        users: lists and ends sessions.
        sign_in_url: where a browser is redirected that is not signed in: a path from the root of the application, or a
            URL. It gets the way back as the query parameter `next`: see `starsessions.fastapi.safe_next`.
        history: a `SignInHistory`, for the page of the history and its download. None: there is no such page.
        step_up: what a device may be signed out after: a sign-in that is not older than this (seconds or a
            `timedelta`), or a function of the request that returns True. None: no confirmation.
        confirm_url: where the browser is redirected if not, with `next`: the page that asks for the password again.
        render: responds with a page in your template: `render(request, page)`, with a `Page`. None: a layout of its
            own.
        translate: a dict of texts, or a function of the request that returns one like `gettext`. `MESSAGES` has all
            texts.
        home_url: where "Back" leads. None: nowhere, for instance because your template has a navigation.
        clock: returns the seconds since 1970; for tests.

    Raises:
        ImproperlyConfigured: a setting is malformed, or python-multipart is missing.

    >>> from starlette.applications import Starlette
    >>> from starsessions import InMemoryBackend, SessionMiddleware
    >>> app, backend = Starlette(), InMemoryBackend()
    >>> app.add_middleware(SessionMiddleware, backend=backend)
    >>> app.mount("/devices", DevicesPages(UserSessions(backend), sign_in_url="/login"))
    """

    def __init__(
        self,
        users: UserSessions,
        *,
        sign_in_url: str,
        history: "SignInHistory | None" = None,
        step_up: StepUp | None = None,
        confirm_url: str | None = None,
        render: Render | None = None,
        translate: Translate | None = None,
        home_url: str | None = "/",
        clock: Clock = wall_clock,
    ) -> None:
        check_url("sign_in_url", sign_in_url)
        if (step_up is None) != (confirm_url is None):
            raise ImproperlyConfigured("step_up and confirm_url belong together: pass both, or neither.")
        if confirm_url is not None:
            check_url("confirm_url", confirm_url)
        self._sign_in_url = sign_in_url
        self._confirm_url = confirm_url
        self._confirmed = _confirmed_by(step_up)
        self._history = history
        routes = [
            ("/", "devices", ["GET"], self._show),
            ("/end", "end", ["POST"], self._end),
            ("/end-others", "end_others", ["POST"], self._end_others),
        ]
        if history is not None:
            routes += [("/history", "history", ["GET"], self._show_history)]
            routes += [("/history.csv", "history_csv", ["GET"], self._download)]
        super().__init__(users, render, translate, home_url, clock, routes)

    async def _show(self, request: Request, *more: tuple[str, str], status: int = 200) -> Response:
        user = get_user_id(request)
        if user is None:
            return self._to_sign_in(request)
        say = self._translate(request)
        after = request.query_params.get("after") if request.method != "POST" else None
        page = await self._users.list(user, request, limit=PAGE, after=after)
        is_only = after is None and all(one.is_current for one in page)

        def action(one: UserSession, name: str) -> Html | None:
            if one.is_current:
                return None
            label = say("Sign out {device}").format(device=name)
            button = element("button", say("Sign out"), name="handle", value=one.handle, aria_label=label)
            return form(request, "end", button)

        title, others = say("Your devices"), say("Sign out all other devices")
        body = [
            self._links(request, say, "./"),
            notices(request, *more),
            element("h1", title),
            element(
                "p",
                say("You are signed in on these devices. If you do not recognise one of them, sign it out."),
                class_="ss-lead",
            ),
            device_list(sorted(page, key=lambda one: not one.is_current), say, self._clock(), action),
            element("p", say("You are signed in on this device only."), class_="ss-quiet")
            if is_only
            else form(request, "end-others", element("button", others, class_="ss-danger"), class_="ss-actions"),
            older(say, page.after),
        ]
        return await self._respond(
            request, "devices", title, body, status, user_id=user, devices=page, after=page.after
        )

    async def _end(self, request: Request) -> Response:
        async def end(user: str, say: Say) -> Response:
            if await self._users.revoke(user, await field_of(request, "handle") or ""):
                add_flash(request, say("That device is signed out."), "success")
                return RedirectResponse("./", 303)
            # That of another user, or ended before: by the first of two clicks, for instance.
            return await self._show(request, (say("That device was not signed in any more."), "warning"), status=404)

        return await self._changed(request, end)

    async def _end_others(self, request: Request) -> Response:
        async def end(user: str, say: Say) -> Response:
            ended = await self._users.revoke_others(request)
            add_flash(request, say("All other devices are signed out: {count}").format(count=ended), "success")
            return RedirectResponse("./", 303)

        return await self._changed(request, end)

    async def _show_history(self, request: Request) -> Response:
        user = get_user_id(request)
        if user is None:
            return self._to_sign_in(request)
        assert self._history is not None
        say = self._translate(request)
        page = await self._history.list(user, limit=PAGE, after=request.query_params.get("after"))
        title, about = (
            say("Sign-in history"),
            say("Sign-ins, failed attempts and sign-outs of your account, the latest first."),
        )
        body = [
            self._links(request, say, "history"),
            notices(request),
            element("h1", title),
            element("p", about, class_="ss-lead"),
            history_list(page, say) if page else element("p", say("Nothing yet."), class_="ss-quiet"),
            element("p", element("a", say("Download as CSV"), href="history.csv")) if page else None,
            older(say, page.after),
        ]
        return await self._respond(request, "history", title, body, user_id=user, entries=page, after=page.after)

    async def _download(self, request: Request) -> Response:
        user = get_user_id(request)
        if user is None:
            return self._to_sign_in(request)
        assert self._history is not None
        headers = {"content-disposition": 'attachment; filename="sign-ins.csv"', "x-content-type-options": "nosniff"}
        return StreamingResponse(_lines(self._history, user), media_type="text/csv", headers=headers)

    async def _changed(self, request: Request, change: Callable[[str, Say], Awaitable[Response]]) -> Response:
        """Respond to a form, after all checks."""
        user = get_user_id(request)
        if user is None:
            if get_miss_reason(request) is MissReason.JUST_ROTATED:
                # The second click on "all others": the first has renewed the id, and the browser has it by now.
                raise CsrfFailed(WhyRefused.STALE_TOKEN)
            return self._to_sign_in(request)
        await csrf.verify(request)
        if self._confirm_url is not None and not await self._confirmed(request):
            return RedirectResponse(with_next(self._confirm_url, request), 303)
        return await change(user, self._translate(request))

    def _to_sign_in(self, request: Request) -> Response:
        if get_miss_reason(request) is MissReason.UNAVAILABLE:  # an outage must not sign users out
            raise BackendUnavailable("The store failed, so the session and its user could not be loaded.")
        return RedirectResponse(with_next(self._sign_in_url, request), 303)

    def _links(self, request: Request, say: Say, current: str) -> Html | None:
        links = [] if self._history is None else [("./", say("Devices")), ("history", say("Sign-in history"))]
        return self._navigation(request, say, links, current)


def older(say: Say, after: str | None) -> Html | None:
    """Return a link to the next page, if there is one."""
    link = element("a", say("Older"), class_="ss-button", href=f"?after={after}", rel="next")
    return None if after is None else element("p", link)


def _confirmed_by(step_up: StepUp | None) -> Callable[[Request], Awaitable[bool]]:
    if step_up is None or callable(step_up):
        asked = step_up

        async def confirmed(request: Request) -> bool:
            answer = True if asked is None else asked(request)
            return await answer if isawaitable(answer) else answer

        return confirmed
    within = seconds("step_up", step_up)

    async def fresh(request: Request) -> bool:
        return is_fresh(request, within)

    return fresh


async def _lines(history: "SignInHistory", user: str) -> AsyncIterator[str]:
    """Yield a user's history as CSV. Which operator it was is not told."""
    yield heading()
    async for entry in history.export(user):
        yield as_csv([replace(entry, operator="")])
