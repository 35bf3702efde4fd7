"""What a developer has to know is logged once, or once in a while."""

import logging

import pytest

from starsessions.notices import MOST, Notices
from starsessions.testing import Clock


def test_a_message_is_logged_once_for_each_key(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    assert [notices.warn(key, "about %s", key) for key in ("a", "b", "a", "b")] == [True, True, False, False]
    assert [record.getMessage() for record in caplog.records] == ["about a", "about b"]
    assert {record.name for record in caplog.records} == {"starsessions"}


def test_a_message_that_recurs_is_logged_again_after_its_interval(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(1000)
    notices = Notices(clock)
    logged = []
    for seconds in (0, 59, 1, 59, 1):
        clock.advance(seconds)
        logged.append(notices.warn("outage", "The store failed.", every=60, level=logging.ERROR))
    assert logged == [True, False, True, False, True]
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_a_stranger_who_makes_up_paths_fills_neither_the_log_nor_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    logged = [notices.warn(("path", number), "about a path") for number in range(MOST + 50)]
    assert logged == [True] * MOST + [False] * 50
    assert len(caplog.records) == MOST
    assert notices.warn("planted", "Nor does it keep other messages out of the log.")
    assert notices.warn(("another kind", "/"), "Nor those about the paths of another kind.")


def test_a_stranger_forges_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    notices.warn(
        "path", "The response of %s: %d, %s", "/a\nCRITICAL forged \x1b[31m\u2028", 200, "/straße " + "x" * 9999
    )
    assert caplog.records[0].getMessage() == (
        r"The response of /a\nCRITICAL forged \x1b[31m\u2028: 200, /straße " + "x" * 192
    )
