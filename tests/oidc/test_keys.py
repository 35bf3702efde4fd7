"""The keys of a provider are found, kept, and looked for again: not too often, and nowhere else."""

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from starsessions.oidc import BackchannelLogout, CaepReceiver
from starsessions.oidc.documents import DocumentUnavailable
from starsessions.oidc.keys import (
    AT_MOST_FOR,
    KEPT_FOR,
    PAUSE,
    PAUSE_AFTER_FAILURE,
    DiscoveredKeys,
    openid_configuration,
    ssf_configuration,
)
from starsessions.oidc.tokens import Header
from tests.oidc.provider import (
    CLIENT,
    EC,
    ISSUER,
    KEYS,
    NOW,
    RSA,
    World,
    event,
    event_claims,
    log_out,
    logout_claims,
    push,
    signed,
)
from tests.rows import rows

pytestmark = pytest.mark.anyio

DOCUMENT = ISSUER + "/.well-known/openid-configuration"
KEYS_URL = "https://keys.example.net/set"


class Web:
    """What the provider publishes, and what was asked for."""

    def __init__(self, issuer: str = ISSUER) -> None:
        self.asked: list[str] = []
        self.is_down = False
        self.pages: dict[str, Any] = {
            openid_configuration(issuer): {"issuer": issuer, "jwks_uri": KEYS_URL},
            ssf_configuration(issuer): {"issuer": issuer, "jwks_uri": KEYS_URL},
            KEYS_URL: KEYS,
        }

    async def fetch(self, url: str) -> Mapping[str, Any]:
        self.asked.append(url)
        await anyio.lowlevel.checkpoint()
        if self.is_down or url not in self.pages:
            raise DocumentUnavailable("down")
        page: Mapping[str, Any] = self.pages[url]
        return page

    def keys(self, issuer: str = ISSUER) -> DiscoveredKeys:
        return DiscoveredKeys(issuer, openid_configuration, self.fetch)


KNOWN, UNKNOWN = Header("RS256", "rsa"), Header("RS256", "new")


async def test_keys_are_found_by_discovery_and_kept_for_an_hour() -> None:
    web = Web()
    keys = web.keys()
    for seconds in (0, 1, KEPT_FOR - 1):
        [found] = await keys.matching(KNOWN, NOW + seconds)
        assert found["kid"] == "rsa"
    assert web.asked == [DOCUMENT, KEYS_URL]

    await keys.matching(KNOWN, NOW + KEPT_FOR)
    assert web.asked == [DOCUMENT, KEYS_URL] * 2


async def test_an_unknown_key_is_looked_for_at_most_once_a_minute() -> None:
    web = Web()
    keys = web.keys()
    await keys.matching(KNOWN, NOW)
    for _ in range(3):
        assert await keys.matching(UNKNOWN, NOW + PAUSE - 1) == []
    assert len(web.asked) == 2

    web.pages[KEYS_URL] = {"keys": [{**RSA.as_dict(private=False), "kid": "new"}]}
    for _ in range(3):
        assert len(await keys.matching(UNKNOWN, NOW + PAUSE)) == 1
        assert await keys.matching(KNOWN, NOW + PAUSE) == []
    assert len(web.asked) == 4


@pytest.mark.both_loops
async def test_requests_at_the_same_time_fetch_once() -> None:
    web = Web()
    keys = web.keys()
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(keys.matching, KNOWN, NOW)
    assert web.asked == [DOCUMENT, KEYS_URL]


async def test_without_an_answer_the_keys_are_used_for_a_day() -> None:
    web = Web()
    keys = web.keys()
    await keys.matching(KNOWN, NOW)
    web.is_down = True

    for seconds in (KEPT_FOR, KEPT_FOR + PAUSE_AFTER_FAILURE - 1):
        assert len(await keys.matching(KNOWN, NOW + seconds)) == 1
    assert len(web.asked) == 3
    assert len(await keys.matching(KNOWN, NOW + AT_MOST_FOR - 1)) == 1
    with pytest.raises(DocumentUnavailable):
        await keys.matching(KNOWN, NOW + AT_MOST_FOR)
    with pytest.raises(DocumentUnavailable):  # and not those that were thrown away
        await keys.matching(KNOWN, NOW + AT_MOST_FOR + 1)

    web.is_down = False
    assert len(await keys.matching(KNOWN, NOW + AT_MOST_FOR + PAUSE_AFTER_FAILURE)) == 1


@rows(
    ("document", "key_set"),
    [
        ({"issuer": "https://login.example.org", "jwks_uri": KEYS_URL}, KEYS),
        ({"jwks_uri": KEYS_URL}, KEYS),
        ({"issuer": ISSUER}, KEYS),
        ({"issuer": ISSUER, "jwks_uri": ["x"]}, KEYS),
        ({"issuer": ISSUER, "jwks_uri": "http://keys.example.net/set"}, KEYS),
        ({"issuer": ISSUER, "jwks_uri": "http://127.0.0.1/set"}, KEYS),
        ({"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"}, KEYS),
        ({"issuer": ISSUER, "jwks_uri": "https://["}, KEYS),
        ({"issuer": ISSUER, "jwks_uri": KEYS_URL}, {}),
        ({"issuer": ISSUER, "jwks_uri": KEYS_URL}, {"keys": {}}),
        ({"issuer": ISSUER, "jwks_uri": KEYS_URL}, {"keys": []}),
    ],
)
async def test_a_document_that_leads_to_no_keys_is_not_followed(document: Any, key_set: Any) -> None:
    web = Web()
    web.pages = {DOCUMENT: document}
    web.pages.update(dict.fromkeys((KEYS_URL, "http://keys.example.net/set", "http://127.0.0.1/set"), key_set))

    with pytest.raises(DocumentUnavailable):
        await web.keys().matching(KNOWN, NOW)
    assert all(url.startswith("https://") for url in web.asked)


async def test_a_provider_on_this_machine_may_use_http() -> None:
    web = Web("http://localhost:9000")
    web.pages["http://localhost:9000/.well-known/openid-configuration"]["jwks_uri"] = "http://[::1]:9000/keys"
    web.pages["http://[::1]:9000/keys"] = KEYS

    assert len(await web.keys("http://localhost:9000").matching(KNOWN, NOW)) == 1


# In the receivers


async def test_a_logout_token_is_verified_with_discovered_keys() -> None:
    world, web = World(), Web()
    logout = BackchannelLogout(world.sessions, issuer=ISSUER, client_id=CLIENT)
    logout.keys = web.keys()
    ann = await world.sign_in()

    assert (await log_out(logout, signed(logout_claims(iss="https://login.example.org")))).status == 400
    assert web.asked == []
    web.is_down = True
    answer = await log_out(logout, signed(logout_claims()))
    assert (answer.status, answer.json["error"]) == (400, "temporarily_unavailable")
    assert await world.user(ann) == "ann"
    web.is_down = False
    world.clock.advance(PAUSE_AFTER_FAILURE)
    assert (await log_out(logout, signed(logout_claims()))).status == 200
    assert await world.user(ann) is None


async def test_an_event_with_a_critical_member_that_is_not_understood_is_discarded() -> None:
    world, web = World(), Web()
    web.pages[ssf_configuration(ISSUER)]["critical_subject_members"] = ["user", "tenant"]
    events = CaepReceiver(world.sessions, issuer=ISSUER, audience=CLIENT)
    events.keys = DiscoveredKeys(ISSUER, ssf_configuration, web.fetch)
    ann = await world.sign_in()
    subject = {"format": "complex", "session": {"format": "opaque", "id": "sid-1"}}
    tenant = {"tenant": {"format": "opaque", "id": "1"}}

    assert (await push(events, event(event_claims(sub_id={**subject, **tenant})))).status == 400
    assert await world.user(ann) == "ann"
    assert (await push(events, event(event_claims(sub_id=subject)))).status == 202
    assert await world.user(ann) is None


@rows("members", [None, "tenant", {"tenant": 1}])
async def test_malformed_critical_members_are_ignored(members: Any) -> None:
    web = Web()
    web.pages[DOCUMENT]["critical_subject_members"] = members
    keys = web.keys()
    await keys.matching(Header("ES256", "ec"), NOW)
    assert EC.kid == "ec"
    assert keys.critical_members == ()
