"""Describe a browser and a network in words that users recognise on their list of devices. None of it is a control."""

import re
from ipaddress import ip_address

MAX_AGENT = 512
"""The characters of a `User-Agent` header that are examined."""

# The first match counts: most browsers also claim to be those further down.
_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
_SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)
_PRODUCT = re.compile(r"[A-Za-z][A-Za-z0-9 _.-]{0,39}")


def describe(user_agent: str) -> str:
    """Return the browser and the system that a `User-Agent` header names; "" if it names none.

    >>> describe("Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0")
    'Firefox on Linux'
    >>> describe("curl/8.11.0")
    'curl'
    """
    text = user_agent[:MAX_AGENT]
    browser = next((name for mark, name in _BROWSERS if mark in text), "")
    system = next((name for mark, name in _SYSTEMS if mark in text), "")
    if not browser:
        product = _PRODUCT.match(text.partition("/")[0])
        browser = product[0].strip() if product and not text.startswith("Mozilla/") else ""
    return " on ".join(filter(None, (browser, system)))


def truncate_ip(address: str) -> str:
    """Return the network of an IP address: enough for users to recognise it, too little to locate a household.

    >>> truncate_ip("203.0.113.77"), truncate_ip("2001:db8:1:2:3::4"), truncate_ip("testclient")
    ('203.0.113.0/24', '2001:db8:1::/48', '')
    """
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    ip = getattr(ip, "ipv4_mapped", None) or ip
    length = 24 if ip.version == 4 else 48
    dropped = ip.max_prefixlen - length
    return f"{type(ip)(int(ip) >> dropped << dropped)}/{length}"
