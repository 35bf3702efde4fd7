"""A failure in a long run is printed when it happens: `scripts/test` runs pytest with `--at-once`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]

TESTS = """
import time
from pathlib import Path

def test_that_fails():
    assert "this" == "that", "it was wrong"

def test_that_waits_until_the_failure_is_seen():
    end = time.monotonic() + 60
    while not Path("seen").exists():
        assert time.monotonic() < end, "no one has seen the failure"
        time.sleep(0.01)
"""


def test_a_failure_is_printed_before_the_next_test_ends_and_again_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text(TESTS)
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--at-once", "-c", os.devnull, "--rootdir=.", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if "AssertionError: it was wrong" in line:
                (tmp_path / "seen").touch()
    assert "1 failed, 1 passed" in lines[-1], lines
    assert sum("AssertionError: it was wrong" in line for line in lines if line.startswith("E ")) == 2
    assert any("test_two.py::test_that_fails (call)" in line for line in lines)
