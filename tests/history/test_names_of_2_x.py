"""The page for users of 2.x names everything public of the two published packages.

`names_of_2_x.txt` was written by introspection of starsessions 2.2.1 and 2.3.0a1: functions as `name()`, parameters as
`Class(name=)`, methods and fields as `Class.name`.
"""

import re
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

import starsessions
from starsessions import get_session
from tests.docs.pages import DOCS, story_of, tell

PAGE = DOCS / "guides" / "migrate" / "from-2x.md"
NAMES = Path(__file__).with_name("names_of_2_x.txt").read_text(encoding="utf-8").split()


def test_the_page_names_everything_public_of_2_x() -> None:
    tables = "\n".join(line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|")
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`(.*?)`", tables))))
    assert len(NAMES) > 90
    assert [name for name in NAMES if not set(re.findall(r"\w+", name)) <= told] == []


# Names without a dot or parentheses are classes, and those with `()` at the end are functions.
IMPORTED = [name for name in (name.removesuffix("()") for name in NAMES) if name.isidentifier()]


def test_importing_a_name_of_2_x_says_what_the_page_says() -> None:
    rows = [line.split("|")[1:3] for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    for name in IMPORTED:
        if name in starsessions.__all__:
            continue
        with pytest.raises(ImportError, match=f"{name} is of starsessions 2.x. In 3.0, use ") as raised:
            exec(f"from starsessions import {name}", {})  # what a program of 2.x does
        said = str(raised.value).partition(" use ")[2].partition(" (docs/")[0]
        told = " ".join(right for left, right in rows if re.search(rf"\b{name}\b", left))
        named = [word for word in re.findall(r"\w+", said) if "_" in word or not word.islower()]
        told += " SessionMiddleware"  # the page says: of the middleware
        assert [word for word in named if word not in told] == [], name


def test_a_name_that_never_was_is_missing_as_in_any_module() -> None:
    with pytest.raises(ImportError, match="cannot import name 'made_up'"):
        exec("from starsessions import made_up", {})
    assert not hasattr(starsessions, "made_up")
    assert getattr(starsessions, "made_up", None) is None


def test_autoload_for_some_paths_loads_there_and_not_elsewhere() -> None:
    app = tell(story_of("guides/migrate/from-2x.md", 1))["app"]

    async def is_loaded(request: Request) -> JSONResponse:
        return JSONResponse(get_session(request).is_loaded)

    for path in ("/account/notes", "/else"):
        app.add_route(path, is_loaded)
    browser = TestClient(app)
    assert [browser.get(path).json() for path in ("/account/notes", "/else")] == [True, False]
