"""Tokens that were changed somewhere: refused, and nothing has ended. The same each time, since the seed is fixed."""

from random import Random

import pytest

from starsessions.core.encoding import from_base64url, to_base64url
from tests.oidc.provider import EC, OKP, RSA, Answer, World, event, event_claims, log_out, logout_claims, push, signed

pytestmark = pytest.mark.anyio

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\0é"


def mutated(token: str, random: Random) -> str:
    """The token with one to three changes: in its text, or in the bytes of one of its parts."""
    for _ in range(random.randint(1, 3)):
        token = random.choice((_in_text, _in_bytes))(token, random)
    return token


def _in_text(token: str, random: Random) -> str:
    at, end = sorted((random.randrange(len(token) + 1), random.randrange(len(token) + 1)))
    return random.choice(
        [
            token[:at] + random.choice(CHARACTERS) + token[at + 1 :],
            token[:at] + random.choice(CHARACTERS) + token[at:],
            token[:at] + token[at + 1 :],
            token[:at] + token[end:],
            token[:at] + token[at:end] + token[at:end] + token[end:],
        ]
    )


def _in_bytes(token: str, random: Random) -> str:
    parts = token.split(".")
    which = random.randrange(len(parts))
    try:
        raw = bytearray(from_base64url(parts[which]))
    except ValueError:
        return token
    if raw:
        raw[random.randrange(len(raw))] = random.choice(b'{}[]":,0123456789abcsubidRSHnoe\x00\xff')
    parts[which] = to_base64url(bytes(raw))
    return ".".join(parts)


async def refuse_all(count: int) -> None:
    """Send that many changed tokens of each kind, and see that nothing ends."""
    random, world = Random(13), World()
    ann = await world.sign_in()
    claims = logout_claims(sub="sub-1")
    logouts = [
        signed(claims),
        signed(claims, EC, alg="ES256"),
        signed(claims, OKP, alg="Ed25519"),
        signed(claims, RSA, kid=...),
    ]
    events = [event(event_claims()), event(event_claims(), kid=...)]
    for number in range(count):
        good = random.choice(logouts if number % 2 else events)
        bad = mutated(good, random)
        if bad == good:
            continue
        answer: Answer = await (log_out(world.logout, bad) if number % 2 else push(world.events, bad))
        assert answer.status == 400, bad
    assert await world.user(ann) == "ann"
    assert (await log_out(world.logout, logouts[0])).status == 200
    assert await world.user(ann) is None


async def test_no_changed_token_is_accepted() -> None:
    await refuse_all(5_000)


@pytest.mark.wide
async def test_no_changed_token_of_a_hundred_thousand_is_accepted() -> None:
    await refuse_all(100_000)
