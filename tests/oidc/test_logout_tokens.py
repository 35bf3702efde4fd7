"""One row for each rule of OpenID Connect Back-Channel Logout 1.0, sections 2.4 to 2.8: what breaks it ends nothing."""

from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey

from starsessions import BackendUnavailable, ImproperlyConfigured
from starsessions.core.issued import Ending, Refused, Trust
from starsessions.core.logout_token import LOGOUT_EVENT, judge_logout
from starsessions.oidc import BackchannelLogout
from starsessions.oidc.tokens import MOST_BYTES, read
from tests.oidc.provider import (
    CLIENT,
    EC,
    ISSUER,
    KEYS,
    NOW,
    OKP,
    OTHER_RSA,
    RSA,
    World,
    event,
    event_claims,
    log_out,
    logout_claims,
    send,
    signed,
)
from tests.rows import rows

pytestmark = pytest.mark.anyio

FORM = "application/x-www-form-urlencoded"
SECRET = OctKey.import_key("k" * 64, {"kid": "rsa"})


def claims(**changes: Any) -> str:
    return signed(logout_claims(**changes))


def nested(depth: int) -> bytes:
    return b'{"iss":' + b"[" * depth + b"]" * depth + b"}"


REFUSED = {
    # Steps 1 to 3: a JWS, signed by the provider, with an accepted algorithm and type
    "no token": "",
    "not a token": "a.b.c",
    "two parts": signed(logout_claims()).rpartition(".")[0],
    "encrypted": "e30.e30.e30.e30.e30",
    "no signature": signed(logout_claims()).rpartition(".")[0] + ".",
    "another spelling of the signature": signed(logout_claims()) + "=",
    "line break": signed(logout_claims()) + "\n",
    "not ASCII": "é.é.é",
    "algorithm none": "eyJhbGciOiJub25lIn0." + signed(logout_claims()).split(".")[1] + ".",
    "shared secret": signed(logout_claims(), SECRET, alg="HS256"),
    "unknown algorithm": signed(logout_claims(), ECKey.generate_key("secp256k1", {"kid": "ec"}), alg="ES256K"),
    "key of another kind": signed(logout_claims(), EC, alg="ES256", kid="rsa"),
    "unknown key": signed(logout_claims(), kid="other"),
    "signed with another key": signed(logout_claims(), OTHER_RSA),
    "key in the header": signed(logout_claims(), OTHER_RSA, jwk=OTHER_RSA.as_dict(private=False), kid=...),
    "critical header": signed(logout_claims(), crit=["exp"], exp=1),
    "an access token": signed(logout_claims(), typ="at+jwt"),
    "a security event": event(event_claims()),
    "header is no object": "W10." + signed(logout_claims()).partition(".")[2],
    "claims are no object": signed(b"[]"),
    "claims are no JSON": signed(b"{"),
    "claims are nested": signed(nested(4_000)),
    "too long": claims(padding="x" * MOST_BYTES),
    # Step 4: as in an ID token
    "no issuer": claims(iss=...),
    "another issuer": claims(iss="https://login.example.org"),
    "issuer with a slash": claims(iss=ISSUER + "/"),
    "issuer is a list": claims(iss=[ISSUER]),
    "no audience": claims(aud=...),
    "another audience": claims(aud="other"),
    "no audience in the list": claims(aud=[]),
    "another audience besides": claims(aud=[CLIENT, "other"]),
    "audience is an object": claims(aud={CLIENT: 1}),
    "audience in a list of lists": claims(aud=[[CLIENT]]),
    "no iat": claims(iat=...),
    "iat is text": claims(iat=str(NOW)),
    "iat is a bool": claims(iat=True),
    "iat is huge": claims(iat=1e300),
    "iat is negative": claims(iat=-1),
    "issued in the future": claims(iat=NOW + 61, exp=NOW + 200),
    "issued too long ago": claims(iat=NOW - 660, exp=NOW + 60),
    "no exp": claims(exp=...),
    "exp is text": claims(exp="tomorrow"),
    "exp has more digits than a float": claims(exp=2**53),
    "expired": claims(iat=NOW - 120, exp=NOW - 60),
    "not valid yet": claims(nbf=NOW + 61),
    "nbf is text": claims(nbf="now"),
    "no jti": claims(jti=...),
    "jti is empty": claims(jti=""),
    "sid is empty, beside a sub": claims(sid="", sub="sub-1"),
    "sub is empty, beside a sid": claims(sub=""),
    "jti is a number": claims(jti=1),
    "jti is long": claims(jti="x" * 1_001),
    # Step 5
    "neither sid nor sub": claims(sid=...),
    "sid is empty": claims(sid=""),
    "sid is a number": claims(sid=1),
    "sub is null": claims(sub=None),
    "sub is a list": claims(sub=["sub-1"]),
    # Step 6
    "no events": claims(events=...),
    "events is a list": claims(events=[LOGOUT_EVENT]),
    "another event": claims(events={"https://example.com/event": {}}),
    "the event is no object": claims(events={LOGOUT_EVENT: True}),
    # Step 7
    "nonce": claims(nonce="n"),
    "nonce is null": claims(nonce=None),
}


@rows("token", REFUSED.values(), ids=list(REFUSED))
async def test_a_token_that_breaks_a_rule_ends_nothing(token: str) -> None:
    world = World()
    ann = await world.sign_in()

    answer = await log_out(world.logout, token)

    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    assert answer.headers["cache-control"] == "no-store"
    assert await world.user(ann) == "ann"


ACCEPTED = {
    "as specified": signed(logout_claims()),
    "other claims": claims(azp="x", events={LOGOUT_EVENT: {"more": 1}, "https://example.com/event": 1}),
    "audience in a list": claims(aud=[CLIENT]),
    "sid and sub": claims(sub="sub-1"),
    "only sub": claims(sid=..., sub="sub-1"),
    "a fast clock": claims(iat=NOW + 60, exp=NOW + 180, nbf=NOW + 60),
    "a slow clock": claims(iat=NOW - 179, exp=NOW - 59),
    "fractions": claims(iat=NOW - 0.5, exp=NOW + 0.5),
    "no type": signed(logout_claims(), typ=...),
    "type of any JWT": signed(logout_claims(), typ="JWT"),
    "full type": signed(logout_claims(), typ="application/logout+jwt"),
    "no kid": signed(logout_claims(), kid=...),
    "other headers": signed(logout_claims(), x5t="a" * 800),
    "RS512": signed(logout_claims(), alg="RS512"),
    "PS256": signed(logout_claims(), alg="PS256"),
    "ES256": signed(logout_claims(), EC, alg="ES256"),
    "EdDSA": signed(logout_claims(), OKP, alg="Ed25519"),
}


@rows("token", ACCEPTED.values(), ids=list(ACCEPTED))
async def test_a_good_token_ends_the_session(token: str) -> None:
    world = World()
    ann = await world.sign_in()

    answer = await log_out(world.logout, token)

    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["cache-control"] == "no-store"
    assert await world.user(ann) is None


async def test_a_token_of_the_older_name_eddsa_is_accepted_without_a_warning() -> None:
    world = World()
    ann = await world.sign_in()
    with pytest.warns(match="EdDSA is deprecated"):  # from signing it
        token = signed(logout_claims(), OKP, alg="EdDSA")

    assert (await log_out(world.logout, token)).status == 200
    assert await world.user(ann) is None


def test_the_rules_themselves_refuse_another_issuer() -> None:
    """A receiver has refused it before, so that it fetches no keys for it."""
    trust = Trust(ISSUER, CLIENT, 600)
    assert isinstance(judge_logout(logout_claims(), trust, NOW), Ending)
    refused = judge_logout(logout_claims(iss="https://login.example.org"), trust, NOW)
    assert isinstance(refused, Refused)
    assert refused.code == "invalid_issuer"


def test_what_debuggers_print_shows_no_token() -> None:
    assert repr(read(signed(logout_claims()), ["logout+jwt"], ["RS256"])) == "<Token>"


# Replays (step 8)


async def test_a_token_that_has_done_its_work_is_refused() -> None:
    world = World()
    token = claims(sid=..., sub="sub-1")
    await world.sign_in()
    await log_out(world.logout, token)
    again = await world.sign_in()

    answer = await log_out(world.logout, token)

    assert answer.status == 400
    assert await world.user(again) == "ann"


async def test_a_number_is_remembered_for_as_long_as_its_token_could_be_accepted() -> None:
    world = World()
    token = claims(sid=..., sub="sub-1", exp=NOW + 100_000)
    await log_out(world.logout, token)
    for seconds in (120, 539):
        world.clock.now = NOW + seconds
        again = await world.sign_in()
        assert "received before" in (await log_out(world.logout, token)).json["error_description"]
        assert await world.user(again) == "ann"
    world.clock.now = NOW + 660
    assert "expired" in (await log_out(world.logout, token)).json["error_description"]


async def test_numbers_of_two_providers_are_not_confused() -> None:
    world = World()
    other = BackchannelLogout(world.sessions, issuer=ISSUER + "/2", client_id=CLIENT, keys=KEYS)
    ann = await world.sign_in()

    assert (await log_out(other, claims(iss=ISSUER + "/2"))).status == 200
    assert await world.user(ann) == "ann"
    assert (await log_out(world.logout, claims())).status == 200
    assert await world.user(ann) is None


async def test_a_logout_that_failed_may_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    ann = await world.sign_in()

    async def fail(*args: Any, **how: Any) -> int:
        raise BackendUnavailable("The store failed.")

    with monkeypatch.context() as patch:
        patch.setattr(world.sessions, "revoke_linked", fail)
        answer = await log_out(world.logout, claims())
    assert (answer.status, answer.json["error"]) == (400, "temporarily_unavailable")
    assert await world.user(ann) == "ann"

    assert (await log_out(world.logout, claims())).status == 200
    assert await world.user(ann) is None


# What ends


@rows(
    ("token", "left"),
    [
        ({"sid": "sid-1"}, ["second", "nameless", "other"]),
        ({"sid": "sid-1", "sub": "sub-1"}, ["second", "other"]),
        ({"sid": ..., "sub": "sub-1"}, ["other"]),
        ({"sid": "sid-3", "sub": "sub-2"}, ["first", "second", "nameless"]),
        ({"sid": "sid-9"}, ["first", "second", "nameless", "other"]),
        ({"sid": ..., "sub": "sub-9"}, ["first", "second", "nameless", "other"]),
    ],
)
async def test_only_the_sessions_that_are_meant_end(token: dict[str, Any], left: list[str]) -> None:
    world = World()
    people = {
        "first": await world.sign_in("ann", "sid-1", "sub-1"),
        "second": await world.sign_in("ann", "sid-2", "sub-1"),
        "nameless": await world.sign_in("ann", "", "sub-1"),  # a logout of any of the subject's sessions may mean it
        "other": await world.sign_in("bob", "sid-3", "sub-2"),
    }

    assert (await log_out(world.logout, claims(**token))).status == 200

    assert [name for name, one in people.items() if await world.user(one)] == left


# The request and the answer


@rows(
    ("body", "media_type", "method", "status"),
    [
        (b"", FORM, "GET", 405),
        (b"logout_token=" + signed(logout_claims()).encode(), "application/json", "POST", 400),
        (b"logout_token=" + signed(logout_claims()).encode(), "application/x-www-form-urlencoded-not", "POST", 400),
        (b"token=" + signed(logout_claims()).encode(), FORM, "POST", 400),
        (b"logout_token=x&logout_token=" + signed(logout_claims()).encode(), FORM, "POST", 400),
        (b"&".join([b"a=1"] * 20) + b"&logout_token=" + signed(logout_claims()).encode(), FORM, "POST", 400),
        (b"logout_token=\xff", FORM, "POST", 400),
        (b"logout_token=" + signed(logout_claims()).encode() + b"&x=" + b"x" * 40_000, FORM, "POST", 413),
    ],
)
async def test_a_request_of_another_form_is_refused(body: bytes, media_type: str, method: str, status: int) -> None:
    world = World()
    ann = await world.sign_in()

    answer = await send(world.logout, body, media_type, method, chunks=3)

    assert answer.status == status
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)
    assert await world.user(ann) == "ann"


async def test_a_request_in_parts_with_a_charset_is_read() -> None:
    world = World()
    ann = await world.sign_in()
    body = b"logout_token=" + signed(logout_claims()).encode()

    assert (await send(world.logout, body, FORM.upper() + "; charset=UTF-8", chunks=7)).status == 200
    assert await world.user(ann) is None


async def test_a_refusal_is_logged_without_what_is_in_the_token(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    await log_out(world.logout, claims(nonce="secret"))
    await log_out(world.logout, claims(nonce="secret"))

    [record] = caplog.records
    assert "nonce" in record.getMessage()
    assert "secret" not in record.getMessage()


async def test_a_client_that_leaves_and_a_websocket_do_no_harm() -> None:
    world = World()
    sent: list[Any] = []

    async def leave() -> Any:
        return {"type": "http.disconnect"}

    async def take(message: Any) -> None:
        sent.append(message)

    await world.logout({"type": "http", "method": "POST", "path": "/", "headers": []}, leave, take)
    await world.logout({"type": "websocket", "path": "/", "headers": []}, leave, take)

    assert [message.get("status") or message["type"] for message in sent] == [
        400,
        "http.response.body",
        "websocket.close",
    ]


# The settings


@rows(
    ("changes", "says"),
    [
        ({"client_id": ""}, "is missing: pass both"),
        ({"issuer": ""}, "is missing: pass both"),
        ({"algorithms": ["RS256", "none"]}, "algorithms may contain"),
        ({"algorithms": ["HS256"]}, "algorithms may contain"),
        ({"algorithms": []}, "algorithms may contain"),
        ({"keys": {}}, "There is no key"),
        ({"keys": {"keys": []}}, "There is no key"),
        ({"keys": {"keys": ["x"]}}, "There is no key"),
        ({"keys": None, "issuer": "http://login.example.com"}, "a URL with https"),
        ({"keys": None, "issuer": "https://"}, "a URL with https"),
        ({"keys": None, "issuer": "https://["}, "a URL with https"),
        ({"keys": None, "issuer": "https://user:password@example.com"}, "a URL with https"),
        ({"max_age": 0}, "max_age must be"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        BackchannelLogout(World().sessions, **{"issuer": ISSUER, "client_id": CLIENT, "keys": KEYS, **changes})


@rows("key", [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-999"}, {"kid": "rsa"}])
async def test_a_malformed_or_weak_key_signs_nothing(key: dict[str, Any]) -> None:
    world = World()
    logout = BackchannelLogout(world.sessions, issuer=ISSUER, client_id=CLIENT, keys={"keys": [key]})
    for token in (signed(logout_claims(), kid=...), signed(logout_claims(), EC, alg="ES256", kid=...)):
        assert (await log_out(logout, token)).status == 400


async def test_a_key_of_less_than_2048_bits_is_not_used() -> None:
    world = World()
    with pytest.warns(match="2048"):
        weak = RSAKey.generate_key(1024)
    keys = {"keys": [weak.as_dict(private=False)]}
    logout = BackchannelLogout(world.sessions, issuer=ISSUER, client_id=CLIENT, keys=keys)
    token = signed(logout_claims(), weak, kid=...)

    assert "no key" in (await log_out(logout, token)).json["error_description"]


@rows("changes", [{"use": "enc"}, {"alg": "RS512"}, {"kid": "other"}, {"kid": None}, {"kty": "oct"}])
async def test_a_key_for_something_else_is_not_used(changes: dict[str, Any]) -> None:
    world = World()
    key = {**RSA.as_dict(private=False), **changes}
    logout = BackchannelLogout(world.sessions, issuer=ISSUER, client_id=CLIENT, keys={"keys": [key]})

    assert "no key" in (await log_out(logout, claims())).json["error_description"]


async def test_an_audience_that_is_trusted_may_be_named_besides() -> None:
    world = World()
    logout = BackchannelLogout(world.sessions, issuer=ISSUER, client_id=CLIENT, keys=KEYS, trusted_audiences=["mobile"])
    assert (await log_out(logout, claims(aud=["mobile"]))).status == 400
    assert (await log_out(logout, claims(aud=["mobile", CLIENT]))).status == 200


async def test_only_the_accepted_algorithms_are() -> None:
    world = World()
    logout = BackchannelLogout(world.sessions, issuer=ISSUER, client_id=CLIENT, keys=KEYS, algorithms=["ES256"])

    assert (await log_out(logout, claims())).status == 400
    assert (await log_out(logout, signed(logout_claims(), EC, alg="ES256"))).status == 200
