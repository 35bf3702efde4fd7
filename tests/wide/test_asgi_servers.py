"""A whole visit over a socket, with each server that people run Starlette and FastAPI on."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from websockets.sync.client import connect

from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from tests.servers.process import ServerError
from tests.wide.asgi import SERVERS, AsgiServer, serving

pytestmark = pytest.mark.wide


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('sessions') / 'sessions.db'}"

    async def create() -> None:
        backend = SQLAlchemyBackend(url, timeout=30)
        await backend.create_table()
        await backend.engine.dispose()

    asyncio.run(create())
    return url


@pytest.fixture(scope="module", params=[name for name in SERVERS if "trio" not in name])
def server(request: pytest.FixtureRequest, database: str) -> Iterator[AsgiServer]:
    with serving(request.param, DATABASE=database) as running:
        yield running


@pytest.fixture
def browser(server: AsgiServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


def test_a_visitor_signs_in_and_out_and_keeps_the_session_between_requests(browser: httpx2.Client) -> None:
    assert [browser.get("/").text for _ in range(3)] == ["1 None", "2 None", "3 None"]

    assert browser.post("/sign-in").text == "welcome"
    assert browser.get("/").text == "4 ada"
    signed_in = browser.cookies["session"]

    assert browser.post("/sign-out").text == "bye"
    assert "session" not in browser.cookies
    browser.cookies.set("session", signed_in, domain="127.0.0.1")
    assert browser.get("/").text == "1 None"


def test_parallel_increments_are_all_counted(browser: httpx2.Client) -> None:
    browser.get("/")
    cookies = dict(browser.cookies)

    def increment(_: int) -> int:
        return int(httpx2.post(f"{browser.base_url}/count", cookies=cookies, timeout=60, trust_env=False).text)

    with ThreadPoolExecutor(10) as threads:
        assert sorted(threads.map(increment, range(30))) == list(range(1, 31))


def test_a_websocket_sees_the_session(browser: httpx2.Client, server: AsgiServer) -> None:
    browser.get("/")
    cookie = f"session={browser.cookies['session']}"
    address = f"ws://127.0.0.1:{server.port}/echo"
    with connect(address, additional_headers={"cookie": cookie}, proxy=None) as websocket:
        assert websocket.recv() == "1"


@pytest.mark.parametrize("name", [name for name in SERVERS if "workers" not in name])
def test_a_session_of_several_cookies_comes_back_whole(name: str) -> None:
    with (
        serving(name, MAX_COOKIES="4") as server,
        httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as browser,
    ):
        assert browser.post("/fill", params={"size": 9000}).text == "9000"
        assert len(browser.cookies) == 3
        assert browser.get("/fill").text == "9000"


def test_a_server_without_asyncio_ends_with_the_reason_if_the_sessions_are_in_a_database(database: str) -> None:
    """On trio, cookies work, as above."""
    with AsgiServer("hypercorn-trio", {"DATABASE": database}) as server:
        server.launch()
        with pytest.raises(ServerError, match=r"has ended(.|\n)*This store needs asyncio"):
            server.wait_until(lambda: False, "did not end")
