"""starlette-flash stores messages for the next page in `request.session`, and runs unchanged."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette_flash import FlashCategory, flash, get_messages_for_template

from starsessions import SessionBackend, SessionMiddleware
from tests.history.pages import BrowserOf, seen
from tests.kinds import each_backend

ANN = {"category": "success", "message": "Welcome, Ann"}
BOB = {"category": "error", "message": "Bob is not here"}


async def say(request: Request) -> Response:
    flash(request).success("Welcome, Ann").error("Bob is not here")
    return RedirectResponse("/", status_code=303)


async def consume(request: Request) -> Response:
    return JSONResponse(list(flash(request)))


async def in_template(request: Request) -> Response:
    return JSONResponse(get_messages_for_template(request))


async def peek(request: Request) -> Response:
    return JSONResponse(flash(request).all())


async def errors(request: Request) -> Response:
    return JSONResponse(flash(request).get_by_category(FlashCategory.ERROR))


async def raw(request: Request) -> Response:
    return JSONResponse(dict(request.session))


def app_with(backend: SessionBackend) -> Starlette:
    routes = [
        Route("/say", say, methods=["POST"]),
        Route("/", consume),
        Route("/template", in_template),
        Route("/peek", peek),
        Route("/errors", errors),
        Route("/raw", raw),
    ]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, backend=backend, autoload=True)])


@each_backend
def test_a_message_survives_the_redirect_and_is_shown_once(backend: SessionBackend, browser_of: BrowserOf) -> None:
    browser = browser_of(app_with(backend))
    assert browser.post("/say").json() == [ANN, BOB]
    assert seen(browser) == []


@each_backend
def test_a_template_shows_messages_once(backend: SessionBackend, browser_of: BrowserOf) -> None:
    browser = browser_of(app_with(backend))
    browser.post("/say", follow_redirects=False)
    assert browser.get("/template").json() == [ANN, BOB]
    assert browser.get("/template").json() == []


@each_backend
def test_messages_add_up_until_they_are_shown(backend: SessionBackend, browser_of: BrowserOf) -> None:
    browser = browser_of(app_with(backend))
    browser.post("/say", follow_redirects=False)
    browser.post("/say", follow_redirects=False)
    assert seen(browser) == [ANN, BOB, ANN, BOB]


@each_backend
def test_reading_messages_without_removing_keeps_them(backend: SessionBackend, browser_of: BrowserOf) -> None:
    browser = browser_of(app_with(backend))
    browser.post("/say", follow_redirects=False)
    assert browser.get("/peek").json() == [ANN, BOB]
    assert browser.get("/peek").json() == [ANN, BOB]


@each_backend
def test_messages_of_one_category_are_removed_and_the_others_stay(
    backend: SessionBackend, browser_of: BrowserOf
) -> None:
    browser = browser_of(app_with(backend))
    browser.post("/say", follow_redirects=False)
    assert browser.get("/errors").json() == [BOB]
    assert browser.get("/raw").json() == {"flash_messages": [ANN]}
    assert seen(browser) == [ANN]
