"""One row for each rule of the receiver's part: the CAEP Interoperability Profile 1.0, SSF 1.0, RFC 8935."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from starsessions import BackendUnavailable
from starsessions.core.security_event import SESSION_REVOKED, STREAM_UPDATED, VERIFICATION
from starsessions.oidc import CaepReceiver
from tests.oidc.provider import (
    CLIENT,
    EC,
    ISSUER,
    KEYS,
    NOW,
    OTHER_RSA,
    RSA,
    World,
    event,
    event_claims,
    logout_claims,
    push,
    send,
    signed,
)
from tests.rows import rows

pytestmark = pytest.mark.anyio

ANN = {"format": "iss_sub", "iss": ISSUER, "sub": "sub-1"}
SID = {"format": "opaque", "id": "sid-1"}
EMAIL = {"format": "email", "email": "ann@example.com"}


def claims(**changes: Any) -> str:
    return event(event_claims(**changes))


def about(subject: Any) -> str:
    return claims(sub_id=subject)


REFUSED = {
    "not a token": ("x", "invalid_request"),
    "not ASCII": ("é", "invalid_request"),
    "no type": (event(event_claims(), typ=...), "invalid_request"),
    "type of any JWT": (event(event_claims(), typ="JWT"), "invalid_request"),
    "a logout token": (signed(logout_claims()), "invalid_request"),
    "another algorithm than that of the profile": (event(event_claims(), EC, alg="ES256"), "invalid_request"),
    "algorithm none": ("eyJhbGciOiJub25lIiwidHlwIjoic2VjZXZlbnQrand0In0.e30.", "invalid_request"),
    "signed with another key": (event(event_claims(), OTHER_RSA), "invalid_key"),
    "unknown key": (event(event_claims(), kid="other"), "invalid_key"),
    "another issuer": (claims(iss="https://login.example.org"), "invalid_issuer"),
    "no issuer": (claims(iss=...), "invalid_issuer"),
    "another audience": (claims(aud="other"), "invalid_audience"),
    "no audience": (claims(aud=...), "invalid_audience"),
    "another audience besides": (claims(aud=[CLIENT, "other"]), "invalid_audience"),
    "no iat": (claims(iat=...), "invalid_request"),
    "issued in the future": (claims(iat=NOW + 61), "invalid_request"),
    "issued too long ago": (claims(iat=NOW - 7 * 86_400 - 60), "invalid_request"),
    "no jti": (claims(jti=...), "invalid_request"),
    "exp": (claims(exp=NOW + 60), "invalid_request"),
    "exp is text": (claims(exp="x"), "invalid_request"),
    "sub": (claims(sub="sub-1"), "invalid_request"),
    "no events": (claims(events=...), "invalid_request"),
    "events is a list": (claims(events=[SESSION_REVOKED]), "invalid_request"),
    "no event": (claims(events={}), "invalid_request"),
    "two events": (claims(events={SESSION_REVOKED: {}, VERIFICATION: {}}), "invalid_request"),
    "the event is no object": (claims(events={SESSION_REVOKED: True}), "invalid_request"),
    "no subject": (claims(sub_id=...), "invalid_request"),
    "subject is text": (about("sid-1"), "invalid_request"),
    "subject without a format": (about({"id": "sid-1"}), "invalid_request"),
    "format is a list": (about({"format": ["opaque"], "id": "sid-1"}), "invalid_request"),
    "opaque without an id": (about({"format": "opaque"}), "invalid_request"),
    "opaque with a number": (about({"format": "opaque", "id": 1}), "invalid_request"),
    "iss_sub without sub": (about({"format": "iss_sub", "iss": ISSUER}), "invalid_request"),
    "iss_sub without iss": (about({"format": "iss_sub", "sub": "sub-1"}), "invalid_request"),
    "subject of another provider": (about({**ANN, "iss": "https://login.example.org"}), "access_denied"),
    "user is text": (about({"format": "complex", "session": SID, "user": "ann"}), "invalid_request"),
    "user without a format": (about({"format": "complex", "user": {"sub": "sub-1"}}), "invalid_request"),
}


@rows(("token", "code"), REFUSED.values(), ids=list(REFUSED))
async def test_an_event_that_breaks_a_rule_ends_nothing(token: str, code: str) -> None:
    world = World()
    ann = await world.sign_in()

    answer = await push(world.events, token)

    assert (answer.status, answer.json["err"]) == (400, code)
    assert answer.json["description"]
    assert answer.headers["content-language"] == "en"
    assert answer.headers["cache-control"] == "no-store"
    assert await world.user(ann) == "ann"


@rows(
    ("subject", "left"),
    [
        (SID, ["second"]),
        (ANN, []),
        ({"format": "complex", "session": SID}, ["second"]),
        ({"format": "complex", "session": SID, "user": ANN, "tenant": {"format": "opaque", "id": "1"}}, ["second"]),
        ({"format": "complex", "session": SID, "user": EMAIL}, ["second"]),
        ({"format": "complex", "user": ANN, "device": {"format": "opaque", "id": "1"}}, []),
        ({**ANN, "unknown": [1]}, []),
    ],
)
async def test_a_revoked_session_or_subject_ends(subject: dict[str, Any], left: list[str]) -> None:
    world = World()
    people = {"first": await world.sign_in(), "second": await world.sign_in(session="sid-2")}

    answer = await push(world.events, claims(sub_id=subject, txn="a-transaction", unknown={}))

    assert (answer.status, answer.body) == (202, b"")
    assert answer.headers["cache-control"] == "no-store"
    assert [name for name, one in people.items() if await world.user(one)] == left


@rows(
    "token",
    [
        claims(events={VERIFICATION: {"state": "x"}}, sub_id={"format": "opaque", "id": "stream"}),
        claims(events={VERIFICATION: {}}, sub_id={"format": "opaque", "id": "sid-1"}),
        claims(events={SESSION_REVOKED.replace("session-revoked", "credential-change"): {}}),
        about({"format": "opaque", "id": "other"}),
        about({"format": "complex", "tenant": SID}),
        about({"format": "complex", "session": {**SID, "format": "jwt_id"}}),
        about(EMAIL),
    ],
)
async def test_an_event_that_means_no_session_is_accepted_and_ends_nothing(token: str) -> None:
    world = World()
    ann = await world.sign_in()

    assert (await push(world.events, token)).status == 202
    assert await world.user(ann) == "ann"


async def test_a_repeated_event_is_acknowledged_and_ends_nothing_more() -> None:
    world = World()
    await world.sign_in()
    assert (await push(world.events, about(ANN))).status == 202
    again = await world.sign_in()
    world.clock.advance(7 * 86_400 + 59)

    assert (await push(world.events, about(ANN))).status == 202
    world.clock.now = NOW
    assert await world.user(again) == "ann"


async def test_the_application_finds_the_users_of_other_subjects() -> None:
    world = World()
    ann, bob = await world.sign_in(), await world.sign_in("bob", "sid-2", "sub-2")
    asked: list[Any] = []

    async def users_of(subject: Mapping[str, Any]) -> Iterable[str]:
        asked.append(subject)
        return ["ann"]

    events = CaepReceiver(world.sessions, issuer=ISSUER, audience=CLIENT, keys=KEYS, users_of=users_of)

    assert (await push(events, about({"format": "complex", "user": EMAIL}))).status == 202
    assert asked == [EMAIL]
    assert (await world.user(ann), await world.user(bob)) == (None, "bob")


async def test_a_subject_that_cannot_be_found_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    for number in "12":
        await push(world.events, claims(sub_id=EMAIL, jti=number))

    [record] = caplog.records
    assert "users_of" in record.getMessage()
    assert "ann" not in record.getMessage()


@rows(
    ("event", "is_reported"),
    [({"status": "paused"}, True), ({"status": "disabled"}, True), ({"status": "enabled"}, False)],
)
async def test_a_stream_that_the_transmitter_stops_is_reported(
    event: dict[str, str], is_reported: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    token = claims(events={STREAM_UPDATED: event}, sub_id={"format": "opaque", "id": "stream"})
    assert (await push(World().events, token)).status == 202
    assert [("paused or disabled" in record.getMessage()) for record in caplog.records] == [True] * is_reported


async def test_the_transmitter_may_speak_for_other_providers_if_that_is_set() -> None:
    world = World()
    events = CaepReceiver(
        world.sessions, issuer="https://hub.example.com", audience=CLIENT, keys=KEYS, subject_issuers=[ISSUER]
    )
    ann = await world.sign_in()

    assert (await push(events, claims(iss="https://hub.example.com", sub_id=ANN))).status == 202
    assert await world.user(ann) is None


async def test_the_state_of_a_verification_is_checked() -> None:
    world = World()
    events = CaepReceiver(world.sessions, issuer=ISSUER, audience=CLIENT, keys=KEYS, state="expected".__eq__)

    def verification(number: str, **event: str) -> str:
        return claims(jti=number, events={VERIFICATION: event})

    assert (await push(events, verification("1", state="expected"))).status == 202
    for number, other in (("2", {"state": "other"}), ("3", {})):
        answer = await push(events, verification(number, **other))
        assert (answer.status, answer.json["err"]) == (400, "invalid_state")
    assert (await push(events, about(SID))).status == 202


# The request


@rows(
    ("headers", "status"),
    [({"authorization": "Bearer secret"}, 202), ({"authorization": "Bearer other"}, 401), ({}, 401)],
)
async def test_the_authorization_header_of_the_stream_is_checked(headers: dict[str, str], status: int) -> None:
    world = World()
    events = CaepReceiver(world.sessions, issuer=ISSUER, audience=CLIENT, keys=KEYS, authorization="Bearer secret")
    ann = await world.sign_in()

    answer = await push(events, about(SID), **headers)

    assert answer.status == status
    assert (await world.user(ann) is None) == (status == 202)
    assert status == 202 or answer.json["err"] == "authentication_failed"


@rows(
    ("media_type", "method", "padding", "status"),
    [
        ("application/secevent+jwt", "GET", b"", 405),
        ("application/jwt", "POST", b"", 400),
        ("application/json", "POST", b"", 400),
        ("application/secevent+jwt", "POST", b"x" * 40_000, 413),
        ("application/secevent+jwt; charset=us-ascii", "POST", b"", 202),
    ],
)
async def test_only_a_pushed_event_is_read(media_type: str, method: str, padding: bytes, status: int) -> None:
    world = World()
    ann = await world.sign_in()

    assert (await send(world.events, about(SID).encode() + padding, media_type, method)).status == status
    assert (await world.user(ann) is None) == (status == 202)


async def test_an_event_whose_work_failed_may_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    ann = await world.sign_in()

    async def fail(*args: Any, **how: Any) -> int:
        raise BackendUnavailable("The store failed.")

    with monkeypatch.context() as patch:
        patch.setattr(world.sessions, "revoke_linked", fail)
        answer = await push(world.events, about(SID))
    assert answer.status == 503
    assert "retry-after" in answer.headers

    assert (await push(world.events, about(SID))).status == 202
    assert await world.user(ann) is None


async def test_a_token_without_a_key_id_is_tried_with_each_key() -> None:
    world = World()
    ann = await world.sign_in()
    keys = {"keys": [{**key.as_dict(private=False), "kid": name} for name, key in (("1", OTHER_RSA), ("2", RSA))]}
    events = CaepReceiver(world.sessions, issuer=ISSUER, audience=CLIENT, keys=keys)

    assert (await push(events, event(event_claims(), kid=...))).status == 202
    assert await world.user(ann) is None
