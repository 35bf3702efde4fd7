"""What docs/explanation/architecture.md says of the structure, read from the code."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_tables import PUBLIC_NAMES, SOURCE

pytestmark = pytest.mark.once

NO_REQUEST = ("backends", "check", "cli", "core", "oidc", "pages", "sealing", "stores", "testing")
NO_REQUEST += ("health.py", "history.py", "inventory.py", "opentelemetry.py", "personal.py")
"""What serves no request's session, or is what is waited for."""

WAITED_FOR = {"backend", "index", "user_index", "epochs", "links", "store"}


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def waits_for_a_backend(tree: ast.AST) -> bool:
    waits = [node for node in ast.walk(tree) if isinstance(node, ast.Await | ast.AsyncFor | ast.comprehension)]
    names = [part for node in waits for part in ast.walk(node)]
    return any(
        (isinstance(part, ast.Attribute) and isinstance(part.value, ast.Attribute) and part.value.attr in WAITED_FOR)
        or (isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in WAITED_FOR)
        for part in names
    )


def test_only_these_modules_wait_for_a_backend_in_a_request() -> None:
    files = [file for file in SOURCE.rglob("*.py") if not file.relative_to(SOURCE).as_posix().startswith(NO_REQUEST)]
    waiting = {file.relative_to(SOURCE).as_posix() for file in files if waits_for_a_backend(tree_of(file))}
    machine = {"lifecycle/loading.py", "lifecycle/saving.py"}
    index = {"lifecycle/limits.py", "lifecycle/sign_in.py", "users.py", "watch.py"}
    new_id, start_and_stop = "session.py", "middleware.py"
    assert waiting == {*machine, *index, new_id, start_and_stop}


def test_only_these_features_read_the_state_of_a_session() -> None:
    files = [file for file in SOURCE.glob("*.py") if "__starsessions__" in file.read_text(encoding="utf-8")]
    features = {"csrf", "fastapi", "flash", "opentelemetry", "typed", "users", "watch"}
    assert {file.stem for file in files} == {"middleware", "session", *features}


def names_in(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module defines, but no type variables."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                if not (isinstance(value, ast.Call) and ast.unparse(value.func) in ("TypeVar", "ParamSpec")):
                    yield name


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_a_public_module_defines_no_name_without_an_underscore_that_is_not_public(name: str) -> None:
    module = importlib.import_module(name)
    defined = names_in(tree_of(Path(module.__file__ or "")))
    assert {one for one in defined if not one.startswith("_")} <= set(module.__all__)
