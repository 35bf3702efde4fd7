"""Which of several cookies with the session's name is used: a pure function, although it belongs to loading."""

from starsessions import MissReason
from starsessions.core.record import Found, Policy, Record
from starsessions.lifecycle.loading import choose

NOW = 1_800_000_000
POLICY = Policy(max_age=60)
LIVE, OTHER = (Found(token, Record(b"", NOW, NOW)) for token in ("live", "other"))
EXPIRED = Found("expired", Record(b"", NOW - 60, NOW - 60))


def test_one_live_session_is_used_whatever_else_the_browser_sends() -> None:
    for results in ([LIVE], [LIVE, MissReason.UNKNOWN], [EXPIRED, LIVE], [MissReason.MALFORMED, LIVE, EXPIRED]):
        assert choose(list(results), POLICY, NOW) is LIVE


def test_of_two_live_sessions_none_is_used() -> None:
    """One of them was planted from another path or domain, and nothing tells which."""
    assert choose([LIVE, OTHER], POLICY, NOW) is MissReason.SEVERAL


def test_without_a_live_session_the_first_reason_counts() -> None:
    assert choose([EXPIRED], POLICY, NOW) is MissReason.EXPIRED
    assert choose([MissReason.UNKNOWN, MissReason.ROTATED], POLICY, NOW) is MissReason.UNKNOWN
    assert choose([EXPIRED, MissReason.UNKNOWN], POLICY, NOW) is MissReason.EXPIRED
