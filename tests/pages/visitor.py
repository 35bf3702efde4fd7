"""People who visit the pages: they see what a page says, and send its forms as a browser does."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from starsessions import SessionMiddleware
from starsessions.backends.base import Backend
from starsessions.session import load_session
from starsessions.users import sign_in, sign_out

SPOKEN = ("aria-label", "title", "placeholder", "alt")
VOID = ("input", "link", "meta")


@dataclass
class Form:
    action: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: dict[str, dict[str, str]] = field(default_factory=dict)
    """By the label, or else the text: what the button sends."""


class Seen(HTMLParser):
    """A page as its readers see it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        """All that is shown or spoken."""
        self.forms: list[Form] = []
        self.links: dict[str, str] = {}
        self.devices: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append((tag, attributes))
        self.texts += [attributes[name] for name in SPOKEN if name in attributes]
        if tag == "form":
            self.forms.append(Form(attributes["action"]))
        elif tag == "input":
            self.forms[-1].fields[attributes["name"]] = attributes.get("value", "")
        if tag not in VOID:
            self._open.append((tag, attributes))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        assert opened == tag

    def handle_data(self, data: str) -> None:
        if not data.strip():
            return
        self.texts.append(data.strip())
        tag, attributes = self._open[-1]
        if tag == "button":
            label = attributes.get("aria-label", data)
            sent = {attributes["name"]: attributes["value"]} if "name" in attributes else {}
            self.forms[-1].buttons.setdefault(label, sent)
        elif tag == "h2":
            self.devices.append(data.strip())
        elif tag == "a":
            self.links[data] = attributes["href"]

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def form_with(self, button: str) -> Form:
        return next(form for form in self.forms if button in form.buttons)


class Visitor(TestClient):
    """A browser of its own."""

    def __init__(self, app: Any, user: str | None = None, agent: str = "", **settings: Any) -> None:
        super().__init__(app, headers={"user-agent": agent}, **settings)
        if user is not None:
            assert self.post(f"/login?user={user}").status_code == 200

    def click(self, page: Any, name: str, **more: Any) -> Any:
        """Follow a link of a page, or send the form with this button."""
        seen = Seen(page.text)
        if name in seen.links:
            return self.get(urljoin(str(page.url), seen.links[name]), **more)
        form = seen.form_with(name)
        return self.post(urljoin(str(page.url), form.action), data=form.fields | form.buttons[name], **more)


async def login(request: Request) -> Response:
    await sign_in(request, request.query_params["user"], method=request.query_params.get("method", "password"))
    return PlainTextResponse(request.query_params.get("next", ""))


async def logout(request: Request) -> Response:
    await load_session(request)
    await sign_out(request)
    return PlainTextResponse("signed out")


async def asks(request: Request) -> Response:
    return PlainTextResponse(f"{request.url.path} wants to go on to {request.query_params.get('next')}")


def site(backend: Backend, *mounts: Mount, **settings: Any) -> Starlette:
    """An application with a login, and with pages that are mounted."""
    routes = [
        Route("/login", login, methods=["POST"]),
        Route("/login", asks),
        Route("/confirm", asks),
        Route("/logout", logout, methods=["POST"]),
        *mounts,
    ]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, backend=backend, **settings)])
