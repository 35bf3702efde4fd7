"""Starts the demo and the examples as their users do: a uvicorn process for each, on loopback."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
from selenium import webdriver

import starsessions
from tests.demo.visitors import Visitor, start_chromium
from tests.servers.process import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
READY = re.compile(r"Uvicorn running on http://127\.0\.0\.1:(\d+)")
TRIES, PAUSE = 1200, 0.05


def wait_until_it_listens(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port that the system gave to uvicorn; the log line comes after it has begun to listen."""
    for _ in range(TRIES):
        if ready := READY.search(log.read_text()):
            port = int(ready[1])
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return port
        if process.poll() is not None:
            break
        time.sleep(PAUSE)
    pytest.fail(f"the application did not start:\n{log.read_text()}")


def stop(*processes: subprocess.Popen[bytes]) -> None:
    """All at once: each takes a moment to close what is open."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    try:
        for process in processes:
            process.wait(timeout=TRIES * PAUSE)
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
            process.wait()
        raise


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., int]]:
    """``serve(EXAMPLES, "websocket", KEY="value")`` answers the port; the same application and settings share one.

    The system chooses the port, unless there is one.
    """
    running: dict[tuple[object, ...], tuple[subprocess.Popen[bytes], Path, int]] = {}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DEMO_") and key != "SECRET_KEY"}
    # The copy of the library that the tests import, however they came to it.
    library = str(Path(starsessions.__file__).parents[1])
    clean["PYTHONPATH"] = os.pathsep.join(filter(None, [library, clean.get("PYTHONPATH")]))
    clean["PYTHONWARNINGS"] = "error"

    def start(directory: Path, module: str, port: int = 0, **settings: str) -> int:
        key = (directory, module, port, *sorted(settings.items()))
        if key not in running:
            log = tmp_path_factory.mktemp(module) / "uvicorn.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "uvicorn", f"{module}:app", "--app-dir", directory, "--port", str(port)],
                    env={**clean, **settings},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            try:
                running[key] = (process, log, wait_until_it_listens(process, log))
            except BaseException:
                stop(process)
                raise
        return running[key][2]

    yield start
    stop(*(process for process, _, _ in running.values()))
    logs = {key: log.read_text() for key, (_, log, _) in running.items()}
    complaints = {key: log for key, log in logs.items() if "Traceback" in log or "ERROR" in log}
    assert not complaints, f"an application complained: {complaints}"


@pytest.fixture(scope="session")
def start_demo(serve: Callable[..., int]) -> Callable[..., int]:
    """``start_demo(DEMO_BACKEND="cookie")`` answers the port."""
    return partial(serve, EXAMPLES / "demo", "app")


@pytest.fixture(scope="session")
def start_with_provider(start_demo: Callable[..., int]) -> Callable[[str], int]:
    """``start_with_provider("cookie")``: a demo that knows its address, as its identity provider must."""

    @cache
    def start(backend: str) -> int:
        port = free_port()
        return start_demo(port=port, DEMO_URL=f"http://localhost:{port}", DEMO_BACKEND=backend)

    return start


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with start_chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="session")
def another_chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """With a profile of its own: to the demo, another device."""
    with start_chromium(tmp_path_factory.mktemp("another-chromium")) as browser:
        yield browser


@pytest.fixture
def visit(request: pytest.FixtureRequest, start_demo: Callable[..., int]) -> Callable[..., Visitor]:
    """``visit(DEMO_BACKEND="cookie")``: a visitor without cookies, on the page of a demo with these settings.

    ``visit("another_chromium")`` comes with another browser. With a port, the demo runs already.
    """

    def visit(browser: str = "chromium", port: int = 0, **settings: str) -> Visitor:
        chromium: webdriver.Chrome = request.getfixturevalue(browser)
        chromium.execute_cdp_cmd("Storage.clearCookies", {})
        return Visitor(chromium, port or start_demo(**{"DEMO_BACKEND": "memory", **settings}))

    return visit
