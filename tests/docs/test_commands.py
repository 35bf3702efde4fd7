"""The commands on the pages are those that the tests run, and their conditions are beside them."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, documents, name_of
from tests.rows import rows
from tests.wide.asgi import SERVERS

pytestmark = pytest.mark.once

RECIPES = sorted(file for file in (ROOT / "examples" / "deploy").rglob("*") if file.is_file())


def test_gunicorn_runs_the_worker_that_the_tests_run() -> None:
    """`uvicorn.workers` of uvicorn itself warns that it is deprecated, as soon as it is imported."""
    told = {worker for page in documents() for worker in re.findall(r"gunicorn -k (\S+)", page.read_text("utf-8"))}
    run = {words[words.index("-k") + 1] for words in SERVERS.values() if words[0] == "gunicorn"}
    assert told == run == {"uvicorn_worker.UvicornWorker"}


@rows("file", [*documents(), *RECIPES], ids=name_of)
def test_a_command_that_trusts_each_address_says_when_that_is_safe(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if re.search(r"""--forwarded-allow-ips[\s"',=]+\*["']""", line):
            assert re.search(r"[Oo]nly .*proxy", above + line), line


def test_the_site_names_the_address_of_the_repository_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    address = project.get("urls", {}).get("Repository")
    install = (DOCS / "tutorials" / "install.md").read_text("utf-8")
    assert f"git clone {address or 'ADDRESS'} starsessions\n" in install
    assert ("no public address" in install) == (address is None)
    assert re.findall(r"^repo_url: (.*)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE) == (
        [address] if address else []
    )
