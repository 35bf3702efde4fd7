"""An application does not pay for tests or extras; a test that uses the rules needs neither pytest nor Hypothesis."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.rows import rows


def said_by(code: str) -> str:
    """What it prints in a new process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.once
@rows(
    ("imported", "unwanted"),
    [
        ("starsessions", ["pytest", "hypothesis"]),
        (
            "starsessions",
            [
                "cryptography",
                "fastapi",
                "httpx2",
                "itsdangerous",
                "joserfc",
                "opentelemetry",
                "pydantic",
                "redis",
                "sqlalchemy",
                "trio",
            ],
        ),
        (
            "starsessions",
            [
                f"starsessions.{name}"
                for name in (
                    "check",
                    "cli",
                    "csrf",
                    "flash",
                    "health",
                    "history",
                    "inventory",
                    "oidc",
                    "opentelemetry",
                    "pages",
                    "personal",
                    "testing",
                    "timeouts",
                    "typed",
                    "users",
                    "watch",
                )
            ],
        ),
        ("starsessions", ["starsessions.backends.redis", "starsessions.backends.sqlalchemy", "starsessions.fastapi"]),
        (
            "starsessions.backends.urls",
            ["cryptography", "pydantic", "redis", "sqlalchemy", "starsessions.stores.redis"],
        ),
        ("starsessions.users", ["starsessions.oidc", "httpx2", "joserfc"]),
        ("starsessions.pages", ["starsessions.history", "sqlalchemy", "jinja2", "multipart"]),
        ("starsessions.cli", ["cyclopts", "rich", "starsessions.check", "starsessions.users"]),
        ("starsessions", ["starsessions.stores.sweeper", "starsessions.core.models"]),
        (
            "starsessions.testing.conformance.store_rules, starsessions.testing.conformance.backend_rules",
            ["pytest", "hypothesis"],
        ),
        ("starsessions.testing.conformance.suite", ["hypothesis"]),
    ],
)
def test_each_import_loads_only_what_it_needs(imported: str, unwanted: list[str]) -> None:
    mine = [name for name in unwanted if name.partition(".")[0] == "starsessions"]
    assert [name for name in mine if find_spec(name) is None] == [], "what does not exist is never imported"
    assert said_by(f"import sys, {imported}; print([name for name in {unwanted} if name in sys.modules])") == "[]"


# How long it takes, without a stopwatch


def test_it_imports_nothing_that_starlette_and_msgspec_have_not_imported() -> None:
    # An event loop (asyncio takes longer than all of the library), what anyio makes for it, zones: applications have
    # loaded them imported, or waits for them once, when they are first used. Up to Python 3.14, Starlette has imported
    # `copy` and `struct`, too.
    code = """
import copy, struct, sys, msgspec, starlette.applications, starlette.middleware, starlette.requests
before = {*sys.modules, *sys.builtin_module_names}  # what is compiled into Python reads no file
import starsessions
print(sorted(name for name in set(sys.modules) - before if name.partition(".")[0] != "starsessions"))
"""
    assert said_by(code) == "[]"


def test_it_compiles_the_methods_of_no_dataclass() -> None:
    # Each would take a quarter of a millisecond for that, in each new process. A frozen msgspec struct takes none.
    code = """
import dataclasses, sys, starsessions
modules = [vars(module).values() for name, module in sys.modules.items() if name.partition(".")[0] == "starsessions"]
kinds = {one for values in modules for one in values if isinstance(one, type)}
print(sorted(kind.__name__ for kind in kinds if dataclasses.is_dataclass(kind)))
"""
    assert said_by(code) == "[]"
