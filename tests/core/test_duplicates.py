"""Which cookies of other settings a response removes, and in which order."""

from starsessions.core.cookies import CookieSpec
from starsessions.core.duplicates import MAX_PATH, MAX_REMOVED, MAX_TRIED, Destination, removals

SHOP = Destination("shop.example.com:443", "/app/list", "", is_secure=True)


def removed(spec: CookieSpec, destination: Destination = SHOP, *, is_certain: bool = True) -> list[tuple[str, ...]]:
    """The attributes that follow the name and value, without those that every removal has."""
    headers = [value.decode() for _, value in removals(spec, ("session",), destination, is_certain)]
    assert all(header.startswith("session=null; path=") and "; Max-Age=0; samesite=lax" in header for header in headers)
    assert all(("; secure" in header) is destination.is_secure for header in headers)
    common = {"session=null", "Max-Age=0", "samesite=lax", "secure"}
    return [tuple(field for field in header.split("; ") if field not in common) for header in headers]


def test_one_changed_setting_is_likelier_than_two_and_the_partition_is_the_least_likely() -> None:
    assert removed(CookieSpec()) == [
        ("path=/app",),
        ("path=/app/",),
        ("path=/app/list",),
        ("path=/", "domain=example.com"),
        ("path=/", "domain=shop.example.com"),
        ("path=/", "partitioned"),
        ("path=/app", "domain=example.com"),
        ("path=/app/", "domain=example.com"),
        ("path=/app/list", "domain=example.com"),
        ("path=/app", "domain=shop.example.com"),
        ("path=/app/", "domain=shop.example.com"),
        ("path=/app/list", "domain=shop.example.com"),
    ]
    assert len(removed(CookieSpec())) == MAX_REMOVED


def test_a_guess_is_shorter_and_leaves_out_the_endpoint() -> None:
    guessed = removed(CookieSpec(), is_certain=False)
    assert len(guessed) == MAX_TRIED
    assert ("path=/app",) in guessed
    assert ("path=/app/list",) not in guessed


def test_over_http_no_cookie_is_partitioned_or_secure() -> None:
    plain = Destination("localhost", "/app/list", "", is_secure=False)
    assert removed(CookieSpec(), plain) == [("path=/app",), ("path=/app/",), ("path=/app/list",)]


def test_a_path_of_64_characters_is_tried_and_a_longer_one_is_not() -> None:
    assert MAX_PATH == 64
    path = "/" + "p" * 63
    assert removed(CookieSpec(), Destination("localhost", path, "", is_secure=False)) == [(f"path={path}",)]
    assert removed(CookieSpec(), Destination("localhost", path + "p", "", is_secure=False)) == []
