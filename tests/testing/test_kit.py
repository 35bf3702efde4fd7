"""What authors of stores and backends are promised of the kit: names, ids, verdicts, and its command line."""

import runpy
import sys
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anyio
import pytest

import starsessions.stores
import starsessions.testing
from starsessions.stores import MemoryStore
from starsessions.testing import Contract, NoVerdict, OpenStore, Verdict, broken_stores, store_verdicts
from starsessions.testing import __main__ as command_line
from starsessions.testing.__main__ import main
from starsessions.testing.conformance.backend_rules import BACKEND
from starsessions.testing.conformance.broken_stores import opener
from starsessions.testing.conformance.cookie_rules import COOKIE
from starsessions.testing.conformance.right_stores import Entries, Right
from starsessions.testing.conformance.store_rules import STORE
from starsessions.testing.conformance.verdict import ends, verdicts

IDS = Path(__file__).with_name("rule_ids.txt")
DECLINES = {"durable": "it is memory", "sweeps": "each write sweeps"}
_stores: dict[str, MemoryStore] = defaultdict(MemoryStore)


def open_right_store(name: str) -> MemoryStore:
    """For the command line, which imports it."""
    return _stores[name]


class FourMethods:
    """What a store has at least."""

    def __init__(self) -> None:
        store = MemoryStore()
        self.get, self.create, self.replace, self.delete = store.get, store.create, store.replace, store.delete


_small_stores: dict[str, FourMethods] = defaultdict(FourMethods)


def open_small_store(name: str) -> FourMethods:
    return _small_stores[name]


open_wrong_store = opener(next(kind for kind in Right.__subclasses__() if kind.__name__ == "Upserts"))


def test_the_ids_of_the_rules_are_those_of_the_last_release() -> None:
    """They stand in the reports and exclusions of others. A rule may be added; write down its id then."""
    now = [f"{name} {rule.__name__}" for name, contract in CONTRACTS.items() for rule in contract]
    assert now == IDS.read_text("utf-8").splitlines()


CONTRACTS = {"store": STORE, "backend": BACKEND, "cookie": COOKIE}


@pytest.mark.parametrize("module", [starsessions.testing, starsessions.stores], ids=lambda module: module.__name__)
def test_all_that_an_author_needs_comes_from_one_place(module: object) -> None:
    assert [name for name in module.__all__ if not hasattr(module, name)] == []  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"module 'starsessions\.\w+' has no attribute 'nothing'"):
        module.nothing  # type: ignore[attr-defined] # noqa: B018


def test_a_broken_store_says_what_is_wrong_with_it() -> None:
    stores = {store.name: store for store in broken_stores()}
    assert repr(stores["Upserts"]) == "<BrokenStore: Upserts>"
    assert all(store.mistake and store.rejected_by for store in stores.values())
    open_store = stores["Upserts"].open_stores()
    assert isinstance(open_store("a place"), Right)
    shared = stores["KnowsNoPrefix"].open_stores()
    assert shared("one").entries is shared("other").entries  # type: ignore[union-attr]
    assert isinstance(shared("one").entries, Entries)  # type: ignore[union-attr]


# Verdicts


@pytest.mark.anyio
async def test_each_rule_has_a_verdict_with_its_reason() -> None:
    proved = [verdict async for verdict in store_verdicts(open_right_store, declines=DECLINES)]
    assert [verdict.rule for verdict in proved] == [rule.__name__ for rule in STORE]
    assert {verdict.outcome for verdict in proved} == {"kept", "declined"}
    assert Verdict("entries_outlive_their_connections", "declined", "it is memory") in proved
    wrong = {one.rule: one async for one in store_verdicts(open_wrong_store)}
    assert wrong["create_refuses_a_key_that_is_in_use"].outcome == "broken"
    assert "Conflict was not raised" in wrong["create_refuses_a_key_that_is_in_use"].why


@pytest.mark.anyio
async def test_a_rule_that_does_not_end_is_no_verdict() -> None:
    with pytest.raises(NoVerdict, match="no verdict"):
        await ends(anyio.sleep_forever(), after=0)
    with pytest.raises(ValueError, match="broken"):
        await ends(fails())


async def fails() -> None:
    raise ValueError("broken")


@pytest.mark.anyio
async def test_a_rule_without_a_verdict_ends_the_run() -> None:
    contract = Contract[object]({})

    @contract.rule()
    async def it_ends(place: object) -> None:
        """It does not."""
        raise NoVerdict("given up")

    with pytest.raises(NoVerdict, match="given up"):
        async for _ in verdicts(contract, nullcontext, {}):
            pass


@pytest.mark.anyio
async def test_an_error_without_words_is_named() -> None:
    contract = Contract[object]({})

    @contract.rule()
    async def it_works(place: object) -> None:
        """It does not."""
        raise ZeroDivisionError

    proved = [one async for one in verdicts(contract, nullcontext, {})]
    assert proved == [Verdict("it_works", "broken", "ZeroDivisionError")]


# The command line

HERE = "tests.testing.test_kit"
DECLINED = [f"--decline={name}={reason}" for name, reason in DECLINES.items()]


@pytest.mark.parametrize("event_loop", ["asyncio", "trio"])
def test_a_store_is_checked_without_pytest(capsys: pytest.CaptureFixture[str], event_loop: str) -> None:
    assert main([f"{HERE}:open_right_store", *DECLINED, "--event-loop", event_loop]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == [rule.__name__ for rule in STORE]
    assert "declined entries_outlive_their_connections: it is memory" in lines
    assert "kept     versions_never_repeat" in lines


def test_a_broken_store_ends_with_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main([f"{HERE}:open_wrong_store", "--largest-value", "100000"]) == 1
    said = capsys.readouterr().out
    assert "broken   create_refuses_a_key_that_is_in_use: Conflict was not raised" in said
    assert len(said.splitlines()) == len(list(STORE))


@pytest.mark.parametrize("arguments", [[], ["no_colon"], ["--event-loop", "twisted"]], ids=str)
def test_invalid_arguments_are_reported(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m starsessions.testing" in capsys.readouterr().err


def test_it_is_run_as_a_module_and_ends_with_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command_line.__file__
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["testing", f"{HERE}:open_right_store", *DECLINED])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(command_line.__file__, run_name="__main__")
    assert ended.value.code == 0


def test_a_capability_is_declined_with_a_reason() -> None:
    with pytest.raises(ValueError, match="with a reason"):
        main([f"{HERE}:open_right_store", "--decline", "sweeps"])


def test_the_command_line_says_which_capabilities_a_store_seems_to_lack(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{HERE}:open_small_store", *DECLINED]) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == len(list(STORE))
    lacking = ["owners", "scan", "announcements", "batches", "joins"]
    assert said.err == (
        "The store keeps no rule of some capabilities. If it is meant to lack them, decline each with a reason: "
        + " ".join(f"--decline {name}=REASON" for name in lacking)
        + "\n"
    )
    assert main([f"{HERE}:open_small_store", *DECLINED, *(f"--decline={name}=none" for name in lacking)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("declines", [["owners"], "owners", ("owners",)], ids=str)
def test_capabilities_are_declined_in_a_dict(declines: Any) -> None:
    with pytest.raises(TypeError, match=r"^declines is a dict of names and reasons, such as"):
        STORE.why_declined(next(iter(STORE)), declines)


def test_the_rules_show_on_the_command_line_that_they_reject_what_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    upserts, counts = [store for store in broken_stores() if store.name in ("Upserts", "CountsEachEntry")]
    monkeypatch.setattr("starsessions.testing.__main__.broken_stores", lambda: [upserts])
    assert main(["--self-test"]) == 0
    assert capsys.readouterr().out == "rejected Upserts: `SET key value`: the version is not checked.\n"
    upserts.rejected_by = counts.rejected_by  # as if rules had been lost
    assert main(["--self-test"]) == 1
    assert capsys.readouterr().out.startswith("MISSED Upserts")


def test_the_types_are_those_of_the_suite() -> None:
    one: OpenStore = open_right_store
    assert one("a") is one("a")
