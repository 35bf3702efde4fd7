"""The page about the command line shows what the commands print: each is run, on the application of the page.

With STARSESSIONS_RECORD=1, it is written anew with what they print now.
"""

import itertools
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from starsessions.backends import epochs, user_index
from starsessions.core.encoding import to_base64url
from starsessions.stores.sqlalchemy.store import SQLAlchemyStore
from tests.cli.conftest import Command, Shop, sign_in
from tests.docs.pages import DOCS
from tests.site import Browser, Site

pytestmark = pytest.mark.once

PAGE = DOCS / "reference" / "command-line.md"
NOON, DAY = 1_800_000_000 + 4 * 3600, 24 * 3600
FIREFOX = b"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
SAFARI = b"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
Version/18.0 Mobile/15E148 Safari/604.1"

BLOCK = re.compile(r"```console\n(.*?)```\n", re.DOTALL)


def people_sign_in(shop: Shop, *people: tuple[str, bytes, str], moments: Iterator[float]) -> None:
    async def act(backend: Any) -> None:
        site = Site(backend=backend, autoload=True)
        for person, agent, method in people:
            time_of_day[0] = next(moments)
            browser, client = Browser(), ("203.0.113.9", 1)
            headers = [(b"user-agent", agent)]
            await site.visit(sign_in(person, method=method), browser, headers=headers, client=client)
            await site.visit(lambda session: session.update(cart=["tea"]), browser)

    shop.run(act)


time_of_day = [float(NOON)]


async def server_time(store: SQLAlchemyStore) -> float:
    return time_of_day[0]


@pytest.fixture
def shop_of_the_page(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """The application of the page in a folder, always at the same time, and with the same handles and keys."""
    [source] = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "shop.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    time_of_day[0] = NOON
    numbers = itertools.count()
    monkeypatch.setattr(time, "time", lambda: time_of_day[0])
    for module in (epochs, user_index):
        monkeypatch.setattr(module, "urandom", lambda size: next(numbers).to_bytes(size))
    monkeypatch.setattr("starsessions.cli.looking.token_urlsafe", lambda size: to_base64url(sha256(b"key").digest()))
    monkeypatch.setattr(SQLAlchemyStore, "time", server_time)
    monkeypatch.setenv("STARSESSIONS_APP", "")
    yield Shop("sqlite+aiosqlite:///shop.db")
    sys.modules.pop("shop", None)


def replayed(page: str, run: Callable[[str], str], before: Callable[[int], None]) -> str:
    """Return the page with what its commands print."""
    numbers = itertools.count()

    def block(match: re.Match[str]) -> str:
        before(next(numbers))
        commands = [line for line in match[1].splitlines() if line.startswith("$ ")]
        return "```console\n" + "".join(f"{line}\n{run(line[2:])}" for line in commands) + "```\n"

    return BLOCK.sub(block, page)


def test_the_page_shows_what_the_commands_print(
    command: Command, shop_of_the_page: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = 0

    def run(line: str) -> str:
        nonlocal code
        words = shlex.split(line)
        if words[0] == "export":
            monkeypatch.setenv(*words[1].split("=", 1))
            return ""
        if words == ["echo", "$?"]:
            return f"{code}\n"
        assert words[0] == "starsessions"
        said = command(*words[1:])
        code = said.code
        return said.out + said.err

    def before(number: int) -> None:
        if number == 2:
            moments = iter([NOON - 8000.0, NOON - 3600.0, NOON - 60.0, NOON - 15 * DAY])
            people = [("ann", FIREFOX, "passkey"), ("ann", SAFARI, "password"), ("bob", FIREFOX, "password")]
            people.append(("dora", FIREFOX, "password"))  # and has not come back since
            people_sign_in(shop_of_the_page, *people, moments=moments)
            time_of_day[0] = NOON
        if number == 8:
            people_sign_in(shop_of_the_page, ("carl", FIREFOX, "passkey"), moments=iter([NOON]))

    page = PAGE.read_text("utf-8")
    shown = replayed(page, run, before)
    if "STARSESSIONS_RECORD" in os.environ:
        PAGE.write_text(shown, "utf-8")
    assert shown == page


def test_a_page_that_shows_something_else_is_noticed() -> None:
    page = "```console\n$ starsessions keygen\nanother\n```\n"
    shown = replayed(page, lambda line: "a key\n", lambda number: None)
    assert shown == page.replace("another", "a key")
