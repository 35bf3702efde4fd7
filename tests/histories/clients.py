"""Browsers with several tabs, and what they ask at random. Nothing here waits: the driver sends what is chosen."""

from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import NamedTuple

from tests.histories.checker import WITH_COOKIE
from tests.histories.history import KEYS, Answer, Operation

ANONYMOUS = {"get": 20, "set": 16, "delete": 4, "increment": 12, "rotate": 3, "sign_in": 30, "sign_out": 1}
SIGNED_IN = {
    "get": 30,
    "set": 22,
    "delete": 6,
    "increment": 18,
    "rotate": 5,
    "sign_in": 3,
    "sign_out": 4,
    "list": 6,
    "revoke": 3,
    "revoke_others": 2,
    "revoke_all": 1,
    "replay": 8,
}
MOVING = ("begin", "rotate", "sign_in", "sign_out", "revoke_others")
"""What changes the cookie: one tab of a browser does it at a time, as one person does."""


class Request(NamedTuple):
    """What to send: the fields of an `Operation`."""

    kind: str
    browser: str
    token: str = ""
    name: str = ""
    user: str = ""
    handle: str = ""
    key: str = ""
    value: str | None = None
    confirms: bool = True


@dataclass
class Browser:
    """One cookie jar."""

    id: str
    token: str = ""
    name: str = ""
    user: str = ""
    is_dead: bool = False
    """Whether the cookie has opened nothing."""
    is_moving: bool = False


@dataclass
class World:
    """What the clients know together. The same seed makes the same choices from the same knowledge."""

    rng: Random
    users: list[str]
    browsers: list[Browser]
    owners: dict[str, str] = field(default_factory=dict)
    """All cookies that were ever handed out, and the browsers that got them."""
    names: dict[str, str] = field(default_factory=dict)
    users_of: dict[str, str] = field(default_factory=dict)
    handles: dict[str, str] = field(default_factory=dict)
    """The sign-ins that were heard of, and their users."""
    numbers: "count[int]" = field(default_factory=lambda: count(1))
    ends_everyone: float = 0.0
    """The share of requests that end the sessions of all users."""

    @classmethod
    def of(cls, seed: int, users: int, browsers: int, ends_everyone: float = 0.0) -> "World":
        everyone = [f"user{number}" for number in range(users)]
        found = [Browser(f"b{number}") for number in range(browsers)]
        return cls(Random(seed), everyone, found, ends_everyone=ends_everyone)

    def choose(self, browser: Browser) -> Request:
        """Return what this browser asks next."""
        if self.ends_everyone and self.rng.random() < self.ends_everyone:
            return Request("revoke_everyone", browser.id)
        weights = SIGNED_IN if browser.user else ANONYMOUS
        kinds = [kind for kind in weights if not (browser.is_moving and kind in MOVING)]
        kind = self.rng.choices(kinds, [weights[kind] for kind in kinds])[0]
        if not browser.token or (browser.is_dead and not browser.is_moving):
            kind = self.rng.choice(["begin", "sign_in"]) if not browser.is_moving else "list"
        return self.request(kind, browser)

    def request(self, kind: str, browser: Browser) -> Request:
        """Return a request of this kind, with arguments at random."""
        number, user = next(self.numbers), browser.user or self.rng.choice(self.users)
        if kind in ("begin", "sign_in") and browser.is_dead:
            # The user has cleared the cookies, or goes on with a cookie that opens nothing, as a browser does.
            browser.token = self.rng.choice([browser.token, ""]) if kind == "sign_in" else ""
        mine = Request(kind, browser.id, browser.token, browser.name, user)
        match kind:
            case "begin" | "sign_in":
                other = self.rng.random() < 0.1
                return mine._replace(
                    value=f"{browser.id}-{number}", user=self.rng.choice(self.users) if other else user
                )
            case "set":
                key, confirms = self.rng.choice(KEYS), self.rng.random() < 0.5
                return mine._replace(key=key, value=f"v{number}", confirms=confirms)
            case "delete":
                return mine._replace(key=self.rng.choice(KEYS), confirms=self.rng.random() < 0.5)
            case "list" | "revoke_all":
                return Request(kind, browser.id, user=user)
            case "revoke" if known := sorted(handle for handle, whose in self.handles.items() if whose == user):
                return Request(kind, browser.id, user=user, handle=self.rng.choice(known[-20:]))
            case "revoke":
                return Request("list", browser.id, user=user)
            case "replay":
                return self.replay(self.rng.choice(list(self.owners)[-200:]) if self.owners else browser.token)
        return mine

    def replay(self, token: str) -> Request:
        """Return a request of someone who has copied this cookie."""
        return Request("replay", self.owners.get(token, ""), token, self.names.get(token, ""))

    def heard(self, operation: Operation) -> None:
        """Learn from an answer, as a browser does: a cookie in it replaces the one that the browser has."""
        answer = operation.answer
        if answer is None:
            return
        self._note(operation, answer)
        browser = next((one for one in self.browsers if one.id == operation.browser), None)
        if browser is None or operation.kind == "replay":
            return
        if answer.token is not None:
            browser.token, browser.is_dead = answer.token, False
        seen = answer.left
        if browser.token in (operation.token, answer.token) and operation.kind in WITH_COOKIE:
            browser.name = seen.name if seen else ""
            browser.user = (seen.user or "") if seen else ""
            browser.is_dead = seen is None

    def _note(self, operation: Operation, answer: Answer) -> None:
        if answer.token:
            self.owners.setdefault(answer.token, operation.browser)
            if answer.left:
                self.names[answer.token] = answer.left.name
        for seen in filter(None, (answer.opened, answer.left)):
            if seen.handle and seen.user:
                self.handles[seen.handle] = seen.user
        if operation.kind == "list":
            self.handles |= dict.fromkeys(answer.value, operation.user)
