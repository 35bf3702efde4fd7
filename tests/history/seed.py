"""The examples of the original README as code that runs.

`seed-readme.txt` is that README as it was copied from the package's page: without indentation, and with the
imports that it takes from Starlette by mistake. Both are corrected here by rule; nothing else is changed.
"""

from collections.abc import Iterator
from pathlib import Path

TEXT = Path(__file__).with_name("seed-readme.txt").read_text(encoding="utf-8")

MISTAKEN = {
    "from starlette.middleware.sessions import SessionMiddleware": "from starsessions import SessionMiddleware",
    "from starlette.sessions import CookieBackend": "from starsessions import CookieBackend",
    "from starlette.sessions import SessionBackend": "from starsessions import SessionBackend",
}


def example(first: str, last: str, after: str) -> str:
    """Return the lines from `first` to `last` that follow the line `after`."""
    lines = TEXT.splitlines()
    lines = lines[lines.index(after) :]
    begin = lines.index(first)
    end = lines.index(last, begin)
    return "\n".join(_indented(MISTAKEN.get(line, line) for line in lines[begin : end + 1]))


def _indented(lines: Iterator[str]) -> Iterator[str]:
    depth = 0
    for line in lines:
        if line.startswith("class "):
            depth = 1
            yield line
        elif depth and line.startswith(("def ", "async def ")):
            depth = 2
            yield "    " + line
        else:
            yield "    " * depth + line


ENABLE = example(
    "from starlette.applications import Starlette",
    "app = Starlette(middleware=middleware, **other_options)",
    after="Enable session support",
)
AUTOLOAD = example(
    *["Middleware(SessionMiddleware, secret_key='TOP SECRET', autoload=True)"] * 2, after="Session autoloading"
)
CHANGE_BACKEND = example(
    "from starlette.applications import Starlette",
    "app.add_middleware(SessionMiddleware, backend=backend)",
    after="Change default backend",
)
CUSTOM_BACKEND = example(
    "from starlette.sessions import SessionBackend", "return session_id in self._storage", after="Custom backend"
)
