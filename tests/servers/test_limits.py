"""No test fails because a server was slow: a test that wants an answer from one says how long it waits.

A store waits for 5 seconds unless something else is said. That is too short on a machine that runs tests on all cores.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rows import rows

pytestmark = pytest.mark.once

TESTS = Path(__file__).parents[1]
MAKERS = {"RedisBackend", "RedisStore", "SQLAlchemyBackend", "SQLAlchemyStore", "backend_from_url"}

NOWHERE = ("redis://", "postgresql", "memory://")
"""How an address begins that is written down: the servers of the tests are on free ports, and elsewhere is none."""

WITHOUT = {
    "backends/test_health_on_servers.py::test_a_database_without_the_table_is_not_healthy": "no answer is wanted",
    "backends/test_redis.py::test_a_cluster_that_reads_from_replicas_is_refused": "refused when it is made",
    "backends/test_redis.py::test_an_object_that_is_no_client_of_a_primary_is_rejected": "refused when it is made",
    "backends/test_sqlalchemy.py::chosen": "made, and sends nothing",
    "backends/test_sqlalchemy.py::test_an_invalid_engine_is_rejected_with_the_cure": "refused when it is made",
    "backends/test_sqlalchemy.py::test_invalid_settings_are_rejected": "refused when it is made",
    "backends/test_sqlalchemy.py::test_the_table_belongs_to_the_metadata_of_the_application_if_it_is_given": (
        "made, and sends nothing"
    ),
    "backends/test_urls.py::made": "made, and sends nothing",
    "sealing/test_keys.py::": "made, and sends nothing",
    "shell/test_check_epoch.py::test_each_backend_takes_the_setting": "made, and sends nothing",
}
"""Where a backend has no limit of its own, and why it needs none."""


def makers_in(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Each call that makes one, and the name of the function around it. A text may be a program that a test starts."""
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in MAKERS:
                yield function, node
            case ast.Constant(value=str(text)) if any(f"{name}(" in text for name in MAKERS):
                try:
                    yield from makers_in(ast.parse(text), function)
                except SyntaxError:
                    continue
        yield from makers_in(node, inside)


def has_limit(call: ast.Call) -> bool:
    """Whether it says how long it waits, among the keywords or in a URL; or there is nothing to wait for."""
    address = ast.unparse(call.args[0]) if call.args else ""
    if "timeout=" in address or address.strip("'").startswith(NOWHERE):
        return True
    return any(
        keyword.arg == "timeout" or (keyword.arg is None and "'timeout':" in ast.unparse(keyword.value))
        for keyword in call.keywords
    )


def test_a_test_that_waits_for_a_server_says_for_how_long() -> None:
    without: dict[str, list[str]] = {}
    for path in sorted(set(TESTS.rglob("*.py")) - {Path(__file__)}):
        place = path.relative_to(TESTS).as_posix()
        for function, call in makers_in(ast.parse(path.read_text("utf-8"))):
            if not has_limit(call):
                without.setdefault(f"{place}::{function}", []).append(f"line {call.lineno}: {ast.unparse(call)}")
    assert {where: calls for where, calls in without.items() if where not in WITHOUT} == {}, "add timeout=30"
    assert set(WITHOUT) == set(without), "these have a limit, or are gone: remove the exception"


@rows(
    ("program", "limited"),
    [
        ("RedisBackend(server.url)", False),
        ("stores.RedisStore(client, 'prefix:')", False),
        ("SQLAlchemyBackend(url, timeout=30)", True),
        ("SQLAlchemyBackend(url, **{'timeout': 30, **settings})", True),
        ("SQLAlchemyBackend(url, **settings)", False),
        ("SQLAlchemyBackend('sqlite+aiosqlite://')", False),
        ("backend_from_url(f'{url}?timeout=30')", True),
        ("backend_from_url(url)", False),
        ("RedisBackend('redis://localhost')", True),
        ("RedisBackend(f'redis://127.0.0.1:{port}')", False),
        ("run('from here import SQLAlchemyBackend\\nSQLAlchemyBackend(url)')", False),
    ],
)
def test_a_backend_without_a_limit_is_found(program: str, limited: bool) -> None:
    [(function, call)] = makers_in(ast.parse(f"def made():\n    {program}"))
    assert (function, has_limit(call)) == ("made", limited)
