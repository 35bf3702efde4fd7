"""Write the parts of the documentation that are made from other files.

* docs/explanation/guarantees.md: the tests of each guarantee, from the markers `@pytest.mark.guarantee(14)`
* docs/explanation/standards.md: the tests of each requirement, from `@pytest.mark.requirement("ASVS 7.2.1")`
* docs/project/: the changelog, contributing and security pages, from the files at the root, with their links changed

    python scripts/pages.py            write them
    python scripts/pages.py --check    say what is wrong or out of date, and exit with 1

Errors are a guarantee or a requirement without a test, a marker with an unknown number or id, and a page that the
navigation lacks.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
STANDARDS = ROOT / "docs" / "explanation" / "standards.md"
GUARANTEES = ROOT / "docs" / "explanation" / "guarantees.md"
COPIES = {
    "CHANGELOG.md": "docs/project/changelog.md",
    "CONTRIBUTING.md": "docs/project/contributing.md",
    "SECURITY.md": "docs/project/security.md",
}

UNTESTED = {"ASVS 7.1.3", "ASVS 7.4.4"}
"""Requirements that only an application can meet: something is to be documented, a button is to be seen."""

Tests = dict[str, list[str]]
"""By file: the names of tests."""
Ledger = dict[int | str, Tests]
"""By number of the guarantee, or by id of the requirement: the tests."""


def marks(file: Path, marker: str) -> Iterator[tuple[str, int | str]]:
    """Yield the name of each test with a marker, and each argument of the marker."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == f"pytest.mark.{marker}":
                    for argument in decorator.args:
                        yield node.name, ast.literal_eval(argument)


def ledger(tests: Path, marker: str) -> Ledger:
    """Return which tests below a directory have a marker, by its arguments."""
    found: Ledger = {}
    for file in sorted(tests.rglob("test_*.py")):
        for name, argument in marks(file, marker):
            found.setdefault(argument, {}).setdefault(file.relative_to(tests.parent).as_posix(), []).append(name)
    return found


def folded(tests: Tests) -> list[str]:
    files = [f"* `{file}`:\n" + ",\n".join(f"  `{name}`" for name in names) for file, names in sorted(tests.items())]
    return ['<details markdown="1">', "<summary>Tests</summary>", "", *files, "", "</details>"]


def with_guarantees(page: str, tests: Ledger) -> tuple[str, list[str]]:
    """Return the page with the tests filled in, and what is wrong."""
    numbers = [int(number) for number in re.findall(r"^### (\d+)\. ", page, re.MULTILINE)]
    wrong = [f"Guarantee {number} has no test." for number in numbers if not tests.get(number)]
    wrong += [
        f"There is no guarantee {number!r}, which is named in {', '.join(files)}."
        for number, files in tests.items()
        if number not in numbers
    ]
    if [int(number) for number in re.findall(r"^<!-- tests (\d+) -->$", page, re.MULTILINE)] != numbers:
        wrong.append("Each guarantee needs the lines <!-- tests NUMBER --> and <!-- end -->, in the order of the page.")

    def filled(place: re.Match[str]) -> str:
        return "\n".join([f"<!-- tests {place[1]} -->", *folded(tests.get(int(place[1]), {})), "<!-- end -->"])

    return re.sub(r"^<!-- tests (\d+) -->$.*?^<!-- end -->$", filled, page, flags=re.MULTILINE | re.DOTALL), wrong


def requirements(page: str) -> list[str]:
    """Return the ids that the tables of the page have, as markers spell them."""
    ids: list[str] = []
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        standard = "NIST" if part.startswith("NIST") else "ASVS"
        ids += [f"{standard} {id_}" for id_ in re.findall(r"^\| (\d[\d.()]*) \|", part, re.MULTILINE)]
    return list(dict.fromkeys(ids))


def with_requirements(page: str, tests: Ledger) -> tuple[str, list[str]]:
    """Return the page with the tests filled in, and what is wrong."""
    known = requirements(page)
    needed = [id_ for id_ in known if id_.startswith(("ASVS 7.", "ASVS 3.3.", "NIST ")) and id_ not in UNTESTED]
    wrong = [f"Requirement {id_} has no test." for id_ in needed if not tests.get(id_)]
    wrong += [
        f"There is no requirement {id_!r}, which is named in {', '.join(files)}."
        for id_, files in tests.items()
        if id_ not in known
    ]
    lines = [
        f"* **{id_}**: " + ",\n  ".join(f"`{name}`" for names in tests[id_].values() for name in names)
        for id_ in known
        if id_ in tests
    ]
    filled = ['<details markdown="1">', "<summary>Tests, by id</summary>", "", *lines, "", "</details>"]
    block = "\n".join(["<!-- requirements -->", *filled, "<!-- end -->"])
    return re.sub(r"<!-- requirements -->.*?<!-- end -->", lambda _: block, page, flags=re.DOTALL), wrong


def copied(source: str, text: str, target: str) -> str:
    """Return the text of a file at the root as a page of the site: links lead from there."""
    depth = "../" * (target.count("/") - 1)

    def link(found: re.Match[str]) -> str:
        path, hash_, anchor = found[1].partition("#")
        if not path or ":" in path:
            return found[0]
        if path in COPIES:
            return f"]({Path(COPIES[path]).name}{hash_}{anchor})"
        if path.startswith("docs/"):
            return f"]({depth}{path.removeprefix('docs/')}{hash_}{anchor})"
        if path == "README.md":
            return f"]({depth}index.md)"
        raise SystemExit(f"{source}: the site has no page for the link {found[1]}")

    note = f"<!-- Made from {source} by scripts/pages.py: change it there. -->\n\n"
    return note + re.sub(r"\]\(([^)\s]+)\)", link, text)


def orphans(navigation: str) -> list[str]:
    """Return what is wrong between the navigation of mkdocs.yml and the files."""
    listed_pages = re.findall(r"[\w./-]+\.md", navigation.partition("\nnav:")[2])
    there = [page.relative_to(ROOT / "docs").as_posix() for page in sorted((ROOT / "docs").rglob("*.md"))]
    wrong = [f"{page} is not in the navigation of mkdocs.yml." for page in there if page not in listed_pages]
    wrong += [
        f"{page} is in the navigation of mkdocs.yml twice."
        for page in set(listed_pages)
        if listed_pages.count(page) > 1
    ]
    return wrong


def made() -> tuple[dict[Path, str], list[str]]:
    """Return the pages as they should be, and what is wrong."""
    tests, texts, wrong = ROOT / "tests", {}, []
    for path, fill, marker in (
        (GUARANTEES, with_guarantees, "guarantee"),
        (STANDARDS, with_requirements, "requirement"),
    ):
        texts[path], found = fill(path.read_text(encoding="utf-8"), ledger(tests, marker))
        wrong += found
    for source, target in COPIES.items():
        texts[ROOT / target] = copied(source, (ROOT / source).read_text(encoding="utf-8"), target)
    return texts, wrong


def main(arguments: list[str]) -> int:
    check = arguments == ["--check"]
    if arguments and not check:
        print(__doc__, file=sys.stderr)
        return 2
    texts, wrong = made()
    for path, text in texts.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            wrong.append(f"{path.relative_to(ROOT)} is out of date: run `python scripts/pages.py`.")
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    wrong += orphans((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
