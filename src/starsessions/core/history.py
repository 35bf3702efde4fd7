"""The history of sign-ins as values, and as CSV that a spreadsheet does not run."""

import csv
import re
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from io import StringIO

from msgspec import Struct

from starsessions.core.encoding import key_under

LONGEST = 255
"""The characters of a text that are kept. What is longer is cut: a user is found by a hash of the whole id."""

COUNTER_BITS = 21
"""The lower bits of an entry's number; those above are milliseconds since 1970, until the year 2109."""

TEXTS = ("user_id", "handle", "method", "agent", "address", "operator")
"""What an entry has beside the time and what happened."""

COLUMNS = ("at", "what", *TEXTS)
"""The columns of the CSV."""

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - Excel reads the wide ones, too


class What(StrEnum):
    """What happened.

    >>> What.FAILED == "failed"
    True
    """

    SIGNED_IN = "signed in"
    FAILED = "failed"
    """Someone failed to sign in as the user."""
    SIGNED_OUT = "signed out"
    REVOKED = "revoked"
    """The session was ended from elsewhere."""
    BY_OPERATOR = "by operator"
    """An operator has ended sessions of the user."""


class HistoryEntry(Struct, frozen=True):
    """One line of the history."""

    at: datetime
    what: What
    user_id: str
    """At most its first 255 characters."""
    handle: str = ""
    """The session's public name; "" for a failed sign-in, and where all sessions were ended."""
    method: str = ""
    agent: str = ""
    address: str = ""
    operator: str = ""
    """Who has ended the sessions, for `What.BY_OPERATOR`."""


def number_at(milliseconds: int, counter: int = 0) -> int:
    """Return the number of an entry. Numbers are in the order of time.

    >>> number_at(1_000) < number_at(1_000, 1) < number_at(1_001)
    True
    """
    return (milliseconds << COUNTER_BITS) | counter


def key_of_user(user_id: str) -> str:
    """Return the hash by which the entries of a user are found: of any length, and compared byte by byte."""
    return key_under(b"starsessions/v1/history/", user_id)


def cleaned(text: str) -> str:
    """Return a text that every database can keep: without NUL and lone surrogates, and not too long.

    Anybody can send both in JSON, and an entry that the database refuses would keep all others waiting.

    >>> cleaned("a\\0b"), cleaned("\\ud800"), len(cleaned("a" * 300))
    ('a\ufffdb', '\ufffd', 255)
    """
    return _UNWRITABLE.sub("\ufffd", text)[:LONGEST]


def position(after: str | None) -> int | None:
    """Return the number that a page comes after; None: it begins with the newest entry. Anybody may have sent it.

    >>> position("12"), position("1" * 20), position("²"), position(None)
    (12, None, None, None)
    """
    text = after or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < 1 << 63 else None


def as_csv(entries: Iterable[HistoryEntry]) -> str:
    """Return lines of CSV (RFC 4180), all cells in quotes.

    A cell that begins as a formula gets an apostrophe in front. Otherwise a user agent or an id such as
    `=HYPERLINK(…)` would run in the spreadsheet of the person who opens the file (OWASP, CSV injection).

    >>> from datetime import UTC
    >>> print(as_csv([HistoryEntry(datetime(2026, 11, 26, tzinfo=UTC), What.FAILED, "=1+1")]).rstrip())
    "2026-11-26T00:00:00+00:00","failed","'=1+1","","","","",""
    """
    text = StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    for entry in entries:
        writer.writerow([entry.at.isoformat(), *(_cell(str(getattr(entry, name))) for name in COLUMNS[1:])])
    return text.getvalue()


def heading() -> str:
    """Return the first line of the CSV."""
    return ",".join(f'"{name}"' for name in COLUMNS) + "\r\n"


def _cell(text: str) -> str:
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
