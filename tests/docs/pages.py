"""Read the documents: their blocks of code, tables, headings and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
CONTINUES = "<!-- continues -->"


def documents() -> list[Path]:
    """Return every *.md of the checkout, except what tools keep in hidden directories."""
    found = list(ROOT.glob("*.md"))
    for directory in ROOT.iterdir():
        if directory.is_dir() and not directory.name.startswith(".") and directory.name != "site":
            found += directory.rglob("*.md")
    return sorted(found)


def pages() -> list[Path]:
    """Return the pages of the site."""
    return sorted(DOCS.rglob("*.md"))


def name_of(document: Path) -> str:
    return str(document.relative_to(DOCS if document.is_relative_to(DOCS) else ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its first line, its heading, and whether it continues the block before."""

    document: Path
    line: int
    heading: str
    language: str
    continues: bool
    code: str

    def run(self, namespace: dict[str, Any]) -> None:
        # As many empty lines in front as there are in the document, so that a traceback shows the document's lines.
        source = "\n" * (self.line - 1) + self.code
        exec(compile(source, str(self.document), "exec", dont_inherit=True), namespace)


Story = list[Block]
"""Python blocks that run one after the other, in one namespace."""


def section(document: Path, heading: str) -> tuple[str, list[Block]]:
    """Return the text and the blocks from a heading to the next one of its level or above."""
    plain = text_without_code(document).splitlines()
    [start] = [index for index, line in enumerate(plain) if line.startswith("#") and line.lstrip("#") == f" {heading}"]
    level = len(plain[start].partition(" ")[0])
    ends = (index for index in range(start + 1, len(plain)) if re.match(f"#{{1,{level}}} ", plain[index]))
    end = next(ends, len(plain))
    text = "\n".join(document.read_text(encoding="utf-8").splitlines()[start:end])
    return text, [block for block in blocks(document) if start < block.line <= end]


def blocks(document: Path) -> Iterator[Block]:
    lines = document.read_text(encoding="utf-8").splitlines()
    heading, index = "", 0
    while index < len(lines):
        line = lines[index]
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if line.startswith("```"):
            end = lines.index("```", index + 1)
            code = "\n".join(lines[index + 1 : end]) + "\n"
            yield Block(document, index + 2, heading, line[3:], index > 0 and lines[index - 1] == CONTINUES, code)
            index = end
        index += 1


def stories(document: Path) -> list[Story]:
    """Return the Python blocks, those that continue others together with them."""
    told: list[Story] = []
    for block in blocks(document):
        if block.language == "python":
            if block.continues:
                told[-1].append(block)
            else:
                told.append([block])
    return told


def tell(story: Story) -> dict[str, Any]:
    """Run the blocks of a story one after the other, and return what they have defined."""
    namespace: dict[str, Any] = {"__name__": "document"}
    for block in story:
        block.run(namespace)
    return namespace


def story_of(page: str, number: int = 0) -> Story:
    """Return a story of a page, by the order of its stories."""
    return stories(DOCS / page)[number]


def text_without_code(document: Path) -> str:
    """Return the text of a document, with its fenced blocks emptied. Lines keep their numbers."""
    return re.sub(
        r"^```.*?^```$",
        lambda block: "\n" * block[0].count("\n"),
        document.read_text("utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )


def headings(document: Path) -> list[str]:
    return re.findall(r"^#+ (.*)$", text_without_code(document), re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """Return what the headings of a document are called in links to them."""
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings(document)}


def links(document: Path) -> list[str]:
    """Return the targets of the links in a document, code excepted."""
    return re.findall(r"\]\(([^)\s]+)\)", text_without_code(document))


def rows(document: Path, first: str) -> list[list[str]]:
    """Return the body of the table that begins with this line."""
    lines = document.read_text(encoding="utf-8").splitlines()
    [start] = [index for index, line in enumerate(lines) if line == first]
    body = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in line.strip("|").split("|")])
    return body


def public_modules() -> set[str]:
    """Return the names of the modules that are public."""
    text = (DOCS / "reference" / "stability.md").read_text(encoding="utf-8")
    return set(re.findall(r"`(starsessions[.\w]*)`", text.partition("All other modules")[0]))
