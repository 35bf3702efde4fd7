"""Version 1.0.2, running in a process in which it is the package called `starsessions`."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("script_for_1_0_2.py")


@dataclass(frozen=True)
class Version102:
    directory: Path

    def ask(self, *jobs: list[Any]) -> list[Any]:
        """The results of the jobs that `script_for_1_0_2.py` lists."""
        done = subprocess.run(
            [sys.executable, "-I", SCRIPT, self.directory],
            input=json.dumps(jobs),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results: list[Any] = json.loads(done.stdout)
        return results

    def seal(self, secret: str, data: dict[str, Any], max_age: int = 3600) -> str:
        [cookie] = self.ask(["seal", secret, max_age, data])
        assert isinstance(cookie, str)
        return cookie

    def open(self, secret: str, cookie: str, max_age: int = 3600) -> dict[str, Any]:
        [data] = self.ask(["open", secret, max_age, cookie])
        assert isinstance(data, dict)
        return data

    def visit(self, secret: str, cookie: str | None, update: dict[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
        [[before, set_cookies]] = self.ask(["visit", secret, cookie, update])
        return before, set_cookies
