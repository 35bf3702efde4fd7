"""Deadlines: a session expires exactly at its limit, and a clock that goes back extends none."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starsessions.core.record import (
    CLOCK_SKEW,
    DEFAULT_MAX_AGE,
    Found,
    Identity,
    MissReason,
    Policy,
    Record,
    cookie_max_age,
    deadline,
    touch_due,
    why_expired,
)
from tests.rows import rows

BEGAN = 1_000_000


def record(began_at: int = BEGAN, renewed_at: int = BEGAN, **own: Any) -> Record:
    return Record(b"", began_at, renewed_at, **own)


durations = st.integers(1, 10**9)
instants = st.integers(0, 2**40)


@st.composite
def records(draw: st.DrawFn) -> Record:
    began_at = draw(instants)
    own = draw(
        st.one_of(
            st.fixed_dictionaries({}),
            st.fixed_dictionaries({"lifetime": durations}),
            st.fixed_dictionaries({"until": instants}),
            st.fixed_dictionaries({"browser": st.just(True)}),
        )
    )
    return record(began_at, began_at + draw(st.integers(0, 10**9)), **own)


policies = st.builds(
    Policy,
    max_age=durations,
    absolute_timeout=st.none() | durations,
    rolling=st.booleans(),
    renew_every=st.none() | durations,
    browser_session=st.booleans(),
)


# The limits: (fields of the record, fields of the policy, seconds until the session expires, why it expires).
LIMITS = [
    ({}, Policy(), DEFAULT_MAX_AGE, MissReason.EXPIRED),
    ({}, Policy(max_age=60), 60, MissReason.EXPIRED),
    ({}, Policy(max_age=1), 1, MissReason.EXPIRED),
    ({}, Policy(max_age=60, absolute_timeout=30), 30, MissReason.OVER_ABSOLUTE),
    ({}, Policy(max_age=60, absolute_timeout=90), 60, MissReason.EXPIRED),
    ({}, Policy(max_age=60, absolute_timeout=60), 60, MissReason.OVER_ABSOLUTE),
    ({}, Policy(max_age=60, browser_session=True), 60, MissReason.EXPIRED),
    ({"renewed_at": BEGAN + 50}, Policy(max_age=60), 110, MissReason.EXPIRED),
    ({"renewed_at": BEGAN + 50}, Policy(max_age=60, absolute_timeout=70), 70, MissReason.OVER_ABSOLUTE),
    ({"lifetime": 10}, Policy(max_age=60), 10, MissReason.EXPIRED),
    ({"lifetime": 600}, Policy(max_age=60), 600, MissReason.EXPIRED),
    ({"lifetime": 600}, Policy(max_age=60, absolute_timeout=100), 100, MissReason.OVER_ABSOLUTE),
    ({"lifetime": 10, "renewed_at": BEGAN + 5}, Policy(max_age=60), 15, MissReason.EXPIRED),
    ({"until": BEGAN + 10}, Policy(max_age=60), 10, MissReason.EXPIRED),
    ({"until": BEGAN + 600}, Policy(max_age=60), 600, MissReason.EXPIRED),
    ({"until": BEGAN + 600}, Policy(max_age=60, absolute_timeout=100), 100, MissReason.OVER_ABSOLUTE),
    ({"until": BEGAN + 10, "renewed_at": BEGAN + 5}, Policy(max_age=60), 10, MissReason.EXPIRED),
    ({"browser": True}, Policy(max_age=60), 60, MissReason.EXPIRED),
    ({"browser": True}, Policy(max_age=60, absolute_timeout=30), 30, MissReason.OVER_ABSOLUTE),
]


@rows(("own", "policy", "lasts", "why"), LIMITS)
def test_a_session_lives_until_the_second_before_its_limit(
    own: dict[str, Any], policy: Policy, lasts: int, why: MissReason
) -> None:
    assert deadline(record(**own), policy) == BEGAN + lasts
    assert why_expired(record(**own), policy, BEGAN + lasts - 1) is None


@pytest.mark.guarantee(4)
@rows(("own", "policy", "lasts", "why"), LIMITS)
@rows("late", [0, 1, 10**6])
def test_a_session_is_expired_at_its_limit_and_after(
    own: dict[str, Any], policy: Policy, lasts: int, why: MissReason, late: int
) -> None:
    assert why_expired(record(**own), policy, BEGAN + lasts + late) in {why, MissReason.OVER_ABSOLUTE}
    assert why_expired(record(**own), policy, BEGAN + lasts) is why


def test_a_shortened_max_age_shortens_existing_sessions() -> None:
    assert why_expired(record(), Policy(max_age=600), BEGAN + 300) is None
    assert why_expired(record(), Policy(max_age=300), BEGAN + 300) is MissReason.EXPIRED


def test_a_shortened_max_age_does_not_affect_a_session_with_its_own_expiry() -> None:
    assert why_expired(record(lifetime=600), Policy(max_age=300), BEGAN + 599) is None


@given(records(), policies, st.integers(0, 10**9))
def test_renewal_never_moves_the_absolute_limit(session: Record, policy: Policy, later: int) -> None:
    renewed = msgspec.structs.replace(session, renewed_at=session.renewed_at + later)

    assert deadline(renewed, policy) >= deadline(session, policy)
    if policy.absolute_timeout is not None:
        assert deadline(renewed, policy) <= session.began_at + policy.absolute_timeout
        assert why_expired(renewed, policy, session.began_at + policy.absolute_timeout) is MissReason.OVER_ABSOLUTE


@given(records(), durations, durations)
def test_a_shorter_setting_never_lets_a_session_live_longer(session: Record, one: int, other: int) -> None:
    shorter, longer = sorted((one, other))

    assert deadline(session, Policy(max_age=shorter)) <= deadline(session, Policy(max_age=longer))
    assert deadline(session, Policy(absolute_timeout=shorter)) <= deadline(session, Policy(absolute_timeout=longer))
    assert deadline(session, Policy(absolute_timeout=longer)) <= deadline(session, Policy())


# A clock that goes back


def test_clocks_may_differ_by_the_skew_and_no_more() -> None:
    assert why_expired(record(), Policy(), BEGAN - CLOCK_SKEW) is None
    assert why_expired(record(), Policy(), BEGAN - CLOCK_SKEW - 1) is MissReason.EXPIRED


@given(records(), policies, st.integers(-(10**10), 10**10))
def test_a_session_lives_from_its_renewal_to_its_deadline_and_at_no_other_time(
    session: Record, policy: Policy, offset: int
) -> None:
    now = session.renewed_at + offset

    lives = why_expired(session, policy, now) is None

    assert lives == (session.renewed_at - CLOCK_SKEW <= now < deadline(session, policy))


@given(records(), policies, st.integers(0, 10**6))
def test_a_renewal_by_a_clock_that_went_back_extends_no_session(session: Record, policy: Policy, back: int) -> None:
    renewed = msgspec.structs.replace(session, renewed_at=session.renewed_at - back)

    assert deadline(renewed, policy) <= deadline(session, policy)


@given(records(), policies, st.integers(0, 10**9))
def test_a_clock_that_went_back_makes_no_touch_due(session: Record, policy: Policy, back: int) -> None:
    assert not touch_due(session, policy, session.renewed_at - back)


# Rolling


def test_use_renews_nothing_without_rolling() -> None:
    assert not touch_due(record(), Policy(max_age=100), BEGAN + 99)


def test_use_renews_after_a_tenth_of_the_lifetime() -> None:
    policy = Policy(max_age=100, rolling=True)

    assert not touch_due(record(), policy, BEGAN + 9)
    assert touch_due(record(), policy, BEGAN + 10)


def test_use_renews_after_a_tenth_of_the_sessions_own_lifetime() -> None:
    policy = Policy(max_age=100, rolling=True)

    assert not touch_due(record(lifetime=1000), policy, BEGAN + 99)
    assert touch_due(record(lifetime=1000), policy, BEGAN + 100)


def test_use_renews_once_per_renew_every() -> None:
    policy = Policy(max_age=100, rolling=True, renew_every=30)

    assert not touch_due(record(), policy, BEGAN + 29)
    assert touch_due(record(), policy, BEGAN + 30)


def test_a_session_with_a_shorter_lifetime_is_renewed_at_half_of_it() -> None:
    policy = Policy(max_age=1000, rolling=True, renew_every=300)

    assert not touch_due(record(lifetime=100), policy, BEGAN + 49)
    assert touch_due(record(lifetime=100), policy, BEGAN + 50)


def test_a_fixed_expiry_is_never_renewed() -> None:
    policy = Policy(max_age=100, rolling=True)

    assert not touch_due(record(until=BEGAN + 10**6), policy, BEGAN + 10**5)


@given(st.integers(2, 200), st.data())
def test_use_never_renews_more_often_than_renew_every(max_age: int, data: st.DataObject) -> None:
    renew_every = data.draw(st.integers(1, max_age - 1))
    policy = Policy(max_age=max_age, rolling=True, renew_every=renew_every)
    later = data.draw(st.integers(0, max_age))

    assert touch_due(record(), policy, BEGAN + later) == (later >= renew_every)


@given(st.integers(1, 50), st.none() | st.integers(1, 60), st.lists(st.integers(0, 5), max_size=60))
def test_a_touch_is_never_due_twice_in_the_same_second(
    lifetime: int, renew_every: int | None, pauses: list[int]
) -> None:
    policy = Policy(max_age=30, rolling=True, renew_every=renew_every)
    session, now, touched_at = record(lifetime=lifetime), BEGAN, []

    for pause in pauses:
        now += pause
        if touch_due(session, policy, now):
            session = msgspec.structs.replace(session, renewed_at=now)
            touched_at.append(now)

    assert sorted(set(touched_at)) == touched_at


@given(st.integers(2, 40), st.none() | st.integers(1, 29))
def test_a_session_that_is_used_every_second_never_ends(lifetime: int, renew_every: int | None) -> None:
    policy = Policy(max_age=30, rolling=True, renew_every=renew_every)
    session = record(lifetime=lifetime)

    for now in range(BEGAN, BEGAN + 120):
        assert why_expired(session, policy, now) is None
        if touch_due(session, policy, now):
            session = msgspec.structs.replace(session, renewed_at=now)


# The cookie


@pytest.mark.guarantee(4)
@given(records(), policies, st.integers(-CLOCK_SKEW, 10**10))
def test_the_cookie_never_outlives_the_session_on_the_server(session: Record, policy: Policy, later: int) -> None:
    now = session.renewed_at + later

    max_age = cookie_max_age(session, policy, now)

    if max_age is not None:
        assert max_age >= 0
        assert max_age == 0 or now + max_age <= deadline(session, policy)
        assert (max_age > 0) == (why_expired(session, policy, now) is None)


@rows(
    ("own", "policy", "max_age"),
    [
        ({}, Policy(max_age=60), 50),
        ({}, Policy(max_age=60, absolute_timeout=30), 20),
        ({}, Policy(max_age=60, browser_session=True), None),
        ({"lifetime": 600}, Policy(max_age=60), 590),
        ({"lifetime": 600}, Policy(max_age=60, browser_session=True), 590),
        ({"until": BEGAN + 100}, Policy(max_age=60), 90),
        ({"until": BEGAN + 100}, Policy(max_age=60, browser_session=True), 90),
        ({"browser": True}, Policy(max_age=60), None),
        ({"browser": True}, Policy(max_age=60, absolute_timeout=30), None),
        ({"renewed_at": BEGAN - 100}, Policy(max_age=60), 0),
    ],
)
def test_the_max_age_of_the_cookie_is_the_remaining_lifetime(
    own: dict[str, Any], policy: Policy, max_age: int | None
) -> None:
    assert cookie_max_age(record(**own), policy, BEGAN + 10) == max_age


# The stored form


def test_a_record_is_an_array_that_can_grow_at_its_end() -> None:
    """New fields must come last and have a default: such bytes exist in cookies and stores."""
    decode = msgspec.msgpack.Decoder(Record).decode

    assert decode(msgspec.msgpack.encode([b"x", 1, 2])) == Record(b"x", 1, 2, None, None, False, None)
    assert decode(msgspec.msgpack.encode([b"x", 1, 2, 3, 4, True])) == Record(b"x", 1, 2, 3, 4, True)
    assert decode(msgspec.msgpack.encode([b"x", 1, 2, 3, 4, True, 5])) == Record(b"x", 1, 2, 3, 4, True, 5)
    known = ["ann", 6, "handle", "password", "Firefox", "203.0.113.0/24", b"epoch", "stamp", 7, 8, "session", "subject"]
    identity, fields = Identity(*known, False), [*known, False, "a later field"]
    assert decode(msgspec.msgpack.encode([b"x", 1, 2, 3, 4, True, 5, fields])) == Record(
        b"x", 1, 2, 3, 4, True, 5, identity, -1, False
    )
    later = msgspec.msgpack.encode([b"x", 1, 2, 3, 4, True, 5, fields, 9, True, "a later field"])
    assert decode(later) == Record(b"x", 1, 2, 3, 4, True, 5, identity, 9, True)


def test_the_miss_reasons_are_the_documented_words() -> None:
    assert [str(why) for why in MissReason] == [
        "no cookie",
        "malformed",
        "several cookies of one name",
        "bad signature",
        "unknown",
        "rotated away",
        "rotated a moment ago",
        "expired",
        "over the absolute limit",
        "undecodable",
        "unavailable",
    ]


def test_the_repr_of_a_record_and_its_identity_shows_nothing() -> None:
    identity = Identity("ann", 1, "handle")
    assert repr([Record(b"secret", 1, 2, identity=identity), identity]) == "[<Record>, <Identity>]"
    assert identity.__rich_repr__() == []


def test_policies_identities_and_records_are_immutable() -> None:
    """Requests share a policy, and a store in memory gives the same record to all."""
    own = Record(b"", 1, 2)
    for value in (Policy(), Identity("ann", 1, "handle"), own, Found("token", own)):
        for field in value.__struct_fields__:
            with pytest.raises(AttributeError):
                setattr(value, field, None)


def test_without_settings_a_session_lasts_fourteen_days_and_nothing_renews_or_rotates_it() -> None:
    assert Policy() == Policy(
        max_age=14 * 24 * 60 * 60,
        absolute_timeout=None,
        rolling=False,
        renew_every=None,
        browser_session=False,
        rotate_every=None,
        rotate_grace=0,
    )


def test_fields_missing_in_an_older_record_get_their_defaults() -> None:
    identity = msgspec.msgpack.decode(msgspec.msgpack.encode(["ann", 1, "handle"]), type=Identity)
    assert msgspec.structs.astuple(identity) == ("ann", 1, "handle", "", "", "", b"", "", 0, 0, "", "", True)
    old = msgspec.msgpack.decode(msgspec.msgpack.encode([b"", 1, 2]), type=Record)
    assert msgspec.structs.astuple(old) == (b"", 1, 2, None, None, False, None, None, -1, False)
