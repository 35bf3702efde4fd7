"""The table of `core/arrival.py`, read from its docstring, so that code and table agree."""

from itertools import product

from starsessions.core import arrival
from starsessions.core.arrival import is_withheld
from tests.rows import rows

METHODS = {"safe": ["GET", "HEAD", "OPTIONS"], "unsafe": ["POST", "PUT", "PATCH", "DELETE", "TRACE", "post"]}
SITES = {"cross-site": [b"cross-site"], "other": [b"same-origin", b"same-site", b"none", b"?"], "missing": [None]}
SHOP = [(b"host", b"shop.example.com")]
ORIGINS = {
    "missing": [(None, SHOP), (None, [])],
    "own": [
        (b"https://shop.example.com", SHOP),
        (b"http://shop.example.com:3000", [(b"Host", b"Shop.example.com:8000")]),
        (b"https://app.example.com", SHOP),
        (b"https://example.com", SHOP),
        (
            b"http://shop.example.com",
            [(b"host", b"app.internal"), (b"x-forwarded-host", b"shop.example.com, web.local")],
        ),
    ],
    "unclear": [
        (b"null", SHOP),
        (b"file://", SHOP),
        (b"capacitor://localhost", SHOP),
        (b"http://192.168.0.5:5173", SHOP),
        (b"https://pay.example.net", []),
        (b"https://pay.example.net", [(b"host", b"127.0.0.1:8000")]),
        (b"https://pay.example.net", [(b"host", b"[::1]:8000")]),
        (b"https://pay.example.net", [(b"host", b"localhost:8000")]),
        (b"https://pay.example.net", [(b"host", b"backend")]),
    ],
    "foreign": [
        (b"https://pay.example.net", SHOP),
        (b"https://pay.example.net:8443", [(b"host", b"shop.example.com:8443")]),
        (b"https://example.net", SHOP),
        (b"https://evilexample.com", SHOP),
        (b"https://pay.example.net", [*SHOP, (b"x-forwarded-host", b"shop.example.com")]),
    ],
}


def read_table() -> list[list[str]]:
    lines = [line for line in (arrival.__doc__ or "").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@rows(("method", "site", "origin"), product(METHODS, SITES, ORIGINS))
def test_each_request_is_judged_by_its_one_row(method: str, site: str, origin: str) -> None:
    facts = (method, site, origin)
    [row] = [row for row in read_table() if all(cell in ("", fact) for cell, fact in zip(row[:3], facts, strict=True))]
    for verb, sec_fetch_site, (of, hosts), same_site in product(
        METHODS[method], SITES[site], ORIGINS[origin], ["lax", "strict", "none"]
    ):
        given = {b"sec-fetch-site": sec_fetch_site, b"origin": of}
        headers = [*hosts, *((name, value) for name, value in given.items() if value is not None)]

        expected = row[3] == "yes" and same_site != "none"
        assert is_withheld(verb, same_site, headers) is expected, (verb, headers, same_site)
