"""The page for users of 2.x names everything public of the two published packages.

`names_of_2_x.txt` was written by introspection of starsessions 2.2.1 and 2.3.0a1: functions as `name()`, parameters as
`Class(name=)`, methods and fields as `Class.name`.
"""

import importlib
import re
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from starsessions import get_session, moved
from tests.docs.pages import DOCS, story_of, tell
from tests.rows import rows

PAGE = DOCS / "guides" / "migrate" / "from-2x.md"
NAMES = Path(__file__).with_name("names_of_2_x.txt").read_text(encoding="utf-8").split()


def test_the_page_names_everything_public_of_2_x() -> None:
    tables = "\n".join(line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|")
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`(.*?)`", tables))))
    assert len(NAMES) > 90
    assert [name for name in NAMES if not set(re.findall(r"\w+", name)) <= told] == []


FUNCTIONS = [name.removesuffix("()") for name in NAMES if name.endswith("()") and name != "prefix_factory()"]
STORES = ["CookieStore", "InMemoryStore", "SessionStore"]
EXPORTED = {  # by 2.2.1 and 2.3.0a1, from modules that 3.0 has as well
    "starsessions": [*FUNCTIONS, *STORES, "JsonSerializer", "SessionAutoloadMiddleware"],
    "starsessions.session": [*FUNCTIONS, "SessionHandler"],
    "starsessions.stores": STORES,
    "starsessions.stores.redis": ["RedisStore"],
}
IMPORTED = [(module, name) for module, names in EXPORTED.items() for name in names if name != "load_session"]


@rows("module, name", IMPORTED)
def test_importing_a_name_of_2_x_says_what_the_page_says(module: str, name: str) -> None:
    table = [line.split("|")[1:3] for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    with pytest.raises(ImportError, match=f"^{name} is of starsessions 2.x. In 3.0, use ") as raised:
        exec(f"from {module} import {name}", {})  # what a program of 2.x does
    said = str(raised.value).partition(" use ")[2].partition(" (docs/")[0]
    told = " ".join(right for left, right in table if re.search(rf"\b{name}\b", left))
    named = [word for word in re.findall(r"\w+", said) if "_" in word or not word.islower()]
    told += " SessionMiddleware"  # the page says: of the middleware
    assert [word for word in named if word not in told] == []
    assert raised.value.name == module


def test_nothing_else_is_said_to_be_of_2_x() -> None:
    assert {name for _, name in IMPORTED} == {*moved.REPLACEMENTS}


@rows("module", [*EXPORTED])
def test_a_name_that_never_was_is_missing_as_in_any_module(module: str) -> None:
    with pytest.raises(ImportError, match="cannot import name 'made_up'"):
        exec(f"from {module} import made_up", {})
    assert not hasattr(importlib.import_module(module), "made_up")
    assert getattr(importlib.import_module(module), "made_up", None) is None


@rows("module, name", IMPORTED)
def test_asking_whether_a_name_of_2_x_is_there_raises_an_import_error(module: str, name: str) -> None:
    with pytest.raises(ImportError, match="is of starsessions 2"):
        hasattr(importlib.import_module(module), name)


def test_autoload_for_some_paths_loads_there_and_not_elsewhere() -> None:
    app = tell(story_of("guides/migrate/from-2x.md", 1))["app"]

    async def is_loaded(request: Request) -> JSONResponse:
        return JSONResponse(get_session(request).is_loaded)

    for path in ("/account/notes", "/else"):
        app.add_route(path, is_loaded)
    browser = TestClient(app)
    assert [browser.get(path).json() for path in ("/account/notes", "/else")] == [True, False]
