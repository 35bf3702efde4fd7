"""The clients ask everything, and the same from the same seed."""

import pytest

from tests.histories.clients import Browser, Request, World
from tests.histories.history import Answer, Operation, Seen

pytestmark = pytest.mark.once

SIGNED_IN = Seen("b0-1", "user0", "user0", "h1")


def told(request: Request, answer: Answer) -> Operation:
    return Operation(began=0.0, ended=1.0, answer=answer, **request._asdict())


def signed_in(seed: int) -> tuple[World, Browser]:
    world = World.of(seed, users=2, browsers=2)
    browser = world.browsers[0]
    world.heard(told(world.request("sign_in", browser), Answer(None, SIGNED_IN, None, "t1")))
    return world, browser


def test_the_same_seed_asks_the_same() -> None:
    def asked(seed: int) -> list[Request]:
        world, browser = signed_in(seed)
        return [world.choose(browser) for _ in range(100)]

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)


def test_a_signed_in_browser_asks_everything_but_to_begin() -> None:
    world, browser = signed_in(1)
    kinds = {world.choose(browser).kind for _ in range(1000)}
    everything = {"get", "set", "delete", "increment", "rotate", "sign_in", "sign_out", "list", "revoke", "replay"}
    assert kinds == everything | {"revoke_others", "revoke_all"}


def test_some_ask_to_end_the_sessions_of_everyone_if_that_is_wanted() -> None:
    world = World.of(1, users=2, browsers=1, ends_everyone=0.5)
    assert "revoke_everyone" in {world.choose(world.browsers[0]).kind for _ in range(20)}


def test_a_browser_without_a_cookie_begins_or_signs_in() -> None:
    world = World.of(1, users=2, browsers=1)
    assert {world.choose(world.browsers[0]).kind for _ in range(100)} == {"begin", "sign_in"}


def test_while_one_tab_changes_the_cookie_another_does_not() -> None:
    world, browser = signed_in(1)
    browser.is_moving = True
    assert not {world.choose(browser).kind for _ in range(1000)} & {"rotate", "sign_in", "sign_out", "revoke_others"}


def test_a_cookie_that_opens_nothing_is_given_up_or_signed_in_with() -> None:
    world, browser = signed_in(1)
    world.heard(told(world.request("get", browser), Answer()))
    assert {world.choose(browser).kind for _ in range(100)} == {"begin", "sign_in"}


def test_a_copy_of_a_cookie_is_tried_in_the_name_of_its_browser() -> None:
    world, browser = signed_in(1)
    world.heard(told(world.request("rotate", browser), Answer(SIGNED_IN, SIGNED_IN, None, "t2")))
    assert world.replay("t1") == Request("replay", "b0", "t1", "b0-1")
    assert browser.token == "t2"
