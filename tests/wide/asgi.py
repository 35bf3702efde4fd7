"""Starts the application with a server, on loopback."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import starsessions
from tests.servers.process import Server, free_port, new_folder
from tests.wide.programs import accepts

ROOT = Path(__file__).parents[2]
APP = "tests.wide.site_app:app"

SERVERS: dict[str, list[str]] = {
    "uvicorn-asyncio-h11": ["uvicorn", "{app}", "--port", "{port}", "--loop", "asyncio", "--http", "h11"],
    "uvicorn-uvloop-httptools": ["uvicorn", "{app}", "--port", "{port}", "--loop", "uvloop", "--http", "httptools"],
    "uvicorn-2-workers": ["uvicorn", "{app}", "--port", "{port}", "--workers", "2"],
    "hypercorn": ["hypercorn", "{app}", "--bind", "127.0.0.1:{port}"],
    "hypercorn-uvloop-2-workers": [
        "hypercorn", "{app}", "--bind", "127.0.0.1:{port}", "-k", "uvloop", "--workers", "2",
    ],
    "hypercorn-trio": ["hypercorn", "{app}", "--bind", "127.0.0.1:{port}", "-k", "trio"],
    "granian": ["granian", "{app}", "--interface", "asgi", "--port", "{port}"],
    "granian-2-workers": ["granian", "{app}", "--interface", "asgi", "--port", "{port}", "--workers", "2"],
    "daphne": ["daphne", "-b", "127.0.0.1", "-p", "{port}", "{app}"],
    "gunicorn-preload-2-workers": [
        "gunicorn", "{app}", "-b", "127.0.0.1:{port}", "--preload", "-w", "2", "-k", "uvicorn_worker.UvicornWorker",
    ],
}  # fmt: skip


class AsgiServer(Server):
    def __init__(self, name: str, settings: dict[str, str], app: str = APP) -> None:
        folder, port = new_folder(), free_port()
        words = [word.format(port=port, app=app) for word in SERVERS[name]]
        library = str(Path(starsessions.__file__).parents[1])
        paths = f"PYTHONPATH={library}{os.pathsep}{ROOT}"
        environment = ["env", paths, *(f"{key}={value}" for key, value in settings.items())]
        super().__init__(name, [*environment, sys.executable, "-m", *words], folder, port, user=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        return accepts(self.port)


@contextlib.contextmanager
def serving(name: str, **settings: str) -> Iterator[AsgiServer]:
    """Serve the application, and check that the server has nothing to complain of in the end."""
    with AsgiServer(name, settings) as server:
        server.start()
        yield server
        server.stop()
        log = server.log.read_text()
        assert "Traceback" not in log, log
        assert "ERROR" not in log, log
