"""`Vary` and `Cache-Control`, merged with the application's own headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starsessions.core.caching import RawHeaders, invites_shared_caches, make_private, set_no_store, vary_by_cookie
from tests.rows import rows

OTHER = (b"content-type", b"text/html")

some_headers = st.lists(
    st.tuples(
        st.sampled_from(
            b"vary Vary cache-control Cache-Control x-vary etag set-cookie CDN-Cache-Control surrogate-control".split()
        ),
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
        ([b"must-understand, no-store, max-age=60"], [b"no-store"], False),
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

    assert invites_shared_caches(headers) == invited
    set_no_store(headers)

    assert OTHER in headers
    assert [value for key, value in headers if key.lower() == b"cache-control"] == after


@given(some_headers)
def test_applying_the_headers_twice_changes_nothing(headers: RawHeaders) -> None:
    vary_by_cookie(headers)
    set_no_store(headers)
    once = list(headers)

    vary_by_cookie(headers)
    set_no_store(headers)

    assert not invites_shared_caches(headers)
    assert headers == once


@rows(
    ("said", "targeted", "invited"),
    [
        (b"private", b"max-age=60", True),
        (b"private", b"public", True),
        (b"private", b"private, max-age=60", False),
        (b"private", b"no-store, max-age=60", False),
        (b"private", b"must-revalidate", False),
        (b"max-age=60", b"no-cache", False),
        (b"public", b"no-store", True),
    ],
)
def test_a_header_for_cdns_invites_them_with_a_lifetime(said: bytes, targeted: bytes, invited: bool) -> None:
    """It takes precedence over a private `Cache-Control` in the caches that it is meant for (RFC 9213)."""
    assert invites_shared_caches([(b"cache-control", said), (b"CDN-Cache-Control", targeted)]) == invited


TARGETED = (b"cdn-cache-control", b"Surrogate-Control", b"Cloudflare-CDN-Cache-Control", b"x-cache-control")


@pytest.mark.guarantee(10)
@rows("name", TARGETED)
def test_what_a_cdn_would_obey_instead_is_replaced_too(name: bytes) -> None:
    said = [(b"x-cache-control-off", b"max-age=9"), (name, b"public, max-age=600")]
    forbidden, _ = make_private(said, [], forbids_storing=True)
    assert (name, b"no-store") in forbidden
    assert (b"cache-control", b"no-store") in forbidden
    assert (b"x-cache-control-off", b"max-age=9") in forbidden
    assert (name, b"public, max-age=600") in make_private(said, [], forbids_storing=False)[0]


@pytest.mark.guarantee(10)
@given(some_headers)
def test_any_headers_of_the_application_end_up_varying_and_uncached(headers: RawHeaders) -> None:
    ours = (b"vary", b"cache-control", b"cdn-cache-control", b"surrogate-control")
    before = [header for header in headers if header[0].lower() not in ours]

    vary_by_cookie(headers)
    set_no_store(headers)

    said = {(name.lower(), field.strip().lower()) for name, value in headers for field in value.split(b",")}
    assert {(b"vary", b"cookie"), (b"vary", b"*")} & said
    assert (b"cache-control", b"no-store") in said
    assert [header for header in headers if header[0].lower() not in ours] == before
    assert {value for name, value in headers if name.lower() in ours[2:]} <= {b"no-store"}


@pytest.mark.parametrize(
    ("forbids", "cookies"), [(False, []), (True, []), (True, [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])]
)
@given(some_headers)
def test_a_private_response_has_all_headers_in_a_new_list(
    forbids: bool, cookies: RawHeaders, headers: RawHeaders
) -> None:
    before, expected = list(headers), list(headers)
    vary_by_cookie(expected)
    if forbids:
        set_no_store(expected)

    made, notable = make_private(headers, cookies, forbids)

    assert made == expected + cookies
    assert notable in ([], before)
    assert headers == before


@rows("said", [[], [[b"vary", b"Origin"]]])
def test_headers_may_be_any_iterable_of_pairs(said: list[list[bytes]]) -> None:
    """As ASGI allows: a generator, and lists instead of tuples."""
    headers, _ = make_private(iter([[b"etag", b"1"], *said]), [], forbids_storing=False)

    assert [name for name, _ in headers] == [b"etag", b"vary"]
    assert headers[1][1].endswith(b"Cookie")
