"""The commands of the README, run in a copy of the checkout, in a folder with a space, and with nothing but bash.

The Python that they find is this one, except for pip: that only notes what it was asked for, so nothing is fetched, and
what was "installed" is what the tests run on. What `scripts/test` checks is not run here: it would be these tests
again.
"""

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.rows import rows

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "cat", "dirname", "mkdir", "rm", "sed", "sha256sum")

PYTHON = """#!/usr/bin/env bash
if [[ $1 == -m && $2 == venv ]]; then
    mkdir -p "$3/bin" && cat "$0" >"$3/bin/python" && chmod +x "$3/bin/python"
elif [[ $1 == -m && $2 == pip ]]; then
    echo "${{*@Q}}" >>"{log}"
else
    PYTHONPATH="{library}" exec "{python}" "$@"
fi
"""


class Checkout:
    """A copy of the checkout, and a machine that has one Python and few tools."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.root.mkdir()
        for name in ("scripts", "examples", "benchmarks"):
            shutil.copytree(ROOT / name, self.root / name)
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in (*TOOLS, "chmod"):
            path = shutil.which(tool)
            assert path, tool
            (self.bin / tool).symlink_to(path)
        self.log = folder / "pip.log"
        python = self.bin / "python{}.{}".format(*sys.version_info)
        python.write_text(PYTHON.format(log=self.log, library=ROOT / "src", python=sys.executable))
        python.chmod(0o755)

    @property
    def installed(self) -> list[str]:
        """What pip was asked for, so far."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def start(self, *command: str | Path, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", *command],
            cwd=self.root,
            env={"PATH": str(self.bin), "HOME": str(self.root.parent), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str | Path, **environment: str) -> tuple[int, str, str]:
        with self.start(*command, **environment) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def served(checkout: Checkout, *command: str | Path, **environment: str) -> str:
    """The page that the demo serves at the address that it prints; then the demo is stopped."""
    with checkout.start(*command, **environment) as process:
        try:
            assert process.stdout
            assert process.stderr
            lines = iter(process.stdout.readline, "")
            address = next(line.strip() for line in lines if line.startswith("http://127.0.0.1:"))
            assert any("Uvicorn running" in line for line in iter(process.stderr.readline, ""))
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(address, timeout=30) as response:
                page: str = response.read().decode()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    return page


def test_the_demo_installs_its_dependencies_once_and_serves_the_page(checkout: Checkout) -> None:
    assert 'id="sign-in-title"' in served(checkout, "scripts/demo", "--port", "0")
    first = checkout.installed
    assert any("--group' 'demo" in line and "--editable" in line for line in first), first
    assert 'id="sign-in-title"' in served(checkout, "scripts/demo", PORT="0")
    assert checkout.installed == first, "the second time there is nothing to set up"


def test_the_demo_reinstalls_after_an_interruption_or_a_change_of_pins(checkout: Checkout) -> None:
    served(checkout, "scripts/demo", "--port=0")
    once = len(checkout.installed)
    (checkout.root / ".venv" / "demo" / "stamp").unlink()
    served(checkout, "scripts/demo", "--port=0")
    assert len(checkout.installed) == 2 * once
    with (checkout.root / "constraints.txt").open("a") as constraints:
        constraints.write("another==1\n")
    served(checkout, "scripts/demo", "--port=0")
    assert len(checkout.installed) == 3 * once


def test_the_demo_can_be_started_from_any_directory_and_by_any_path(checkout: Checkout) -> None:
    # With CDPATH set, `cd` prints where it went, and may go elsewhere.
    (checkout.root / "elsewhere" / "scripts").mkdir(parents=True)
    for cdpath in (".", "elsewhere"):
        assert "sign-in-title" in served(checkout, "scripts/demo", "--port=0", CDPATH=cdpath)
    assert "sign-in-title" in served(checkout, "-c", 'cd / && exec "$0" --port=0', checkout.root / "scripts" / "demo")


@rows("options", [["--help"], ["--port"], ["--port", "http"], ["--port="], ["8000"]])
def test_an_unknown_option_of_the_demo_prints_the_known_ones(checkout: Checkout, options: list[str]) -> None:
    code, out, err = checkout.run("scripts/demo", *options)
    assert (code, out, checkout.installed) == (2, "", [])
    assert "--port N" in err


def test_a_port_in_the_environment_is_checked_like_an_option(checkout: Checkout) -> None:
    code, _, err = checkout.run("scripts/demo", PORT="http")
    assert code == 2
    assert "--port N" in err


def test_an_invalid_or_used_port_is_reported(checkout: Checkout) -> None:
    code, _, err = checkout.run("scripts/demo", "--port", "70000")
    assert code == 1
    assert "Port 70000 of 127.0.0.1 is not free." in err
    assert "Traceback" not in err


def test_the_benchmark_has_an_environment_for_each_list_and_makes_each_once(checkout: Checkout) -> None:
    code, out, err = checkout.run("benchmarks/run", "--help")
    assert (code, "--quick" in out) == (0, True), err
    first = checkout.installed
    lists = sorted((checkout.root / "benchmarks" / "environments").iterdir())
    asked = [line for line in first if "hiredis" in line or "multidict" in line]
    assert len(lists) == len(asked) > 1
    for file, line in zip(lists, asked, strict=True):
        assert all(f"'{package}'" in line for package in file.read_text().splitlines() if package[0] != "#")
        assert ("--editable" in line) == (file.name == "ours.txt"), "the others must not see this package"
    assert checkout.run("benchmarks/run", "--help")[0] == 0
    assert checkout.installed == first, "the second time there is nothing to set up"


@rows("script", ["scripts/demo", "scripts/docs", "scripts/screenshots", "scripts/test", "benchmarks/run"])
def test_a_missing_or_old_python_is_reported(checkout: Checkout, script: str) -> None:
    for python in checkout.bin.glob("python*"):
        python.unlink()
    code, _, err = checkout.run(script)
    assert code == 1
    assert "No Python of 3.11 or newer with venv was found." in err


def test_what_is_not_there_for_more_pythons_is_left_out_and_told(checkout: Checkout) -> None:
    code, out, err = checkout.run("scripts/wide-pythons")
    assert (code, out, checkout.installed) == (0, "", [])
    assert "the tests on Python 3.15 3.14 are left out" in err
    assert "no free-threaded Python" in err


def test_a_free_threaded_python_gets_what_is_built_for_it(checkout: Checkout) -> None:
    [python] = checkout.bin.glob("python*")
    head, shebang, body = python.read_text().partition("bash\n")
    free_threaded = checkout.bin / "python3.15t"
    free_threaded.write_text(f"{head}{shebang}if [[ $1 == - ]]; then [[ $2 == 3.15t ]]; exit; fi\n{body}")
    free_threaded.chmod(0o755)
    code, out, err = checkout.run("scripts/wide-pythons")
    assert (code, "no free-threaded" in err) == (0, False), err
    assert "Python 3.15t in .wide/pythons/3.15t" in out
    [_, packages] = checkout.installed
    assert "'psycopg'" in packages
    assert "'redis[hiredis]'" in packages
    assert "'trio'" in packages
    assert "orjson" not in packages


@rows("options", [["--help"], ["--slow"], ["-k", "rotate"]])
def test_an_unknown_option_of_the_checks_prints_the_known_ones(checkout: Checkout, options: list[str]) -> None:
    code, out, err = checkout.run("scripts/test", *options, CDPATH=".")
    assert (code, out, checkout.installed) == (2, "", [])
    assert "--fast" in err


@rows(("options", "told"), [([], "scripts/test --fast"), (["--fast"], "newest Python only"), (["--wide"], "Wide: ")])
def test_the_checks_begin_with_what_they_run_and_name_the_shorter_way(
    checkout: Checkout, options: list[str], told: str
) -> None:
    for python in checkout.bin.glob("python*"):
        python.unlink()  # so that it ends after that
    code, out, _ = checkout.run("scripts/test", *options)
    assert (code, checkout.installed) == (1, [])
    assert told in out.splitlines()[0]


@rows("options", [["--help"], ["--port"], ["--port", "http"], ["--port="], ["build"]])
def test_an_unknown_option_of_the_docs_script_prints_the_known_ones(checkout: Checkout, options: list[str]) -> None:
    code, out, err = checkout.run("scripts/docs", *options)
    assert (code, out, checkout.installed) == (2, "", [])
    assert "--build" in err


def test_the_docs_script_installs_once_and_refuses_outdated_pages(
    checkout: Checkout,
) -> None:
    for name in ("docs", "tests"):
        shutil.copytree(ROOT / name, checkout.root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.md"), ROOT / "mkdocs.yml"]:
        shutil.copy(path, checkout.root)
    (checkout.root / "docs" / "orphan.md").write_text("# A page that no one finds")
    (checkout.root / "docs" / "project" / "changelog.md").write_text("# Of another release")
    code, _, err = checkout.run("scripts/docs", "--build")
    assert code == 1
    assert "orphan.md is not in the navigation of mkdocs.yml." in err
    assert "docs/project/changelog.md is out of date" in err
    first = checkout.installed
    assert any("--group' 'docs" in line for line in first), first
    assert checkout.run("scripts/docs", "--build")[0] == 1
    assert checkout.installed == first, "the second time there is nothing to set up"


def test_the_pictures_take_no_options(checkout: Checkout) -> None:
    code, out, err = checkout.run("scripts/screenshots", "--help")
    assert (code, out, checkout.installed) == (2, "", [])
    assert "docs/images" in err


def test_the_scripts_are_executable() -> None:
    for script in (
        "scripts/demo",
        "scripts/docs",
        "scripts/screenshots",
        "scripts/test",
        "scripts/wide-pythons",
        "benchmarks/run",
        ".ci/run",
    ):
        assert os.access(ROOT / script, os.X_OK), script
