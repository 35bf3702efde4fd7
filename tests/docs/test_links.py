"""Links lead somewhere, commands install this package only, and each page can be reached."""

import re
from itertools import takewhile
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, README, ROOT, anchors, blocks, documents, links, name_of, pages, text_without_code
from tests.rows import rows

pytestmark = pytest.mark.once

REGISTRIES = re.compile(r"https?://[^\s)>\]]*(pypi|pythonhosted|anaconda|npmjs)", re.IGNORECASE)
OF_OTHERS = {"fastapi", "uvicorn", "python-multipart", "-r requirements.txt"}
"""What the documents may install besides this package."""


@rows("document", documents(), ids=name_of)
def test_every_link_leads_somewhere_and_none_to_a_registry(document: Path) -> None:
    assert REGISTRIES.search(document.read_text(encoding="utf-8")) is None
    for link in links(document):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_file(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


@rows("page", pages(), ids=name_of)
def test_a_page_of_the_site_links_to_nothing_outside_of_it(page: Path) -> None:
    paths = [link.partition("#")[0] for link in links(page) if not re.match(r"[a-z]+:", link)]
    assert [path for path in paths if not (page.parent / path).resolve().is_relative_to(DOCS)] == []


def test_every_page_is_at_most_two_links_from_the_home_page() -> None:
    assert set(pages()) - set(distances(DOCS / "index.md", 2)) == set()


def distances(start: Path, most: int) -> dict[Path, int]:
    """Return how many links each page is from a page, at most so far."""
    found, border = {start: 0}, [start]
    for hops in range(1, most + 1):
        border = [target for page in border for target in targets(page) if target not in found]
        found.update(dict.fromkeys(border, hops))
    return found


def targets(page: Path) -> list[Path]:
    paths = [link.partition("#")[0] for link in links(page) if not re.match(r"[a-z]+:", link)]
    return [(page.parent / path).resolve() for path in paths if path.endswith(".md")]


def test_commands_install_this_package_from_a_checkout() -> None:
    for document in documents():
        for block in blocks(document):
            for packages in re.findall(r"pip install ([^#\n]*)", block.code):
                allowed = packages.strip() in OF_OTHERS or re.fullmatch(
                    r'"\./starsessions(\[[a-z,]+\])?"', packages.strip()
                )
                assert allowed, f"{name_of(document)}: pip install {packages}"


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    text = README.read_text(encoding="utf-8")
    assert 6_000 <= len(text.encode()) <= 8_000
    assert all(f"`scripts/{command}`" in text for command in ("demo", "test", "docs"))
    assert all((ROOT / "scripts" / command).is_file() for command in ("demo", "test", "docs"))


GUIDES = [page for page in pages() if page.is_relative_to(DOCS / "guides") and page.name != "index.md"]


@rows("page", GUIDES, ids=name_of)
def test_a_guide_begins_with_code_or_a_table(page: Path) -> None:
    prose = page.read_text(encoding="utf-8").split("\n\n")[1:]
    before = list(takewhile(lambda part: not part.startswith(("```", "|")), prose))
    assert sum(len(part.splitlines()) for part in before) <= 8, before
    assert text_without_code(page).startswith("# ")


LONGER = {
    "guides/data/typed.md",
    "guides/extend/test-a-store.md",
    "guides/front-ends/csrf.md",
    "guides/front-ends/open-streams.md",
    "guides/front-ends/websockets.md",
    "guides/production/logs-and-metrics.md",
    "guides/production/proxy.md",
    "guides/production/sizes.md",
    "guides/users/callbacks.md",
    "guides/users/provider-logout.md",
}
"""Variants of an application, two processes, defences, endpoints and streams, four proxies, measurements, three ways, a
round.
"""


@rows("page", GUIDES, ids=name_of)
def test_a_guide_is_short(page: Path) -> None:
    is_longer = name_of(page) in LONGER or page.parent.name == "migrate"  # all that is called otherwise
    assert len(page.read_text(encoding="utf-8").splitlines()) <= (140 if is_longer else 90)
