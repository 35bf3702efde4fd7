"""A neighbour in a process of its own: an environment with its published package, its application served by uvicorn."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.missing import missing
from tests.servers.process import Server, free_port, new_folder

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MIDDLEWARES = ["starlette", "starsessions"]
"""What the variable SESSIONS tells an application to use."""


def environment(name: str) -> Path:
    """The Python of an environment with the packages of requirements/NAME.txt; it is created on first use."""
    requirements = HERE / "requirements" / f"{name}.txt"
    folder = ROOT / ".wide" / "neighbours" / name
    stamp = hashlib.sha256(f"{sys.version}\n{requirements.read_text()}".encode()).hexdigest()
    python = folder / "bin" / "python"
    if not (folder / "stamp").exists() or (folder / "stamp").read_text() != stamp:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        # All versions are pinned, so that nothing has to be resolved.
        install = [python, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--no-deps", "-r", requirements]
        done = subprocess.run(install, check=False, capture_output=True, text=True)
        if done.returncode:
            missing(f"The packages of {requirements.name} could not be installed:\n{done.stderr[-2000:]}")
        (folder / "stamp").write_text(stamp)
    return python


class Application(Server):
    """uvicorn with apps/NAME.py, which finds out from SESSIONS which middleware it is to use."""

    def __init__(self, name: str, middleware: str, needs: str, variables: dict[str, str]) -> None:
        port = free_port()
        folder = new_folder()
        variables = {
            "PYTHONPATH": os.pathsep.join([str(HERE / "apps"), str(ROOT / "src")]),
            "SESSIONS": middleware,
            "URL": f"http://127.0.0.1:{port}",
            "HOME": str(folder),
            **variables,
        }
        command = [
            *("env", *(f"{key}={value}" for key, value in variables.items())),
            *(environment(needs), "-m", "uvicorn", f"{name}:app", "--port", str(port), "--lifespan", "on"),
        ]
        super().__init__(f"{name} with {middleware}", command, folder, port, None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        return b"Uvicorn running on" in self.log.read_bytes()

    def browser(self) -> httpx2.Client:
        """A client with cookies of its own."""
        limits = httpx2.Limits(max_keepalive_connections=0)  # uvicorn closes a connection after an unhandled error
        return httpx2.Client(base_url=self.url, follow_redirects=True, timeout=60, limits=limits)


@contextmanager
def served(name: str, middleware: str, needs: str = "libraries", **variables: str) -> Iterator[Application]:
    """The application of a neighbour, until the end of the block."""
    with Application(name, middleware, needs, variables) as application:
        application.start()
        yield application
