"""Guarantee 11, over a real socket: a client that leaves in the middle leaves a whole session, and the server goes on.

That the server has not complained either is checked when it is stopped (see `serve`).
"""

import socket
import struct
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
from websockets.sync.client import connect

from tests.demo.visitors import HANG

TEA = {"sku": "tea", "quantity": 1}
BREAD = {"sku": "bread", "quantity": 2}


class Client:
    """A browser with a session, and the means to leave without a word."""

    def __init__(self, port: int, http: httpx2.Client) -> None:
        self.port = port
        self.http = http
        self.run = uuid4().hex

    def leave_in_the_middle_of(self, path: str, read_until: bytes) -> None:
        """Ask for a page, read of it until there is this, and hang up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=HANG) as peer:
            cookie = self.http.cookies["session"]
            peer.sendall(f"GET {path}/{self.run} HTTP/1.1\r\nhost: x\r\ncookie: session={cookie}\r\n\r\n".encode())
            received = b""
            while read_until not in received:
                chunk = peer.recv(65536)
                assert chunk, f"the server hung up first: {received!r}"
                received += chunk
            head = received.partition(b"\r\n\r\n")[0]
            hang_up(peer)
        for line in head.decode().split("\r\n"):
            name, _, value = line.partition(": ")
            if name.lower() == "set-cookie":
                self.http.cookies.set("session", SimpleCookie(value)["session"].value, domain="127.0.0.1")

    def wait_for(self, moment: str) -> None:
        assert self.http.get("/wait", params={"for": f"{self.run} {moment}"}).status_code == 200

    def open_gate(self) -> None:
        self.http.get("/open", params={"gate": self.run})

    @property
    def session(self) -> dict[str, object]:
        content: dict[str, object] = self.http.get("/show").json()
        return content


def hang_up(peer: socket.socket) -> None:
    """Close at once, with RST: whatever is on its way is lost."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@pytest.fixture
def client(request: pytest.FixtureRequest, serve: Callable[..., int]) -> Iterator[Client]:
    port = serve(Path(__file__).parent, "leaving", BACKEND=request.param)
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=HANG) as http:
        http.get("/begin")
        yield Client(port, http)


everywhere = pytest.mark.parametrize("client", ["signed", "encrypted", "memory", "custom"], indirect=True)
on_the_server = pytest.mark.parametrize("client", ["memory", "custom"], indirect=True)
behind_a_gate = pytest.mark.parametrize("client", ["custom"], indirect=True)


@pytest.mark.guarantee(11)
@everywhere
def test_a_session_saved_with_the_headers_is_complete_if_the_stream_is_cut(client: Client) -> None:
    client.leave_in_the_middle_of("/stream", read_until=b"crumbs")
    client.wait_for("over")
    assert client.session == {"cart": [TEA, BREAD], "steps": []}


@pytest.mark.guarantee(11)
@on_the_server
def test_of_a_stream_that_saves_its_steps_each_step_is_saved_whole_or_not_at_all(client: Client) -> None:
    client.leave_in_the_middle_of("/stream-and-save", read_until=b"step")
    client.wait_for("over")
    session = client.session
    assert session["cart"] == [TEA]
    assert isinstance(session["count"], int)
    assert session["count"] > 0
    assert session["steps"] == list(range(session["count"]))


@pytest.mark.guarantee(11)
@behind_a_gate
def test_a_client_that_leaves_during_the_save_for_the_headers_has_a_valid_session(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=HANG) as peer:
        cookie = client.http.cookies["session"]
        path = f"/stream-after-a-gate/{client.run}"
        peer.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\ncookie: session={cookie}\r\n\r\n".encode())
        client.wait_for("writing")
        hang_up(peer)
    client.wait_for("over")
    client.open_gate()
    assert client.session == {"cart": [TEA], "steps": []}
    client.leave_in_the_middle_of("/stream", read_until=b"crumbs")
    assert client.session == {"cart": [TEA, BREAD], "steps": []}, "and goes on with it"


@behind_a_gate
def test_a_client_that_leaves_during_persist_has_a_valid_session_and_no_error_is_logged(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=HANG) as peer:
        cookie = client.http.cookies["session"]
        path = f"/save-behind-a-gate/{client.run}"
        peer.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\ncookie: session={cookie}\r\n\r\n".encode())
        client.wait_for("writing")
        hang_up(peer)
    client.wait_for("over")
    client.open_gate()
    assert client.session == {"cart": [TEA], "steps": []}


@pytest.mark.guarantee(11)
@on_the_server
def test_changes_of_a_websocket_are_saved_if_its_client_disconnects(client: Client) -> None:
    headers = {"cookie": f"session={client.http.cookies['session']}"}
    url = f"ws://127.0.0.1:{client.port}/socket/{client.run}"
    with connect(url, additional_headers=headers, proxy=None) as peer:
        for sku in ("pears", "honey"):
            peer.send(sku)
            assert peer.recv(timeout=HANG) == "noted"
        hang_up(peer.socket)
    client.wait_for("over")
    assert client.session == {
        "cart": [TEA, {"sku": "pears", "quantity": 3}, {"sku": "honey", "quantity": 3}],
        "steps": [],
    }


@behind_a_gate
def test_a_save_of_a_websocket_completes_if_its_client_leaves(client: Client) -> None:
    headers = {"cookie": f"session={client.http.cookies['session']}"}
    url = f"ws://127.0.0.1:{client.port}/socket-that-persists/{client.run}"
    with connect(url, additional_headers=headers, proxy=None) as peer:
        peer.send("pears")
        client.wait_for("writing")
        hang_up(peer.socket)
    client.open_gate()
    client.wait_for("over")
    assert client.session == {"cart": [TEA, {"sku": "pears", "quantity": 4}], "steps": [], "gate": client.run}
