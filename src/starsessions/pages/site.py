"""What all pages have in common: routes, the stylesheet, the check of forms, and how a page becomes a response."""

from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from inspect import isawaitable
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from starsessions import csrf
from starsessions.core.durations import Clock
from starsessions.exceptions import ImproperlyConfigured
from starsessions.flash import pop_flashes
from starsessions.pages.html import Html, element, joined
from starsessions.pages.layout import STYLE, STYLE_VERSION, Page, Render, built_in
from starsessions.pages.texts import DIRECTION, LANGUAGE, Say, Translate, checked
from starsessions.session import load_session
from starsessions.users import UserSessions

Act = Callable[[Request], Awaitable[Response]]

PAGE = 50
"""The devices, or the lines of a history, that one page shows."""

_PARSERS = ("python_multipart", "multipart")


class Pages:
    """Pages that an application mounts. All their links are relative.

    Args:
        users: lists and ends sessions.
        render: see `DevicesPages`.
        translate: see `DevicesPages`.
        home_url: see `DevicesPages`.
        clock: returns the seconds since 1970; for tests.
        routes: the pages: the path, its methods, and what responds.
    """

    def __init__(
        self,
        users: UserSessions,
        render: Render | None,
        translate: Translate | None,
        home_url: str | None,
        clock: Clock,
        routes: Sequence[tuple[str, str, list[str], Act]],
    ) -> None:
        if not isinstance(users, UserSessions):
            raise ImproperlyConfigured(
                f"{type(self).__name__} takes UserSessions(backend), not {type(users).__name__}."
            )
        if render is not None and not callable(render):
            raise ImproperlyConfigured("render must be a function: render(request, page) returns a response.")
        if not any(find_spec(name) for name in _PARSERS):
            raise ImproperlyConfigured(
                "The forms of these pages cannot be read without python-multipart: install the extra "
                "starsessions[pages]."
            )
        self._users = users
        self._render: Render = render or built_in
        self._translate = checked(translate)
        self._home_url = home_url
        self._clock = clock
        self.routes: list[BaseRoute] = [
            *(Route(path, self._endpoint(act), name=name, methods=methods) for path, name, methods, act in routes),
            Route("/style.css", self._style, name="style"),
        ]
        self._router = Router(self.routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)

    async def _style(self, request: Request) -> Response:
        is_this = request.query_params.get("v") == STYLE_VERSION
        headers = {"cache-control": "private, max-age=31536000, immutable" if is_this else "no-cache"}
        return Response(STYLE, media_type="text/css", headers=headers)

    def _endpoint(self, act: Act) -> Act:
        """Return an endpoint that loads the session, and responds with a page to a form that is out of date."""

        async def endpoint(request: Request) -> Response:
            await load_session(request)
            try:
                response = await act(request)
            except csrf.CsrfFailed as error:
                response = await self._expired(request, error.status_code)
            finally:
                await request.close()
            response.headers.setdefault("cache-control", "no-store")
            return response

        return endpoint

    async def _expired(self, request: Request, status: int) -> Response:
        say = self._translate(request)
        title = say("This page is out of date")
        why = say(
            "You have signed in or out since you opened it, or your session has ended. What you sent was not done."
        )
        again = element("p", element("a", say("Open it again"), class_="ss-button", href="./"))
        body = [element("h1", title), element("p", why, class_="ss-lead"), again]
        return await self._respond(request, "expired", title, body, status)

    async def _respond(
        self, request: Request, name: str, title: str, body: Sequence[Html | None], status: int = 200, **context: Any
    ) -> Response:
        say = self._translate(request)
        whole = element("div", *body, class_="starsessions", data_page=name)
        page = Page(name, title, whole, status, say(LANGUAGE), say(DIRECTION), context)
        answer = self._render(request, page)
        response = await answer if isawaitable(answer) else answer
        response.status_code = status
        return response

    def _navigation(self, request: Request, say: Say, links: Sequence[tuple[str, str]], current: str) -> Html | None:
        """Return links to the other pages, and back to the application."""
        home = None
        if self._home_url is not None:
            home = element("a", say("Back"), class_="ss-home", href=url_of(self._home_url, request))
        shown = [
            element("a", text, href=href, aria_current="page" if href == current else None) for href, text in links
        ]
        every = [each for each in (home, *shown) if each is not None]
        return element("nav", *every, class_="ss-nav", aria_label=say("Pages")) if every else None


def notices(request: Request, *more: tuple[str, str]) -> Html:
    """Return the messages that wait for the next page, and more: pairs of a text and its category."""
    flashes = pop_flashes(request) if request.method == "GET" else []
    told = [*((one.text, one.category) for one in flashes), *more]
    return joined(element("p", text, class_=f"ss-notice {category}", role="status") for text, category in told)


def form(request: Request, action: str, *children: Html | None, class_: str | None = None) -> Html:
    """Return a form with the token of the session."""
    return element("form", Html(csrf.csrf_input(request)), *children, method="post", action=action, class_=class_)


async def field_of(request: Request, name: str) -> str | None:
    """Return a field of the form that was sent."""
    value = (await request.form()).get(name)
    return value if isinstance(value, str) else None


def url_of(url: str, request: Request) -> str:
    """Return a path of the application as the browser sees it, or the URL."""
    if not url.startswith("/"):
        return url
    root: str = request.scope.get("app_root_path", request.scope.get("root_path", ""))
    return quote(root.rstrip("/")) + url


def with_next(url: str, request: Request) -> str:
    """Return a URL of the application that comes back to these pages."""
    path, hash_, fragment = url_of(url, request).partition("#")
    here = quote(request.scope.get("root_path", "") + "/")
    return f"{path}{'&' if '?' in path else '?'}next={here}{hash_}{fragment}"


def check_url(name: str, url: object) -> None:
    """Raise `ImproperlyConfigured` unless it is a path from the root of the application, or a URL."""
    if not isinstance(url, str) or not url.startswith(("/", "https://", "http://")) or url.startswith("//"):
        raise ImproperlyConfigured(f'{name} must be a path that starts with a slash, such as "/login", or a URL.')
