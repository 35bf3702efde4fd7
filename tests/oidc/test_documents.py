"""What is fetched of a provider: a JSON object of a reasonable size, in a reasonable time, from where it was asked."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from starsessions.oidc import documents
from starsessions.oidc.documents import MOST_BYTES, DocumentUnavailable, fetch, post
from tests.rows import rows

pytestmark = pytest.mark.anyio


class Pages(BaseHTTPRequestHandler):
    """The pages of a provider, good and bad."""

    never = threading.Event()
    asked: list[str] = []  # noqa: RUF012 - of one server

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, body = {
            "/good": (200, b'{"issuer": "x"}'),
            "/missing": (404, b"{}"),
            "/elsewhere": (302, b"{}"),
            "/list": (200, b"[]"),
            "/text": (200, b"<html>"),
            "/latin": (200, b'{"\xff": 1}'),
            "/nested": (200, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
            "/large": (200, b'{"a": "' + b"x" * MOST_BYTES + b'"}'),
        }.get(self.path, (200, b""))
        if self.path == "/never":
            self.never.wait()
        self.send_response(status)
        if status == 302:
            self.send_header("location", "/good")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        names = ("accept", "authorization", "content-type")
        body = json.dumps({"asked": asked, **{name: self.headers[name] for name in names}}).encode()
        self.send_response(200 if self.path == "/good" else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.handle_error = lambda *args: None  # type: ignore[method-assign] # a client that has left
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Pages.never.set()
        server.shutdown()
        thread.join()


async def test_a_document_is_fetched(provider: str) -> None:
    assert await fetch(provider + "/good") == {"issuer": "x"}


async def test_a_document_is_posted(provider: str) -> None:
    assert await post(provider + "/good", {"ack": ["1"]}, {"authorization": "Bearer x"}, 60) == {
        "asked": {"ack": ["1"]},
        "accept": "application/json",
        "authorization": "Bearer x",
        "content-type": "application/json",
    }
    with pytest.raises(DocumentUnavailable, match="503"):
        await post(provider + "/busy", {}, {}, 60)


@rows("path", ["/missing", "/elsewhere", "/list", "/text", "/latin", "/nested", "/large", "/empty"])
async def test_what_is_no_such_document_is_refused(provider: str, path: str) -> None:
    Pages.asked.clear()
    with pytest.raises(DocumentUnavailable) as raised:
        await fetch(provider + path)
    assert Pages.asked == [path]  # a redirect is not followed
    assert provider not in str(raised.value)


@pytest.mark.both_loops
async def test_a_provider_that_does_not_answer_is_not_waited_for(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "SECONDS", 0.1)
    with pytest.raises(DocumentUnavailable, match="did not answer"):
        await fetch(provider + "/never")


@rows("url", ["http://127.0.0.1:1/keys", "http://", "http://[", "ftp://127.0.0.1/keys"])
async def test_an_address_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(DocumentUnavailable, match="did not answer"):
        await fetch(url)
