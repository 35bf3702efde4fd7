"""The commands that change nothing, and where they find the sessions."""

import json
import secrets
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from starsessions import CookieBackend
from starsessions.backends import user_index
from tests.cli.conftest import Command, Shop
from tests.rows import rows
from tests.site import KEY, Clock

pytestmark = pytest.mark.once

APP = ("--app", "tests.cli.shop:create_app()")


def test_a_new_key_is_long_and_another_one_each_time(command: Command) -> None:
    first, second = command("keygen"), command("keygen", "--json")
    assert (first.code, first.err) == (0, "")
    assert len(first.out.strip()) == 43
    assert len(json.loads(second.out)["key"]) == 43
    assert json.loads(second.out)["key"] != first.out.strip()


def test_the_sessions_of_a_user_are_listed(command: Command, shop: Shop) -> None:
    [handle, _] = shop.sign_in("ann", "bob")
    said = command("list", "ann", *APP)
    assert (said.code, said.err) == (0, "")
    [heading, line] = said.out.splitlines()
    assert heading.split() == ["HANDLE", "SIGNED", "IN", "LAST", "USED", "HOW", "WITH", "NETWORK"]
    assert line.split()[0] == handle
    assert "password" in line
    found = json.loads(command("list", "ann", *APP, "--json").out)
    assert (found["cookie"], found["app_name"], found["after"]) == ("session", "shop", None)
    assert [one["handle"] for one in found["sessions"]] == [handle]
    assert set(found["sessions"][0]) == {
        "handle",
        "began_at",
        "signed_in_at",
        "last_used_at",
        "method",
        "agent",
        "address",
    }


def test_a_long_list_has_pages(command: Command, shop: Shop) -> None:
    shop.sign_in("ann", "ann", "ann")
    first = command("list", "ann", *APP, "--limit", "2")
    assert len(first.out.splitlines()) == 4
    after = first.out.splitlines()[-1].removeprefix("More: --after ")
    second = command("list", "ann", *APP, "--limit", "2", "--after", after)
    assert len(second.out.splitlines()) == 2
    assert command("list", "eve", *APP).out == "There are no live sessions of this user.\n"
    assert command("list", "ann", *APP, "--limit", "0").code == 2


@pytest.mark.guarantee(28)
def test_a_session_is_shown_without_its_user_and_its_data(command: Command, shop: Shop) -> None:
    [handle] = shop.sign_in("ann")
    for how in ([], ["--user", "ann"]):
        said = command("show", handle, *APP, *how)
        assert (said.code, said.err) == (0, "")
        assert [line.split()[0] for line in said.out.splitlines()][:2] == ["handle", "state"]
        assert "live" in said.out
        assert "1 value, hidden" in said.out
        assert "ann" not in said.out
        assert "tea" not in said.out
    found = json.loads(command("show", handle, *APP, "--json").out)["session"]
    assert (found["user_id"], found["data"], found["values"], found["method"]) == (None, None, 1, "password")


def test_the_user_and_the_data_of_a_session_are_shown_if_asked_for(command: Command, shop: Shop) -> None:
    [handle] = shop.sign_in("ann")
    said = command("show", handle, *APP, "--show-values")
    assert '{"cart": ["tea"]}' in said.out
    assert "ann" in said.out
    found = json.loads(command("show", handle, *APP, "--show-values", "--json").out)["session"]
    assert (found["user_id"], found["data"]) == ("ann", {"cart": ["tea"]})


def test_a_handle_or_a_user_may_begin_with_a_hyphen(
    command: Command, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_index, "urandom", lambda size: b"\xf8" * size)
    [handle] = shop.sign_in("-ann")
    assert handle.startswith("-")
    assert handle in command("list", "-ann", *APP).out
    assert handle in command("show", *APP, "--user", "-ann", handle).out
    assert len(json.loads(command("export", *APP, "-ann").out)["sessions"]) == 1
    assert command("end", handle, *APP, "--dry-run").out == "1 session would end.\n"
    assert command("erase", "-ann", *APP).out.startswith("Ended 1 session.")


def test_a_session_that_is_missing_is_exit_code_1(command: Command, shop: Shop) -> None:
    shop.sign_in("ann")
    for how in ([], ["--user", "ann"]):
        said = command("show", "no-such-handle", *APP, *how)
        assert (said.code, said.out) == (1, "No session has this handle.\n")
    assert json.loads(command("show", "no-such-handle", *APP, "--json").out)["session"] is None


def test_the_data_of_a_cookie_is_not_in_the_store(command: Command, shop: Shop) -> None:
    [handle] = shop.sign_in("ann", make=lambda stored: CookieBackend(KEY, revocations=stored))
    app = ("--app", "tests.cli.shop:with_cookies()")
    assert "in the cookie, which only the browser has" in command("show", handle, *app, "--show-values").out
    assert handle in command("list", "ann", *app).out
    assert handle in command("list", "ann", "--store", shop.url, "--app-name", "shop", "--revocations").out
    assert handle not in command("list", "ann", "--store", shop.url, "--app-name", "shop").out


def test_all_that_is_stored_of_a_user_is_exported(command: Command, shop: Shop) -> None:
    [handle] = shop.sign_in("ann")
    found = json.loads(command("export", "ann", *APP).out)
    assert (found["user_id"], found["cookie"], found["history"]) == ("ann", "session", [])
    assert [(one["handle"], one["data"], one["is_live"]) for one in found["sessions"]] == [
        (handle, {"cart": ["tea"]}, True)
    ]
    for how in (["--app", "tests.cli.shop:with_history()"], [*APP, "--history", "tests.cli.shop:past"]):
        assert len(json.loads(command("export", "ann", *how).out)["history"]) == 2


def test_sessions_are_counted(command: Command, shop: Shop) -> None:
    shop.sign_in("ann", "ann", "bob")
    said = command("stats", *APP)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0].split() == ["3", "live", "sessions"]
    found = json.loads(command("stats", *APP, "--json").out)
    assert (found["app_name"], found["sessions"], found["users"], found["anonymous"]) == ("shop", 3, 2, 0)


def test_by_a_url_a_session_is_live_until_its_entry_expires(command: Command, shop: Shop) -> None:
    # In a process without the middleware, its max_age is unknown.
    clock = Clock()
    clock.now -= 100 * 24 * 3600
    month = 30 * 24 * 3600
    shop.sign_in("ann", clock=clock, max_age=12 * month)
    assert len(json.loads(command("list", "ann", "--store", shop.url, "--app-name", "shop", "--json").out)["sessions"])


def test_encrypted_sessions_are_read_with_keys_from_a_file_or_the_environment(
    command: Command, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starsessions.backends.server_side import StoreBackend

    shop.sign_in("ann", make=lambda stored: StoreBackend(stored.store, encrypt_with=KEY))
    by_url = ("export", "ann", "--store", shop.url, "--app-name", "shop")
    assert json.loads(command(*by_url).out)["sessions"] == []
    keys = tmp_path / "keys"
    keys.write_text(f"another-key-of-32-random-bytes-or-more\n{KEY}\n")
    assert json.loads(command(*by_url, "--key-file", str(keys)).out)["sessions"][0]["data"] == {"cart": ["tea"]}
    monkeypatch.setenv("STARSESSIONS_ENCRYPT_WITH", KEY)
    assert len(json.loads(command(*by_url).out)["sessions"]) == 1
    keys.write_bytes(b"\xff")
    for wrong in (keys, tmp_path / "missing"):
        said = command(*by_url, "--key-file", str(wrong))
        assert (said.code, said.err) == (2, "starsessions: The file of --key-file cannot be read as text.\n")


def test_the_application_and_the_store_can_be_in_the_environment(
    command: Command, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.sign_in("ann")
    monkeypatch.setenv("STARSESSIONS_STORE", shop.url)
    monkeypatch.setenv("STARSESSIONS_APP_NAME", "shop")
    assert json.loads(command("stats", "--json").out)["sessions"] == 1
    monkeypatch.setenv("STARSESSIONS_APP", "tests.cli.shop:create_app()")
    monkeypatch.delenv("STARSESSIONS_STORE")
    assert json.loads(command("stats", "--json").out)["sessions"] == 1
    assert "S203" in command("check").out
    # An option comes before a variable.
    monkeypatch.setenv("STARSESSIONS_APP", "tests.cli.shop:in_memory()")
    assert json.loads(command("stats", "--store", shop.url, "--json").out)["sessions"] == 1
    monkeypatch.setenv("STARSESSIONS_STORE", shop.url)
    assert "The application has no such" in command("stats").err
    assert "The application has no such" in command("stats", "--store", shop.url).err
    assert json.loads(command("stats", *APP, "--json").out)["sessions"] == 1


def test_one_of_several_middlewares_is_chosen_by_its_names(command: Command, shop: Shop) -> None:
    shop.sign_in("ann", session_cookie="shop")
    app = ("--app", "tests.cli.shop:with_two_cookies()")
    said = command("list", "ann", *app)
    assert (said.code, said.out) == (2, "")
    assert "choose one with --cookie (admin, shop)" in said.err
    for names, count in ((["--cookie", "shop"], 1), (["--app-name", "shop"], 1), (["--cookie", "admin"], 0)):
        assert len(json.loads(command("list", "ann", *app, *names, "--json").out)["sessions"]) == count
    said = command("list", "ann", *app, "--cookie", "other")
    assert "no such SessionMiddleware. The cookies are: admin, shop." in said.err


WRONG = {
    ("--app", "tests.cli.shop"): "must be module:name",
    ("--app", ":app"): "must be module:name",
    ("--app", "tests.cli.no_such_module:app"): "No module named",
    ("--app", "tests.cli.shop:no_such_name"): "has no attribute 'no_such_name'",
    ("--app", "tests.cli.shop:is_misconfigured()"): "A setting is wrong: correct it.",
    ("--app", "tests.cli.shop:fails()"): "could not be loaded: RuntimeError.",
    ("--app", "tests.cli.shop:misconfigured()"): "The application cannot start: max_age",
    ("--app", "tests.cli.shop:without_sessions()"): "There is no SessionMiddleware",
    ("--app", "tests.cli.shop:in_memory()"): "no other can see them",
    ("--app", "tests.cli.shop:in_browsers()"): "there is no store to look at",
    ("--store", "memory://"): "no other can see them",
    ("--store", "nonsense://secret@localhost"): "The scheme of the URL is unknown",
    (): "Say where the sessions are: --app module:app or --store URL",
}


@pytest.mark.guarantee(28)
@rows("where, why", list(WRONG.items()))
def test_what_cannot_be_used_is_said_in_one_sentence(
    command: Command, where: tuple[str, ...], why: str, empty_shop: Shop
) -> None:
    for words in (["stats"], ["sweep"]):
        said = command(*words, *where)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert said.err.startswith("starsessions: ")
        assert why in said.err
        assert "secret" not in said.err


@rows("words", [[], ["--help"]])
def test_without_a_command_the_help_is_shown(command: Command, words: list[str]) -> None:
    said = command(*words)
    assert (said.code, said.err) == (0, "")
    for name in ["check", "create-table", "end", "erase", "export", "keygen", "list", "show", "stats", "sweep"]:
        assert f"\n  {name} " in said.out
    assert "130  interrupted with Ctrl-C" in said.out


@rows("words", [["no-such-command"], ["list"], ["list", "ann", "--no-such-option"], ["list", "ann", "--limit", "many"]])
def test_a_command_that_is_written_wrongly_is_exit_code_2(command: Command, words: list[str]) -> None:
    said = command(*words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.endswith("See --help.\n")


def test_no_line_of_a_help_is_too_long_and_each_option_is_explained(command: Command) -> None:
    for name in ["check", "create-table", "end", "erase", "export", "keygen", "list", "show", "stats", "sweep"]:
        said = command(name, "--help")
        assert said.out.startswith(f"Usage: starsessions {name} ")
        lines = said.out.splitlines()
        assert max(map(len, lines)) <= 100
        for line, following in pairwise(lines):
            if line.startswith("  --"):
                assert "  " in line.strip() or following.startswith(" " * 22), line


def test_what_users_have_chosen_cannot_control_the_terminal(command: Command, shop: Shop) -> None:
    evil = "\x1b[2Jann\r\u202e"
    [handle] = shop.sign_in(evil)
    said = command("show", handle, *APP, "--show-values", "--user", evil)
    assert "�[2Jann��" in said.out
    assert "\x1b" not in command("export", evil, *APP).out


def test_what_the_library_logs_is_not_on_the_screen(command: Command, shop: Shop) -> None:
    assert command("stats", "--app", "tests.cli.shop:noisy()").err == ""


def test_an_application_is_found_in_the_folder_where_one_is(
    command: Command, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"shop_{secrets.token_hex(4)}"
    (tmp_path / f"{name}.py").write_text("from tests.cli.shop import create_app\n\napp = create_app()\n")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert command("stats", "--app", f"{name}:app").code == 0
    assert sys.path.count(str(tmp_path)) == 1


# The checks


def test_a_deployment_that_is_right_has_no_findings(command: Command, shop: Shop) -> None:
    said = command("check", "tests.cli.shop:ready_to_deploy()")
    assert (said.code, said.out, said.err) == (0, "Nothing was found.\n", "")
    assert json.loads(command("check", "tests.cli.shop:ready_to_deploy()", "--json").out) == {"findings": []}


def test_findings_are_exit_code_1_unless_they_are_silenced_or_less_severe(command: Command) -> None:
    said = command("check", "tests.cli.shop:in_memory()", "--workers", "2")
    assert said.code == 1
    numbers = [line.split()[0] for line in said.out.splitlines() if line.startswith("S")]
    assert numbers
    found = json.loads(command("check", "tests.cli.shop:in_memory()", "--workers", "2", "--json").out)["findings"]
    assert [one["number"] for one in found] == numbers
    assert set(found[0]) == {"number", "severity", "sentence", "cure", "cookie", "page"}
    silence = [word for number in numbers for word in ("--silence", number)]
    assert command("check", "tests.cli.shop:in_memory()", "--workers", "2", *silence).code == 0
    assert command("check", "tests.cli.shop:without_sessions()", "--fail-on", "error").code == 1
    assert command("check", "tests.cli.shop:in_browsers()", "--fail-on", "error").code == 0
    assert command("check", "tests.cli.shop:in_browsers()", "--fail-on", "info").code == 1


def test_a_check_finds_what_the_library_itself_says_of_the_settings(command: Command, shop: Shop) -> None:
    said = command("check", "tests.cli.shop:with_a_setting_without_effect()")
    assert 'S005 warning: on_conflict="raise" has no effect' in said.out
    assert said.err == ""


def test_timeouts_are_held_against_a_level_of_assurance(command: Command, shop: Shop) -> None:
    for level, code in (("1", 0), ("2", 0), ("3", 1)):
        assert command("check", "tests.cli.shop:ready_to_deploy()", "--aal", level).code == code


def test_a_number_is_explained(command: Command) -> None:
    said = command("check", "--explain", "s201")
    assert said.code == 0
    assert said.out.startswith("S201 error: https_only=False")
    assert "There is no check S999" in command("check", "--explain", "S999").err


@rows("words, why", [([], "which application to check"), (["tests.cli.shop:create_app()", "--silence", "S9"], "S9")])
def test_a_check_of_nothing_or_with_an_unknown_number_is_refused(
    command: Command, words: list[str], why: str, empty_shop: Shop
) -> None:
    said = command("check", *words)
    assert said.code == 2
    assert why in said.err
