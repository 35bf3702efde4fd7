"""The pages that are made from other files are up to date, and what is wrong with them is noticed."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import ROOT
from tests.rows import rows

pytestmark = pytest.mark.once


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = script("pages")
WORDS = script("words")


def test_all_pages_are_up_to_date_every_guarantee_has_a_test_and_every_marker_a_guarantee() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/pages.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_guarantee_without_a_test_and_a_marker_without_a_guarantee_are_errors(tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_one.py").write_text("@pytest.mark.guarantee(1, 3)\nasync def test_it_holds(): ...\n")
    page = "### 1. Kept\n\n<!-- tests 1 -->\n<!-- end -->\n\n### 2. Untested\n\n<!-- tests 2 -->\n<!-- end -->\n"
    filled, wrong = PAGES.with_guarantees(page, PAGES.ledger(tests, "guarantee"))
    assert "* `tests/test_one.py`:\n  `test_it_holds`" in filled
    assert wrong == ["Guarantee 2 has no test.", "There is no guarantee 3, which is named in tests/test_one.py."]
    again, _ = PAGES.with_guarantees(filled, PAGES.ledger(tests, "guarantee"))
    assert again == filled


def test_a_requirement_without_a_test_and_an_unknown_one_are_errors(tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_one.py").write_text(
        '@pytest.mark.requirement("ASVS 7.1.1", "ASVS 9.9.9")\ndef test_it_is_met(): ...\n'
    )
    page = "## V7\n\n| 7.1.1 | a |\n| 7.1.2 | b |\n| 7.1.3 | c |\n\n<!-- requirements -->\n<!-- end -->\n"
    filled, wrong = PAGES.with_requirements(page, PAGES.ledger(tests, "requirement"))
    assert "* **ASVS 7.1.1**: `test_it_is_met`" in filled
    assert wrong == [
        "Requirement ASVS 7.1.2 has no test.",
        "There is no requirement 'ASVS 9.9.9', which is named in tests/test_one.py.",
    ]


def test_a_page_that_the_navigation_lacks_is_an_error() -> None:
    wrong = PAGES.orphans("\nnav:\n  - Home: index.md\n")
    assert "guides/index.md is not in the navigation of mkdocs.yml." in wrong
    assert not any(line.startswith("index.md") for line in wrong)


@rows(
    ("link", "becomes"),
    [
        ("docs/guides/users/devices.md#what", "../guides/users/devices.md#what"),
        ("SECURITY.md", "security.md"),
        ("https://example.com/", "https://example.com/"),
        ("#here", "#here"),
    ],
)
def test_links_of_a_copied_page_lead_from_its_place(link: str, becomes: str) -> None:
    text = PAGES.copied("CHANGELOG.md", f"[a]({link})", "docs/project/changelog.md")
    assert text.endswith(f"[a]({becomes})")


def test_the_documents_and_examples_have_no_refused_words(capsys: pytest.CaptureFixture[str]) -> None:
    code = WORDS.main([])
    assert (code, capsys.readouterr().out) == (0, "")


def test_a_refused_word_is_found_with_its_line_and_the_word_to_write(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("A heading\n\n```\nnobody in code\n```\n`whoever` in backticks\nbut\nfor one, Nobody\n")
    assert list(WORDS.found(page, "page.md")) == [
        "page.md:8: 'Nobody': write no one, or: invalid, unknown, missing, unauthenticated",
        "page.md:7: 'but for': write except for",
    ]


@rows(
    ("said", "is_refused"),
    [
        ("Only who asks is told.", True),
        ("It is kept: who can read it reads all.", True),
        ("No wait: who\n  asks again is told.", True),
        ("Who asks is told.", True),
        ("Only those who ask are told, or anyone who asks.", False),
        ("The pages: who may see them, and who is told.", False),
        ("The user who has asked, or\nwho is signed in.", False),
        ("# Who hears it", False),
    ],
)
def test_who_without_those_is_refused_except_in_questions(tmp_path: Path, said: str, is_refused: bool) -> None:
    page = tmp_path / "page.md"
    page.write_text(said)
    assert bool(list(WORDS.found(page, "page.md"))) == is_refused


@rows(
    ("name", "text", "line"),
    [
        ("pyproject.toml", 'name = "nobody"', 1),
        ("app.yaml", "# For all.\nkind: NetworkPolicy # nobody asks", 2),
        ("nginx.conf", "# nobody asks", 1),
        ("run", "#!/bin/sh\ntrue # nobody asks", 2),
        ("run", "#!/bin/sh\n\necho 'nobody asks'", 3),
        ("lib.sh", 'echo "nobody asks"', 1),
        ("Dockerfile", "# nobody asks", 1),
        ("lib.sh", "nobody=1 && chown nobody: ${x#nobody} 'nobody'", None),
        ("Dockerfile", "USER nobody", None),
        ("LICENSE", "# nobody asks", None),
    ],
)
def test_settings_and_scripts_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, line: int | None
) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WORDS, "ROOT", tmp_path)
        code = WORDS.main(["."])
    file.unlink()
    told = f"{name}:{line}: 'nobody': write {WORDS.REFUSED['nobody']}\n" if line else ""
    assert (code, capsys.readouterr().out) == (bool(line), told)


def test_every_reason_for_an_exception_is_still_needed() -> None:
    for name, word in WORDS.ALLOWED:
        assert not word or WORDS.pattern(word).search(WORDS.prose(ROOT / name)), (name, word)
