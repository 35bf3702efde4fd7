"""The command line as a process of its own, and without the package that it needs."""

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys

import pytest

from starsessions import cli
from tests.cli.conftest import Shop
from tests.cli.needs import needs_cyclopts
from tests.docs.pages import ROOT

pytestmark = pytest.mark.once

STARSESSIONS = (sys.executable, "-m", "starsessions")


def environment() -> dict[str, str]:
    """That of the tests, without what a developer has set for the command."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STARSESSIONS_")}


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    needs_cyclopts()
    return subprocess.run(
        [*STARSESSIONS, *words], capture_output=True, text=True, cwd=ROOT, env=environment(), check=False
    )


def test_a_process_prints_its_result_and_ends_with_its_exit_code(shop: Shop) -> None:
    [handle] = shop.sign_in("ann")
    done = ran("list", "ann", "--app", "tests.cli.shop:create_app()", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [one["handle"] for one in json.loads(done.stdout)["sessions"]] == [handle]
    done = ran("show", "no-such-handle", "--store", shop.url, "--app-name", "shop")
    assert (done.returncode, done.stdout, done.stderr) == (1, "No session has this handle.\n", "")


def test_a_dead_server_is_one_sentence_of_a_process() -> None:
    done = ran("stats", "--store", "redis://127.0.0.1:1/0?timeout=1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)


def test_an_interrupted_process_says_what_it_leaves_and_ends_with_130(shop: Shop) -> None:
    needs_cyclopts()
    # A process that was started in the background may ignore the signal, and Python would, too.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from starsessions.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "erase", "ann", "--app", "tests.cli.shop:that_waits()"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "It has begun.\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "Interrupted: run it again to erase the rest.\n")


def test_the_module_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    needs_cyclopts()
    monkeypatch.setattr(sys, "argv", ["starsessions", "keygen"])
    importlib.import_module("starsessions.__main__")  # which runs nothing
    monkeypatch.delitem(sys.modules, "starsessions.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("starsessions", run_name="__main__")
    assert ended.value.code == 0
    assert len(capsys.readouterr().out) == 44


def test_without_its_extra_the_command_names_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert cli.main(["keygen"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        "The command line needs a package that is missing: install the extra starsessions[cli].\n",
    )
