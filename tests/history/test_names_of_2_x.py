"""The page for users of 2.x names everything public of the two published packages.

`names_of_2_x.txt` was written by introspection of starsessions 2.2.1 and 2.3.0a1: functions as `name()`, parameters as
`Class(name=)`, methods and fields as `Class.name`.
"""

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from starsessions import get_session
from tests.docs.pages import DOCS, story_of, tell

PAGE = DOCS / "guides" / "migrate" / "from-2x.md"
NAMES = Path(__file__).with_name("names_of_2_x.txt").read_text(encoding="utf-8").split()


def test_the_page_names_everything_public_of_2_x() -> None:
    tables = "\n".join(line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|")
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`(.*?)`", tables))))
    assert len(NAMES) > 90
    assert [name for name in NAMES if not set(re.findall(r"\w+", name)) <= told] == []


def test_autoload_for_some_paths_loads_there_and_not_elsewhere() -> None:
    app = tell(story_of("guides/migrate/from-2x.md", 1))["app"]

    async def is_loaded(request: Request) -> JSONResponse:
        return JSONResponse(get_session(request).is_loaded)

    for path in ("/account/notes", "/else"):
        app.add_route(path, is_loaded)
    browser = TestClient(app)
    assert [browser.get(path).json() for path in ("/account/notes", "/else")] == [True, False]
