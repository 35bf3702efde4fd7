"""The tests of the shell, once more, with telemetry: nothing behaves differently, and only known words are exported."""

import subprocess
import sys

import pytest

from tests.docs.pages import ROOT
from tests.telemetry.everywhere import is_known

WITH_ALL_OUTCOMES = (
    *("commit", "events", "outage", "rotation", "rubbish", "several", "sign_in", "timeouts", "users"),
    "websocket",
)


@pytest.mark.guarantee(28)
@pytest.mark.once
def test_all_that_the_tests_of_the_shell_export_are_words_of_this_library() -> None:
    files = [f"tests/shell/test_{name}.py" for name in WITH_ALL_OUTCOMES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.telemetry.everywhere"]
    ran = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    assert "These are not known: []" in ran.stdout


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("user.id", "ann"),
        ("starsessions.handle", "aGFuZGxlLWhhbmRs"),
        ("starsessions.method", "a method"),
        ("error.type", "The store failed: Errno 111"),
        ("an event", "exception"),
        ("a description", ""),
    ],
)
def test_any_other_text_would_be_found(key: str, value: str) -> None:
    assert not is_known(key, value)
