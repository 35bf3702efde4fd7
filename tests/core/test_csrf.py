"""The table in the docstring of `core/csrf.py`, row by row and without gaps; and tokens."""

from itertools import product
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starsessions.core import csrf, merge
from starsessions.core.csrf import (
    SECRET_BYTES,
    WhyRefused,
    as_origin,
    is_good,
    put_secret,
    remove_secrets,
    secrets_in,
    token_for,
    why_foreign,
)
from tests.rows import rows

Kind = Literal["safe", "unsafe", "handshake"]

HOST = "shop.example:8443"
TRUSTED = "https://admin.example"
SITES = {
    "same-origin": ["same-origin"],
    "none": ["none"],
    "other": ["same-site", "cross-site", "Same-Origin", "same-origin, same-origin", "*", "null"],
    "missing": [None, ""],
}
ORIGINS = {
    "own": [f"https://{HOST}", f"http://{HOST}", f"HTTPS://{HOST.upper()}"],
    "trusted": [TRUSTED],
    "null": ["null"],
    "foreign": [
        "null, null",
        "https://evil.example",
        "https://shop.example",  # another port
        f"https://evil.{HOST}",
        f"https://{HOST}.evil.example",
        f"https://evil.example/{HOST}",
        f"https://{HOST}@evil.example",
        f"https://evil.example#@{HOST}",
        f"https://{HOST}/",
        f"https://{HOST}, https://evil.example",
        f"https://evil.example, https://{HOST}",
        f"https://{HOST} https://evil.example",
        f"ftp://{HOST}",
        f"app://{HOST}",
        HOST,
        f"//{HOST}",
        "https://",
        f"{TRUSTED}.evil.example",
        f"{TRUSTED}:8443",
        "http://admin.example",
    ],
    "missing": [None, ""],
}


def read_table() -> list[tuple[str, str, str, str]]:
    lines = (csrf.__doc__ or "").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, _, *body = cells
    assert head == ["kind", "Sec-Fetch-Site", "Origin", "answer", "because"]
    return [(kind, site, origin, answer) for kind, site, origin, answer, _ in body]


TABLE = read_table()
KINDS: list[Kind] = ["safe", "unsafe", "handshake"]
CASES = [
    (kind, site, origin, said_site, said_origin)
    for kind, site, origin in product(KINDS, SITES, ORIGINS)
    for said_site, said_origin in product(SITES[site], ORIGINS[origin])
]


def asked(kind: Kind, site: str | None, origin: str | None, host: str | None = HOST) -> WhyRefused | None:
    said = {"host": host, "sec-fetch-site": site, "origin": origin}
    headers = [(name.encode(), value.encode()) for name, value in said.items() if value is not None]
    return why_foreign(kind, headers, {TRUSTED})


def row_for(kind: str, site: str, origin: str) -> str:
    """The answer of the one row that matches this case."""
    [answer] = [row[3] for row in TABLE if row[0] == kind and row[1] in ("", site) and row[2] in ("", origin)]
    return answer


@pytest.mark.guarantee(22)
@rows(("kind", "site", "origin", "said_site", "said_origin"), CASES)
def test_every_case_has_one_row_and_is_decided_as_it_says(
    kind: Kind, site: str, origin: str, said_site: str | None, said_origin: str | None
) -> None:
    assert (asked(kind, said_site, said_origin) or "pass") == row_for(kind, site, origin)


def test_the_table_has_twenty_four_rows() -> None:
    assert len(TABLE) == 24


@rows(
    ("origin", "host"),
    [
        ("https://shop.example", "shop.example"),
        ("https://shop.example", "shop.example:443"),
        ("http://shop.example", "shop.example:80"),
        ("https://shop.example", "SHOP.example"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
    ],
)
def test_an_origin_matches_its_host_in_every_spelling_of_a_proxy(origin: str, host: str) -> None:
    assert asked("unsafe", None, origin, host) is None


@pytest.mark.guarantee(22)
@rows(
    ("origin", "host"),
    [
        ("http://shop.example", "shop.example:443"),
        ("https://shop.example", "shop.example:80"),
        ("https://shop.example:80", "shop.example"),
        ("https://shop.example", "shop.example:"),
        ("https://shop.example", "shop.example, evil.example"),
        ("file:", ""),
        ("https://", ""),
        ("https://:443", ""),
        ("file://", ""),
        ("https://shop.example", None),
    ],
)
@rows("kind", ["unsafe", "handshake"])
def test_an_origin_that_resembles_the_host_is_foreign(kind: Kind, origin: str, host: str | None) -> None:
    """`Origin: file://` has an empty host, and so has a request of HTTP/1.0."""
    assert asked(kind, None, origin, host) is WhyRefused.FOREIGN_ORIGIN
    assert asked(kind, None, "null", host) is WhyRefused.NULL_ORIGIN


def test_a_repeated_header_does_not_pass_because_of_its_first_value() -> None:
    twice = [(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")]
    assert why_foreign("unsafe", twice, ()) is WhyRefused.CROSS_SITE
    origins = [(b"host", b"a.example"), (b"origin", b"https://a.example"), (b"origin", b"https://evil.example")]
    assert why_foreign("unsafe", origins, ()) is WhyRefused.FOREIGN_ORIGIN


def test_header_names_are_case_insensitive() -> None:
    assert why_foreign("unsafe", [(b"Sec-Fetch-Site", b"cross-site")], ()) is WhyRefused.CROSS_SITE


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_no_header_value_raises_an_error(site: bytes, origin: bytes, host: bytes) -> None:
    headers = [(b"sec-fetch-site", site), (b"origin", origin), (b"host", host)]
    assert why_foreign("unsafe", headers, ()) in (None, *WhyRefused)
    assert why_foreign("handshake", headers, ()) in (None, *WhyRefused)


@rows(
    ("text", "origin"),
    [
        ("https://admin.example", "https://admin.example"),
        ("https://Admin.Example:443", "https://admin.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://localhost:80", "http://localhost"),
        ("https://localhost:80", "https://localhost:80"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://my_app.xn--mller-kva.example", "https://my_app.xn--mller-kva.example"),
    ],
)
def test_an_origin_is_normalised_as_browsers_do(text: str, origin: str) -> None:
    assert as_origin(text) == origin


@rows(
    "text",
    [
        *["", "*", "null", "admin.example", "https://", "https://a/", "https://a?b", "https://a b", "https://u@a"],
        *["https://*.example.com", "https://*", "https://müller.example", "wss://a", "https://a:", "https://a:b"],
    ],
)
def test_a_text_that_no_browser_sends_as_an_origin_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        as_origin(text)


# Tokens

SECRET = "a secret"
NONCE = bytes(range(16))


@given(st.text(), st.binary(min_size=16, max_size=16))
def test_a_token_is_valid_for_its_secret_only(secret: str, nonce: bytes) -> None:
    token = token_for(secret, nonce)
    assert is_good(token, [secret])
    assert is_good(token, ["another", secret])
    assert not is_good(token, [secret + "x", "another"])
    assert not is_good(token, [])


@pytest.mark.guarantee(22)
def test_tokens_of_one_secret_have_nothing_in_common() -> None:
    """BREACH: text that is the same in every page can be guessed from the lengths of many compressed pages."""
    tokens = [token_for(SECRET, bytes([number]) * 16) for number in range(50)]
    parts = [{token[at : at + 4] for token in tokens} for at in range(24, 64, 4)]
    assert all(len(part) >= 49 for part in parts)
    assert not any(SECRET in token for token in tokens)


@rows("at", range(0, 64, 7))
def test_a_token_with_one_changed_character_is_invalid(at: int) -> None:
    token = token_for(SECRET, NONCE)
    other = "A" if token[at] != "A" else "B"
    assert not is_good(token[:at] + other + token[at + 1 :], [SECRET])


@rows("token", ["", "A" * 63, "A" * 64, "A" * 65, "=" * 64, "ä" * 64, "\ud800" * 64, "A" * 63 + "=", "A" * 1_000_000])
def test_garbage_is_an_invalid_token_and_raises_nothing(token: str) -> None:
    assert not is_good(token, [SECRET])


@given(st.text(max_size=70))
def test_no_text_sent_as_a_token_raises_an_error(token: str) -> None:
    assert not is_good(token, [SECRET])


def test_a_secret_and_its_authenticator_in_a_token_have_256_bits() -> None:
    assert SECRET_BYTES * 8 == 256
    assert len(token_for(SECRET, NONCE)) == 64  # 128 bits of nonce and 256 of MAC, in base64url


def test_the_secret_differs_from_its_key_in_the_session() -> None:
    """Error messages contain the names of keys."""
    data: dict[str, Any] = {}
    secret = put_secret(data, "r4nd0m", bytes(32))
    assert data == {"__csrf__r4nd0m": secret}


def test_a_foreign_value_under_such_a_key_is_not_a_secret() -> None:
    """An attacker who could make the secret empty, or a number, would know it."""
    assert secrets_in({"__csrf__a": "", "__csrf__b": 1, "__csrf__c": None, "__csrf__d": ["x"], "csrf": "x"}) == []


def test_two_first_pages_at_once_both_have_valid_tokens() -> None:
    one: dict[str, Any] = {"user": "ann"}
    other = dict(one)
    first, second = put_secret(one, "aaa", b"1" * 32), put_secret(other, "bbb", b"2" * 32)
    merged = merge.apply(merge.diff({"user": "ann"}, one), other)
    for secret in (first, second):
        assert is_good(token_for(secret, NONCE), secrets_in(merged))


def test_removing_secrets_leaves_everything_else() -> None:
    data: dict[Any, Any] = {"user": "ann", 1: "one"}
    put_secret(data, "aaa", b"1" * 32)
    put_secret(data, "bbb", b"2" * 32)
    assert remove_secrets(data)
    assert data == {"user": "ann", 1: "one"}
