"""The documents, the examples and tests/typing use public names only, and tests/typing uses all of them."""

import ast
import importlib
import re
from collections.abc import Iterator
from textwrap import dedent

import pytest

from tests.docs.pages import ROOT, blocks, documents, public_modules

pytestmark = pytest.mark.once

MODULES = public_modules()
NAMES = {f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__}
TYPED = sorted((ROOT / "tests" / "typing").glob("*.py"))


def used(source: str) -> Iterator[str]:
    """Yield the dotted names that a source uses of this package: what it imports, and attributes of such modules."""
    tree = ast.parse(source)
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported = {one.asname or one.name: one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported = {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
        else:
            continue
        yield from (name for name in imported.values() if name.partition(".")[0] == "starsessions")
        modules |= {name: dotted for name, dotted in imported.items() if dotted in MODULES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in modules:
            yield f"{modules[ast.unparse(node.value)]}.{node.attr}"


def sources() -> Iterator[tuple[str, str]]:
    """Yield every Python source that shows how the package is used, each with its place."""
    for file in [*sorted((ROOT / "examples").rglob("*.py")), *TYPED]:
        yield str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")
    for document in documents():
        for block in blocks(document):
            if block.language in ("py", "python"):
                yield f"{document.relative_to(ROOT)}:{block.line}", block.code


def test_the_names_that_a_source_uses_are_found() -> None:
    source = """
        import os
        import starsessions.users
        from starsessions import Session, csrf as forms
        from starsessions.session import get_session

        starsessions.users.sign_in
        forms.verify
        os.environ
        session.user
    """
    assert sorted(used(dedent(source))) == [
        "starsessions.Session",
        "starsessions.csrf",
        "starsessions.csrf.verify",
        "starsessions.session.get_session",
        "starsessions.users",
        "starsessions.users.sign_in",
    ]


def test_type_checkers_see_a_use_of_every_public_name() -> None:
    seen = {name for file in TYPED for name in used(file.read_text(encoding="utf-8"))}
    assert sorted(NAMES - seen) == []


def test_nothing_that_shows_how_to_use_the_package_uses_a_private_name() -> None:
    allowed = NAMES | MODULES | {"starsessions.__all__"}
    told = [(place, name) for place, source in sources() for name in used(source) if name not in allowed]
    assert told == []


def test_nothing_that_shows_how_to_use_the_package_needs_a_cast() -> None:
    assert [place for place, source in sources() if re.search(r"\bcast\(", source)] == []
