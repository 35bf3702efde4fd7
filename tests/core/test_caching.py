"""`Vary` and `Cache-Control`, merged with the application's own headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starsessions.core.caching import RawHeaders, make_private, set_no_store, vary_by_cookie
from tests.rows import rows

OTHER = (b"content-type", b"text/html")

some_headers = st.lists(
    st.tuples(
        st.sampled_from([b"vary", b"Vary", b"cache-control", b"Cache-Control", b"x-vary", b"etag"]),
        st.lists(
            st.sampled_from(
                [b"", b"*", b"Cookie", b"cookie", b"Origin", b"public", b"no-store", b"no-cache", b"max-age=9"]
            )
        ).map(b", ".join),
    )
)


@rows(
    ("before", "after"),
    [
        ([], [(b"vary", b"Cookie")]),
        ([(b"vary", b"Origin")], [(b"vary", b"Origin, Cookie")]),
        ([(b"vary", b"Accept-Encoding, Origin")], [(b"vary", b"Accept-Encoding, Origin, Cookie")]),
        ([(b"Vary", b"Origin")], [(b"Vary", b"Origin, Cookie")]),
        ([(b"vary", b"Cookie")], [(b"vary", b"Cookie")]),
        ([(b"vary", b"cookie")], [(b"vary", b"cookie")]),
        ([(b"vary", b"Origin,COOKIE ")], [(b"vary", b"Origin,COOKIE ")]),
        ([(b"vary", b"*")], [(b"vary", b"*")]),
        ([(b"vary", b"Origin, *")], [(b"vary", b"Origin, *")]),
        ([(b"vary", b"X-Cookie")], [(b"vary", b"X-Cookie, Cookie")]),
        ([(b"vary", b"")], [(b"vary", b""), (b"vary", b"Cookie")]),
        ([(b"vary", b"Origin"), (b"vary", b"Cookie")], [(b"vary", b"Origin"), (b"vary", b"Cookie")]),
        ([(b"vary", b"Origin"), (b"vary", b"Accept")], [(b"vary", b"Origin, Cookie"), (b"vary", b"Accept")]),
        ([(b"vary", b""), (b"vary", b"Accept")], [(b"vary", b""), (b"vary", b"Accept, Cookie")]),
        ([(b"etag", b"Cookie")], [(b"etag", b"Cookie"), (b"vary", b"Cookie")]),
    ],
)
def test_vary_gets_cookie_unless_it_lists_cookie_or_a_star(before: RawHeaders, after: RawHeaders) -> None:
    headers = [OTHER, *before]

    vary_by_cookie(headers)

    assert headers == [OTHER, *after]


@rows(
    ("before", "after", "invited"),
    [
        ([], [b"no-store"], False),
        ([b"no-store"], [b"no-store"], False),
        ([b"private, No-Store"], [b"private, No-Store"], False),
        ([b"public, no-store"], [b"no-store"], True),
        ([b"public", b"no-store"], [b"no-store"], True),
        ([b'private="x, no-store, y"'], [b"no-store"], False),
        ([b'private="public", no-store'], [b'private="public", no-store'], False),
        ([b"no-cache"], [b"no-store"], False),
        ([b"private, max-age=60"], [b"no-store"], False),
        ([b"max-age=60"], [b"no-store"], False),
        ([b"public"], [b"no-store"], True),
        ([b"max-age=60, Public"], [b"no-store"], True),
        ([b"s-maxage=60"], [b"no-store"], True),
        ([b"private", b"public"], [b"no-store"], True),
        ([b"no-storeroom"], [b"no-store"], False),
        ([b"x-public"], [b"no-store"], False),
    ],
)
@rows("name", [b"cache-control", b"Cache-Control"])
def test_a_response_that_sets_a_cookie_is_not_cached(
    name: bytes, before: list[bytes], after: list[bytes], invited: bool
) -> None:
    headers = [(name, value) for value in before] + [OTHER]

    assert set_no_store(headers) == invited

    assert OTHER in headers
    assert [value for key, value in headers if key.lower() == b"cache-control"] == after


@given(some_headers)
def test_applying_the_headers_twice_changes_nothing(headers: RawHeaders) -> None:
    vary_by_cookie(headers)
    set_no_store(headers)
    once = list(headers)

    vary_by_cookie(headers)

    assert set_no_store(headers) is False
    assert headers == once


@pytest.mark.guarantee(10)
@given(some_headers)
def test_any_headers_of_the_application_end_up_varying_and_uncached(headers: RawHeaders) -> None:
    before = [header for header in headers if header[0].lower() not in (b"vary", b"cache-control")]

    vary_by_cookie(headers)
    set_no_store(headers)

    said = {(name.lower(), field.strip().lower()) for name, value in headers for field in value.split(b",")}
    assert {(b"vary", b"cookie"), (b"vary", b"*")} & said
    assert (b"cache-control", b"no-store") in said
    assert [header for header in headers if header[0].lower() not in (b"vary", b"cache-control")] == before


@pytest.mark.parametrize("cookies", [[], [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]])
@given(some_headers)
def test_a_private_response_has_all_headers_in_a_new_list(cookies: RawHeaders, headers: RawHeaders) -> None:
    before, expected = list(headers), list(headers)
    vary_by_cookie(expected)
    invited = bool(cookies) and set_no_store(expected)

    assert make_private(headers, cookies) == (expected + cookies, invited)
    assert headers == before


@pytest.mark.parametrize("said", [[], [[b"vary", b"Origin"]]])
def test_headers_may_be_any_iterable_of_pairs(said: list[list[bytes]]) -> None:
    """As ASGI allows: a generator, and lists instead of tuples."""
    headers, _ = make_private(iter([[b"etag", b"1"], *said]), [])

    assert [name for name, _ in headers] == [b"etag", b"vary"]
    assert headers[1][1].endswith(b"Cookie")
