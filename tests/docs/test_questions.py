"""Each question of questions.toml is answered where it says, in at most two links from the home page."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import DOCS, headings, section
from tests.docs.test_links import distances
from tests.rows import rows

pytestmark = pytest.mark.once

QUESTIONS: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("questions.toml").read_text("utf-8"))
LANGUAGES = {True: {"python"}, "shell": {"", "console"}, "nginx": {"nginx"}}
HOPS = distances(DOCS / "index.md", 2)


def test_there_are_the_sixty_questions_and_perhaps_more() -> None:
    assert len(QUESTIONS) >= 60


@rows("name", QUESTIONS)
def test_the_question_is_answered(name: str) -> None:
    asked = QUESTIONS[name]
    assert set(asked) <= {"question", "page", "heading", "words", "code"}
    page = DOCS / asked["page"]
    assert HOPS[page] <= 2
    text, blocks = section(page, asked.get("heading", headings(page)[0]))
    assert [word for word in asked["words"] if word.lower() not in text.lower()] == []
    if code := asked.get("code", True):
        assert LANGUAGES[code] & {block.language for block in blocks}, "the answer needs code"


@rows("name", QUESTIONS)
def test_one_of_its_words_is_in_a_title_or_heading(name: str) -> None:
    page = DOCS / QUESTIONS[name]["page"]
    titles = " ".join(headings(page)).lower()
    assert any(word.lower() in titles for word in QUESTIONS[name]["words"])
