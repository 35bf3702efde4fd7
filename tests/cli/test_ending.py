"""The commands that change what is stored: what they end, what they ask, and what an interruption leaves."""

import asyncio
import json
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.events import Revoked
from starsessions.inventory import stats
from starsessions.stores.sqlalchemy.store import SQLAlchemyStore
from starsessions.users import UserSessions
from tests.cli.conftest import Command, Said, Shop, Terminal
from tests.rows import rows
from tests.servers.process import Address
from tests.site import KEY, Clock

pytestmark = pytest.mark.once

APP = ("--app", "tests.cli.shop:create_app()")


@pytest.fixture
def people(shop: Shop) -> list[str]:
    """The handles of two sessions of Ann and one of Bob."""
    return shop.sign_in("ann", "ann", "bob")


def counted(said: Said) -> Any:
    assert said.code == 0, said
    return json.loads(said.out)["sessions"]


def test_one_session_is_ended(command: Command, shop: Shop, people: list[str]) -> None:
    said = command("end", people[0], *APP)
    assert (said.code, said.out, said.err) == (0, "1 session ended.\n", "")
    assert shop.users() == {"ann": 1, "bob": 1}
    assert counted(command("end", people[1], "--user", "ann", *APP, "--json")) == 1
    assert shop.users() == {"ann": 0, "bob": 1}


def test_all_sessions_of_a_user_are_ended(command: Command, shop: Shop, people: list[str]) -> None:
    said = command("end", "--user", "ann", *APP)
    assert (said.code, said.out, said.err) == (0, "2 sessions ended.\n", "")
    assert shop.users() == {"ann": 0, "bob": 1}
    assert counted(command("end", "--user", "ann", *APP, "--json")) == 0


def test_the_history_is_told_of_what_ends(command: Command, shop: Shop, people: list[str]) -> None:
    from tests.cli.shop import recorded

    recorded.clear()
    app = ("--app", "tests.cli.shop:with_history()")
    command("end", people[0], *app)
    command("end", "--user", "bob", *app)
    assert [(type(event), event.handle) for event in recorded] == [(Revoked, people[0]), (Revoked, people[2])]
    command("erase", "ann", *app)  # what is erased is not remembered
    assert len(recorded) == 2


def test_the_sessions_of_everyone_are_refused(command: Command, shop: Shop, people: list[str]) -> None:
    said = command("end", "--everyone", *APP)
    assert (said.code, said.out) == (0, "The sessions of all users are refused from now on.\n")

    async def act(backend: SQLAlchemyBackend) -> int:
        return (await stats(backend, session_cookie="session", app_name="shop")).revoked

    assert shop.run(act) == 3
    assert counted(command("end", "--everyone", *APP, "--json")) is None


@rows(
    "words, count",
    [
        (["--user", "ann"], 2),
        (["--user", "eve"], 0),
        (["--everyone"], 3),
    ],
)
def test_a_dry_run_says_what_would_end(
    command: Command, shop: Shop, people: list[str], words: list[str], count: int
) -> None:
    said = command("end", *words, *APP, "--dry-run")
    assert (said.code, said.out) == (0, f"{count} sessions would end.\n")
    assert counted(command("end", *words, *APP, "--dry-run", "--json")) == count
    assert shop.users() == {"ann": 2, "bob": 1}


def test_a_dry_run_finds_a_session_by_its_handle(command: Command, shop: Shop, people: list[str]) -> None:
    assert command("end", people[2], *APP, "--dry-run").out == "1 session would end.\n"
    assert shop.users() == {"ann": 2, "bob": 1}


@rows("how", [[], ["--user", "ann"], ["--dry-run"]])
def test_a_session_to_end_that_is_missing_is_exit_code_1(
    command: Command, shop: Shop, people: list[str], how: list[str]
) -> None:
    said = command("end", "no-such-handle", *how, *APP)
    assert (said.code, said.out) == (1, "No live session has this handle.\n")


@rows("words", [[], ["--everyone", "--user", "ann"], ["a-handle", "--everyone"]])
def test_what_to_end_must_be_said_once(command: Command, shop: Shop, words: list[str]) -> None:
    said = command("end", *words, *APP)
    assert (said.code, said.out) == (2, "")
    assert "Say what to end" in said.err


def test_a_user_with_more_sessions_than_a_page_has_is_counted(
    command: Command, shop: Shop, people: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    list_all = UserSessions.list

    async def list_one(self: UserSessions, user_id: str, *, limit: int, after: str | None = None) -> Any:
        return await list_all(self, user_id, limit=1, after=after)

    monkeypatch.setattr(UserSessions, "list", list_one)
    assert command("end", "--user", "ann", *APP, "--dry-run").out == "2 sessions would end.\n"


# Erasing


def test_an_erased_user_has_nothing_left(command: Command, shop: Shop, people: list[str]) -> None:
    app = ("--app", "tests.cli.shop:with_history()")
    would = command("erase", "ann", *app, "--dry-run")
    assert would.out == "Would end 2 sessions.\nWould remove 0 other entries, and 2 of the history.\n"
    assert shop.users() == {"ann": 2, "bob": 1}
    said = command("erase", "ann", *app)
    assert (said.code, said.err) == (0, "")
    assert said.out == "Ended 2 sessions.\nRemoved 2 other entries, and 2 of the history.\n"  # the data of before
    assert shop.users() == {"ann": 0, "bob": 1}
    again = json.loads(command("erase", "ann", *APP, "--json").out)
    assert again == {
        "cookie": "session",
        "app_name": "shop",
        "dry_run": False,
        "sessions": 0,
        "entries": 0,
        "history": 0,
        "unreadable": 0,
    }


def test_an_erasure_says_what_it_could_not_read(command: Command, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from starsessions.backends.server_side import StoreBackend

    shop.sign_in("ann", make=lambda stored: StoreBackend(stored.store, encrypt_with=KEY[::-1]))
    said = command("erase", "bob", *APP)
    assert "that cannot be read with these keys." in said.out


# Cleaning up


def expired(shop: Shop, **how: Any) -> None:
    clock = Clock()
    clock.now = time.time() - 30 * 24 * 3600
    shop.sign_in("ann", "ann", "bob", clock=clock, **how)


def rows_of(shop: Shop) -> int:
    async def act(backend: SQLAlchemyBackend) -> int:
        return len((await backend.store.scan(limit=100, now=0)).entries)

    count: int = shop.run(act)
    return count


@rows("where", [("--app", "tests.cli.shop:with_two_cookies()"), ("--store", "")])
def test_what_has_expired_is_removed(command: Command, shop: Shop, where: tuple[str, str]) -> None:
    shop.sign_in("ann")
    live = rows_of(shop)
    expired(shop)
    dead = rows_of(shop) - live
    words = ("sweep", where[0], where[1] or shop.url)
    assert dead >= 3
    assert command(*words, "--dry-run").out == f"Would remove {dead} expired entries.\n"
    assert rows_of(shop) == live + dead
    said = command(*words, "--share", "1")
    assert (said.code, said.out, said.err) == (0, f"Removed {dead} expired entries.\n", "")
    assert rows_of(shop) == live
    assert json.loads(command(*words, "--json").out) == {"dry_run": False, "removed": 0, "history": 0}


def test_the_history_is_cleaned_up_as_well(command: Command, shop: Shop) -> None:
    app = ("--app", "tests.cli.shop:with_history()")
    assert json.loads(command("sweep", *app, "--dry-run", "--json").out)["history"] == 0
    said = command("sweep", *app, "--share", "1")
    assert said.out == "Removed 0 expired entries.\nRemoved 3 entries of the history.\n"


def test_a_large_store_is_counted_page_by_page(command: Command, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    expired(shop)
    scan = SQLAlchemyStore.scan

    async def one_by_one(self: Any, *, limit: int, now: int, after: str | None = None) -> Any:
        return await scan(self, limit=1, now=now, after=after)

    whole = command("sweep", *APP, "--dry-run").out
    monkeypatch.setattr(SQLAlchemyStore, "scan", one_by_one)
    assert command("sweep", *APP, "--dry-run").out == whole


@rows("share", ["0", "1.1"])
def test_the_share_of_the_time_must_make_sense(command: Command, shop: Shop, share: str) -> None:
    assert command("sweep", *APP, "--share", share).code == 2


# Tables


def test_tables_are_created_unless_they_exist(command: Command, empty_shop: Shop) -> None:
    assert command("list", "ann", *APP).code == 3
    for _ in range(2):
        said = command("create-table", *APP)
        assert (said.code, said.out, said.err) == (0, "The table is there.\n", "")
    assert command("list", "ann", *APP).code == 0
    assert json.loads(command("create-table", "--store", empty_shop.url, "--json").out) == {"tables": 1}


def test_the_table_of_the_history_is_created_as_well_and_its_connections_are_closed(
    command: Command, empty_shop: Shop
) -> None:
    from tests.cli import shop

    shop.closed.clear()
    assert command("create-table", "--app", "tests.cli.shop:with_history()").out == "2 tables are there.\n"
    assert len(shop.closed) == 1


def test_redis_has_no_table_and_needs_no_sweep(command: Command, redis_server: Address) -> None:
    where = ("--store", f"{redis_server.url}?prefix={secrets.token_hex(8)}:")
    said = command("create-table", *where)
    assert (said.code, said.out) == (2, "")
    assert "there is no table to create" in said.err
    for how in ([], ["--dry-run"]):
        assert json.loads(command("sweep", *where, *how, "--json").out)["removed"] == 0
    assert command("stats", *where).out.split()[0] == "0"


# What is asked, on a terminal only


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Lets a person sit at the terminal, who gives this answer. Returns what is shown to them."""

    def sit_down(answer: str) -> Terminal:
        shown = Terminal()
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        monkeypatch.setattr(sys, "stderr", shown)
        return shown

    return sit_down


QUESTIONS = {
    ("end", "--everyone"): "End the sessions of ALL users? [y/N] ",
    ("end", "--user", "ann"): "End 2 sessions of this user? [y/N] ",
    ("end", "HANDLE"): "End this session? [y/N] ",
    ("erase", "ann"): "End 2 sessions, and erase all that names this user? [y/N] ",
}


@rows("words, question", list(QUESTIONS.items()))
def test_a_person_is_asked_and_a_no_changes_nothing(
    command: Command, shop: Shop, people: list[str], answers: Any, words: tuple[str, ...], question: str
) -> None:
    meant = [people[0] if word == "HANDLE" else word for word in words]
    for answer in ("n\n", "\n", ""):
        shown = answers(answer)
        said = command(*meant, *APP)
        assert said.code == 1
        assert question in shown.getvalue()
        assert "Nothing was changed." in said.out + shown.getvalue()
    assert shop.users() == {"ann": 2, "bob": 1}


def test_a_yes_or_an_option_ends_them(command: Command, shop: Shop, people: list[str], answers: Any) -> None:
    answers("Yes\n")
    assert command("end", people[0], *APP).code == 0
    shown = answers("n\n")
    assert command("end", people[1], *APP, "-y").code == 0
    assert "[y/N]" not in shown.getvalue()
    assert shop.users() == {"ann": 0, "bob": 1}


@rows("words", [["end", "--user", "eve"], ["erase", "eve"]])
def test_where_no_one_is_asked_nothing_is_counted_before(command: Command, shop: Shop, words: list[str]) -> None:
    """Counting a million sessions takes as long as ending them."""

    async def listed(*args: Any, **how: Any) -> Any:
        raise AssertionError("counted")

    shop.sign_in("eve", "eve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UserSessions, "list", listed)
        assert command(*words, *APP).out.startswith(("2 sessions ended.", "Ended 2 sessions."))


@rows(
    "words, shown",
    [
        (["end", "--user", "ann"], ["Counting the sessions", "Ending the sessions"]),
        (["end", "--user", "ann", "--yes"], ["Ending the sessions"]),
        (["erase", "ann"], ["Counting what there is", "Ending sessions, and looking at all entries"]),
    ],
)
def test_a_person_is_shown_that_it_goes_on(
    command: Command, shop: Shop, people: list[str], answers: Any, words: list[str], shown: list[str]
) -> None:
    terminal = answers("y\n")
    assert command(*words, *APP).code == 0
    for what in ("Counting the sessions", "Ending the sessions", "Counting what there is", "Ending sessions, and"):
        assert (what in terminal.getvalue()) == any(what in one for one in shown)


def test_progress_is_shown_on_a_terminal_only(command: Command, shop: Shop, people: list[str], answers: Any) -> None:
    shown = answers("")
    said = command("stats", *APP, "--json")
    assert json.loads(said.out)["sessions"] == 3
    assert "Counting the entries" in shown.getvalue()


def test_a_dumb_terminal_gets_no_progress(
    command: Command, shop: Shop, answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    shown = answers("")
    assert command("stats", *APP).code == 0
    assert shown.getvalue() == ""


@rows(
    "is_terminal, variables, has_colour",
    [
        (False, {}, False),
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_there_are_colours_on_a_terminal_only(
    command: Command, shop: Shop, is_terminal: bool, variables: dict[str, str], has_colour: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        if is_terminal:
            shown = Terminal()
            patch.setattr(sys, "stdout", shown)
            command("check", "tests.cli.shop:create_app()")
            out = shown.getvalue()
        else:
            out = command("check", "tests.cli.shop:create_app()").out
        assert ("\x1b[33mwarning\x1b[0m" in out, "\x1b" in out) == (has_colour, has_colour)


# What fails


def test_a_store_that_does_not_answer_is_one_sentence(command: Command) -> None:
    # No one listens there.
    for url in ("redis://127.0.0.1:1/0?timeout=1", "postgresql://shop:secret@127.0.0.1:1/shop?timeout=1"):
        for words in (["list", "ann"], ["stats"], ["sweep"], ["erase", "ann"]):
            if words == ["sweep"] and url.startswith("redis"):
                continue
            said = command(*words, "--store", url)
            assert (said.code, said.out, said.err.count("\n")) == (3, "", 1), said
            assert "secret" not in said.err


class Closed(Terminal):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_who_stops_reading_ends_the_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        code = command("keygen").code
    assert code == 141


INTERRUPTED = {
    ("end", "--user", "ann"): "what has ended stays ended",
    ("erase", "ann"): "run it again to erase the rest",
    ("sweep",): "the next run goes on",
    ("stats",): "",
}


@rows("words, state", list(INTERRUPTED.items()))
def test_an_interruption_says_what_it_leaves(
    command: Command, shop: Shop, people: list[str], words: tuple[str, ...], state: str
) -> None:
    async def interrupted(self: Any, *args: Any, **how: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)

    # A process that was started in the background may ignore the signal, and Python would, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        for verb in ("scan", "sweep"):
            patch.setattr(SQLAlchemyStore, verb, interrupted)
        patch.setattr(UserSessions, "revoke_all", interrupted)
        said = command(*words, *APP)
    signal.signal(signal.SIGINT, before)
    assert (said.code, said.out) == (130, "")
    assert said.err == (f"Interrupted: {said.err[13:]}" if state else "")
    assert state in said.err
