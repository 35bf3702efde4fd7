"""The demo's settings, and what it says when one of them is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import starsessions
from tests.rows import rows

pytestmark = pytest.mark.once

DEMO = Path(__file__).parents[2] / "examples" / "demo"


def import_the_demo(**settings: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(DEMO), str(Path(starsessions.__file__).parents[1])])
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DEMO_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "import app"],
        env={**clean, "PYTHONPATH": path, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_empty_settings_are_the_same_as_none() -> None:
    names = ("BACKEND", "SECRET", "COOKIE", "HTTPS_ONLY", "PARTITIONED", "FRESH_FOR", "OPERATORS", "URL")
    done = import_the_demo(**{f"DEMO_{name}": "" for name in names})
    assert (done.returncode, done.stderr) == (0, "")


@rows(
    ("settings", "sentence"),
    [
        (
            {"DEMO_BACKEND": "redis"},
            "DEMO_BACKEND is 'redis'; choose one of sqlite, memory, cookie, encrypted, or pass a store's URL",
        ),
        ({"DEMO_HTTPS_ONLY": "perhaps"}, "DEMO_HTTPS_ONLY is 'perhaps'; write 1 or 0"),
        ({"DEMO_FRESH_FOR": "soon"}, "DEMO_FRESH_FOR is 'soon'; write a number of seconds"),
    ],
)
def test_a_wrong_setting_stops_the_demo_with_a_sentence(settings: dict[str, str], sentence: str) -> None:
    done = import_the_demo(**settings)
    assert done.returncode != 0
    assert done.stderr.rstrip().endswith(sentence)
