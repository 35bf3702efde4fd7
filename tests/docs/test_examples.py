"""The examples in the documents run as they are printed."""

from pathlib import Path

import pytest

from tests.docs.pending import pending
from tests.docs.pages import README, Story, name_of, pages, stories, tell

STORIES = [story for document in [README, *pages()] for story in stories(document)]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: f"{name_of(story[0].document)}:{story[0].line}")
def test_the_example_runs(story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    why = pending("".join(block.code for block in story))
    if why:
        pytest.skip(why)
    monkeypatch.chdir(tmp_path)  # some make a file
    tell(story)
