"""Messages in plain data: their order, their limits, and the requests that show them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starsessions.core import flash, merge
from starsessions.core.flash import MAX_BYTES, MAX_MESSAGES, Flash, add_flash, is_page_navigation, take_flashes
from tests.rows import rows


def read_table() -> list[tuple[str, bool]]:
    lines = (flash.__doc__ or "").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, _, *body = cells
    assert head == ["the request's headers", "page", "because"]
    return [(headers, {"yes": True, "no": False}[page]) for headers, page, _ in body]


TABLE = read_table()


@pytest.mark.guarantee(23)
@rows(("headers", "page"), TABLE)
def test_the_requests_of_the_table_show_messages_as_it_says(headers: str, page: bool) -> None:
    pairs = [header.partition(": ") for header in headers.split(", ") if header]
    assert is_page_navigation([(name.encode(), value.encode()) for name, _, value in pairs]) is page
    assert is_page_navigation([(name.upper().encode(), value.upper().encode()) for name, _, value in pairs]) is page


def test_the_table_has_twenty_two_rows() -> None:
    assert len(TABLE) == 22


def put(data: dict[str, Any], *texts: str) -> dict[str, Any]:
    for text in texts:
        add_flash(data, Flash(text), f"salt{len(data)}")
    return data


def texts(data: dict[str, Any]) -> list[str]:
    return [flash.text for flash in take_flashes(dict(data))]


def test_the_oldest_message_comes_first_whatever_the_order_of_the_keys() -> None:
    data = put({}, *map(str, range(MAX_MESSAGES)))
    put(data, "10", "11")
    assert texts(dict(reversed(data.items()))) == [str(number) for number in range(2, 12)]


@pytest.mark.guarantee(23)
def test_of_too_many_messages_the_oldest_are_dropped() -> None:
    assert texts(put({}, *map(str, range(MAX_MESSAGES + 3)))) == [str(n) for n in range(3, MAX_MESSAGES + 3)]


@pytest.mark.guarantee(23)
def test_of_too_large_messages_the_oldest_are_dropped() -> None:
    assert texts(put({}, "a" * 900, "b" * 900, "c")) == ["a" * 900, "b" * 900, "c"]
    assert texts(put({}, "a" * 900, "b" * 900, "c" * 900)) == ["b" * 900, "c" * 900]


def test_a_small_old_message_does_not_stay_behind_a_large_one_that_was_dropped() -> None:
    assert texts(put({}, "a", "b" * 900, "c" * 900, "d" * 900)) == ["c" * 900, "d" * 900]


@rows(
    ("given", "kept"),
    [
        (("a" * 1000, "b" * 50), ("a" * 1000, "b" * 50)),
        (("a" * 1001, "b" * 51), ("a" * 997 + "…", "b" * 47 + "…")),
        (("ä" * 600, "ö" * 30), ("ä" * 498 + "…", "ö" * 23 + "…")),
    ],
)
def test_a_text_or_category_of_more_than_its_maximum_is_cut_and_ends_with_an_ellipsis(
    given: tuple[str, str], kept: tuple[str, str]
) -> None:
    data: dict[str, Any] = {}
    add_flash(data, Flash(*given), "salt")
    assert take_flashes(data) == [Flash(*kept)]


def test_a_subclass_of_str_is_stored_as_str() -> None:
    class Markup(str):
        __slots__ = ()

    data = put({}, Markup("<b>"))
    [[text, _]] = data.values()
    assert type(text) is str


def test_taking_messages_leaves_everything_else() -> None:
    data = put({"user": "ann", "__flash__": 1, "flash_messages": []}, "Saved")
    assert take_flashes(data) == [Flash("Saved", "info")]
    assert data == {"user": "ann", "__flash__": 1, "flash_messages": []}


@rows("rubbish", [None, "Saved", ["Saved"], ["Saved", 1], {"text": "Saved"}, [["Saved"], "info"]])
def test_a_malformed_message_is_dropped_and_breaks_no_page(rubbish: Any) -> None:
    data = put({"__flash__0.rubbish": rubbish}, "Saved")
    assert take_flashes(data) == [Flash("Saved")]
    assert data == {}


def test_a_key_with_a_number_too_long_for_python_is_ignored() -> None:
    data = put({f"__flash__{'9' * 5000}.salt": ["Saved", "info"]}, "Hello")
    assert texts(data) == ["Hello"]


def test_keys_that_are_not_text_are_left_alone() -> None:
    data: dict[Any, Any] = {1: "one", ("a", 1): "two"}
    assert texts(put(data, "Saved")) == ["Saved"]


def merged(base: dict[str, Any], first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The stored data when both requests loaded `base`, and `second` is saved after `first`."""
    return merge.apply(merge.diff(base, second), first)


def test_messages_added_by_two_requests_at_once_are_both_kept() -> None:
    base = put({}, "before")
    one, other = dict(base), dict(base)
    add_flash(one, Flash("one"), "aaa")
    add_flash(other, Flash("other"), "bbb")
    assert texts(merged(base, one, other)) == ["before", "one", "other"]
    assert texts(merged(base, other, one)) == ["before", "one", "other"]


def test_a_message_added_while_others_are_shown_is_shown_next() -> None:
    base = put({}, "before")
    shown, said = dict(base), dict(base)
    assert [flash.text for flash in take_flashes(shown)] == ["before"]
    add_flash(said, Flash("meanwhile"), "bbb")
    assert texts(merged(base, shown, said)) == ["meanwhile"]
    assert texts(merged(base, said, shown)) == ["meanwhile"]


def test_two_messages_with_one_number_are_kept_apart() -> None:
    """If two requests both start to count at 0, only the salt separates their messages."""
    base = put({}, "before")
    slow = dict(base)
    take_flashes(slow)
    fast = dict(base)
    take_flashes(fast)
    add_flash(fast, Flash("after"), "bbb")
    assert texts(merged(base, fast, slow)) == ["after"]


anything = st.text(st.characters(codec="utf-8"), max_size=1200)


@given(st.lists(st.tuples(anything, anything), max_size=15))
def test_the_messages_taken_are_the_newest_within_the_limits(said: list[tuple[str, str]]) -> None:
    data: dict[str, Any] = {}
    for number, (text, category) in enumerate(said):
        add_flash(data, Flash(text, category), f"salt{number}")
    taken = take_flashes(data)
    assert data == {}
    assert len(taken) <= MAX_MESSAGES
    assert sum(len(part.encode()) for flash in taken for part in flash) <= MAX_BYTES
    for (text, category), message in zip(reversed(said), reversed(taken), strict=False):
        assert text.startswith(message.text.removesuffix("…"))
        assert category.startswith(message.category.removesuffix("…"))
        assert len(text.encode()) > 1000 or message.text == text
    assert len(taken) >= min(len(said), 1)
