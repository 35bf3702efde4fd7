"""Pages with a session in memory: what a browser does with them is the question."""

import os
from html import escape

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from starsessions import InMemoryBackend, SessionMiddleware
from starsessions.csrf import CsrfMiddleware
from starsessions.flash import add_flash, pop_flashes
from starsessions.session import get_session
from starsessions.users import get_user_id, sign_in, sign_out

CACHED = {"cache-control": "private, max-age=600"}


def page(text: str, headers: dict[str, str] | None = None) -> HTMLResponse:
    """A page that says this, with what the tests click on."""
    buttons = [
        f'<form method="post" action="/{name}"><button id="{name}"></button></form>'
        for name in ("say", "say-cached", "sign-in", "sign-out", "sign-out-and-clear")
    ]
    links = [f'<a id="to-{name}" href="/{name}">&nbsp;</a>' for name in ("cached", "plain")]
    return HTMLResponse(f"<p id=text>{text}</p>{''.join(buttons)}{''.join(links)}", headers=headers)


async def messages(request: Request) -> Response:
    """The messages, and how the browser described its request for them."""
    said = [message.text for message in pop_flashes(request)]
    described = [request.headers.get(f"sec-fetch-{name}", "-") for name in ("mode", "dest")]
    return page(f"{','.join(said) or 'no message'} ({' '.join(described)})")


async def cached(request: Request) -> Response:
    said = [message.text for message in pop_flashes(request)]
    return page(",".join(said) or "no message", CACHED)


async def plain(request: Request) -> Response:
    return page("plain")


async def frame(request: Request) -> Response:
    return HTMLResponse(f'<iframe src="/plain" sandbox="{escape(request.query_params["sandbox"])}"></iframe>')


async def say(request: Request) -> Response:
    add_flash(request, "Saved")
    return RedirectResponse("/cached" if request.url.path == "/say-cached" else "/messages", 303)


async def account(request: Request) -> Response:
    cache = request.query_params.get("cache")
    return page(get_user_id(request) or "a visitor", {"cache-control": cache} if cache else None)


async def start(request: Request) -> Response:
    await sign_in(request, "Ada")
    return RedirectResponse("/messages", 303)


async def end(request: Request) -> Response:
    await sign_out(get_session(request), clear_site_data=request.url.path.endswith("clear"))
    return RedirectResponse("/plain?signed-out", 303)


async def worker(request: Request) -> Response:
    """A service worker that passes requests on, as network-first workers do, or makes a request of its own."""
    passes_on = "own" not in request.query_params
    what = "event.request" if passes_on else "event.request.method === 'GET' ? event.request.url : event.request"
    script = f"""
        self.addEventListener("install", () => self.skipWaiting());
        self.addEventListener("activate", event => event.waitUntil(self.clients.claim()));
        self.addEventListener("fetch", event => event.respondWith(fetch({what})));
    """
    return Response(script, media_type="text/javascript")


app = Starlette(
    routes=[
        Route("/messages", messages),
        Route("/cached", cached),
        Route("/plain", plain),
        Route("/account", account),
        Route("/frame", frame),
        Route("/say", say, methods=["POST"]),
        Route("/say-cached", say, methods=["POST"]),
        Route("/sign-in", start, methods=["POST"]),
        Route("/sign-out", end, methods=["POST"]),
        Route("/sign-out-and-clear", end, methods=["POST"]),
        Route("/worker.js", worker),
    ],
    middleware=[
        Middleware(SessionMiddleware, backend=InMemoryBackend(), autoload=True, no_store="NO_STORE" in os.environ),
        Middleware(CsrfMiddleware, bypass=["/say", "/sign-in"]),
    ],
)
