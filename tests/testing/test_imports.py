"""Who uses the package pays nothing for its tests or extras; who uses the rules needs neither pytest nor Hypothesis."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        ("starsessions", ["starsessions.testing", "pytest", "hypothesis"]),
        ("starsessions", ["cryptography", "fastapi", "itsdangerous", "pydantic", "redis", "sqlalchemy", "trio"]),
        ("starsessions.testing.rules, starsessions.testing.races", ["pytest", "hypothesis"]),
        ("starsessions.testing.suite", ["hypothesis"]),
    ],
)
def test_an_import_brings_nothing_else_with_it(imported: str, unwanted: list[str]) -> None:
    code = f"import sys, {imported}; print([name for name in {unwanted} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
