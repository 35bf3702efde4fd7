"""The page says of each library what its test shows."""

import re
from pathlib import Path

from tests.neighbours import test_neighbours
from tests.neighbours.pages import PAGE, TESTED, rows_of_the_page

assert test_neighbours.MIDDLEWARES  # importing the tests fills TESTED

HERE = Path(__file__).parent
PACKAGES = {
    "FastHTML": "python-fasthtml",
    "OpenTelemetry": "opentelemetry-instrumentation-fastapi",
    "Sentry": "sentry-sdk",
    "Strawberry": "strawberry-graphql",
    "starlette-flash": "starlette_flash",
}
"""By name: what it is called in requirements/*.txt, if that is another name."""


def test_each_tested_library_has_a_row_with_its_verdict_and_no_other_has() -> None:
    page = {row.name: row.verdict for row in rows_of_the_page()}
    assert page == {name: verdict for name, (verdict, _, _) in TESTED.items()}
    assert list(page) == sorted(page)


def test_the_versions_are_those_that_are_installed() -> None:
    pinned = {
        name: (HERE / "requirements" / f"{needs}.txt").read_text().lower() for name, (_, needs, _) in TESTED.items()
    }
    wrong = [
        row.name
        for row in rows_of_the_page()
        if f"{PACKAGES.get(row.name, row.name)}=={row.version}\n".lower() not in pinned[row.name]
    ]
    assert wrong == []


def test_the_line_of_each_row_is_in_the_application_that_was_run() -> None:
    for row in rows_of_the_page():
        source = (HERE / "apps" / f"{TESTED[row.name][2]}.py").read_text()
        assert row.code.strip("`") in source, row.name


def test_the_variables_and_settings_of_the_page_are_those_of_the_tests() -> None:
    sources = Path(test_neighbours.__file__).read_text() + (HERE / "apps" / "nicegui_host.py").read_text()
    names = set(re.findall(r"OTEL_\w+", PAGE.read_text()))
    assert names
    for text in [*names, "cookie,set-cookie", 'session_middleware_kwargs={"session_cookie": "gui"}']:
        assert text in sources
