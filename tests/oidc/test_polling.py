"""Events that are fetched: Poll-Based Security Event Token Delivery (RFC 8936)."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from starsessions import BackendUnavailable, ImproperlyConfigured
from starsessions.oidc import CaepReceiver, caep
from starsessions.oidc.documents import DocumentUnavailable
from tests.oidc.provider import CLIENT, EC, ISSUER, KEYS, World, event, event_claims
from tests.rows import rows

pytestmark = pytest.mark.anyio

URL = "https://login.example.com/streams/1/events"


class Done(Exception):
    """The test has seen enough."""


class Transmitter:
    """Holds events until they are acknowledged, and says what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world: World, *answers: object, pauses: int = 1) -> None:
        """Give these answers, and after them what was not acknowledged. Stop the receiver after so many pauses."""
        self.world = world
        self.events: dict[str, object] = {}
        self.answers = list(answers)
        self.asked: list[Mapping[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.pauses: list[float] = []
        self.most = pauses
        monkeypatch.setattr(caep, "post", self.post)
        monkeypatch.setattr(caep, "sleep", self.sleep)

    def send(self, number: str, **changes: Any) -> None:
        self.events[number] = event(event_claims(jti=number, **changes))

    async def post(self, url: str, document: Mapping[str, Any], headers: Mapping[str, str], limit: float) -> Any:
        assert url == URL
        assert len(self.asked) < 20, "asked without a pause"
        self.asked.append(document)
        self.headers.append(headers)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        for number in [*document.get("ack", ()), *document.get("setErrs", ())]:
            self.events.pop(number, None)
        return {"sets": dict(self.events)} if answer is None else answer

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) >= self.most:
            raise Done

    async def is_polled(self, events: CaepReceiver | None = None, **how: Any) -> None:
        with pytest.raises(Done):
            await (events or self.world.events).poll(URL, **how)


def asked(*ack: str) -> Mapping[str, Any]:
    """What is there to be acknowledged is named, and otherwise the member is missing (RFC 8936, 2.4.1)."""
    return {"maxEvents": 10} | ({"ack": list(ack)} if ack else {})


async def test_an_event_is_acknowledged_after_its_session_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    ann = await world.sign_in()
    transmitter = Transmitter(monkeypatch, world)
    transmitter.send("1")
    transmitter.send("2", sub_id={"format": "opaque", "id": "unknown"})

    await transmitter.is_polled()

    assert transmitter.asked == [asked(), asked("1", "2")]  # the second one at once, and then there is nothing more
    assert transmitter.pauses == [1]
    assert await world.user(ann) is None


REFUSED = {
    "another algorithm": (event(event_claims(), EC, alg="ES256"), "invalid_request"),
    "another issuer": (event(event_claims(iss="https://login.example.org")), "invalid_issuer"),
    "no token": ("x", "invalid_request"),
    "no text": (1, "invalid_request"),
}


@rows(("token", "code"), REFUSED.values(), ids=list(REFUSED))
async def test_an_event_that_breaks_a_rule_ends_nothing_and_is_reported_to_the_transmitter(
    token: object, code: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    ann = await world.sign_in()
    transmitter = Transmitter(monkeypatch, world)
    transmitter.events["1"] = token

    await transmitter.is_polled()

    [_, told] = transmitter.asked
    assert told.keys() == {"maxEvents", "setErrs"}
    assert told["setErrs"] == {"1": {"err": code, "description": told["setErrs"]["1"]["description"]}}
    assert told["setErrs"]["1"]["description"] in caplog.text
    assert {headers["content-language"] for headers in transmitter.headers} == {"en"}
    assert await world.user(ann) == "ann"


@rows("answer", [{"sets": {}}, {"sets": {}, "moreAvailable": True}])
async def test_after_an_answer_without_events_there_is_a_pause(
    answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    transmitter = Transmitter(monkeypatch, World(), answer, answer, pauses=2)
    await transmitter.is_polled(pause=7)
    assert transmitter.pauses == [7, 7]


@rows("answer", [{}, {"sets": None}, {"sets": ["x"]}, {"SETS": {}}])
async def test_an_answer_that_says_nothing_of_events_is_a_failure(
    answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise no one would notice that sign-outs do not arrive."""
    transmitter = Transmitter(monkeypatch, World(), None, answer, answer, pauses=2)
    transmitter.send("1")
    await transmitter.is_polled()
    assert transmitter.pauses == [2, 4]
    assert transmitter.asked == [asked(), asked("1"), asked("1")]
    assert "no sets" in caplog.text


async def test_a_transmitter_that_ignores_acknowledgements_is_asked_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again = {"sets": {"1": event(event_claims())}}
    transmitter = Transmitter(monkeypatch, World(), *[again] * 3, pauses=2)
    await transmitter.is_polled()
    assert transmitter.asked == [asked(), asked("1"), asked("1")]


async def test_an_event_whose_work_failed_is_not_acknowledged_and_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    ann, bob = await world.sign_in(), await world.sign_in("bob", "sid-2", "sub-2")
    transmitter = Transmitter(monkeypatch, world, pauses=2)
    errors: list[Exception] = [BackendUnavailable("The store failed."), KeyError("ann@example.com")]

    async def users_of(subject: Mapping[str, Any]) -> Iterable[str]:
        if errors:
            raise errors.pop()
        return ["ann"]

    events = CaepReceiver(world.sessions, issuer=ISSUER, audience=CLIENT, keys=KEYS, users_of=users_of)
    transmitter.send("1", sub_id={"format": "email", "email": "ann@example.com"})
    transmitter.send("2", sub_id={"format": "opaque", "id": "sid-2"})

    await transmitter.is_polled(events)
    assert transmitter.asked == [asked(), asked("2")]
    assert (await world.user(ann), await world.user(bob)) == ("ann", None)
    [record] = caplog.records
    assert "KeyError" in record.getMessage()
    assert "example.com" not in record.getMessage()

    await transmitter.is_polled(events)
    assert transmitter.asked[2:] == [asked(), asked("1")]
    assert await world.user(ann) is None


async def test_a_transmitter_that_fails_is_asked_less_and_less_often_until_it_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [DocumentUnavailable("The provider answered 503.")] * 7
    transmitter = Transmitter(monkeypatch, World(), *failures, None, failures[0], pauses=9)
    await transmitter.is_polled()
    assert transmitter.pauses == [2, 4, 8, 16, 32, 60, 60, 1, 2]
    [record] = caplog.records
    assert record.getMessage().endswith("The provider answered 503.")


async def test_what_was_not_acknowledged_because_of_a_failure_is_acknowledged_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transmitter = Transmitter(monkeypatch, World(), None, DocumentUnavailable("No answer."), pauses=2)
    transmitter.send("1")
    await transmitter.is_polled()
    assert transmitter.asked == [asked(), asked("1"), asked("1")]


async def test_each_request_asks_for_its_authorization(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    transmitter = Transmitter(monkeypatch, World(), pauses=3)
    tokens = ["Bearer 1", None, "Bearer 2"]

    async def authorization() -> str:
        token = tokens.pop(0)
        if token is None:
            raise ValueError("a secret")
        return token

    await transmitter.is_polled(authorization=authorization)
    assert [headers["authorization"] for headers in transmitter.headers] == ["Bearer 1", "Bearer 2"]
    assert "ValueError" in caplog.text
    assert "a secret" not in caplog.text


async def test_events_are_fetched_by_https_only(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    transmitter = Transmitter(monkeypatch, world)
    with pytest.raises(ImproperlyConfigured, match="https"):
        await world.events.poll("http://login.example.com/events")
    assert transmitter.asked == []
