"""Acts that sign users in and say who is signed in, and the kinds of backend that can list sessions."""

from collections.abc import Callable, Sequence
from typing import Any

from starsessions import (
    CookieBackend,
    EncryptedCookieBackend,
    InMemoryBackend,
    Session,
    SessionBackend,
    users,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.stores.base import Creation, Deletion, Replacement, Write
from starsessions.stores.memory import MemoryStore
from tests.kinds import on_each
from tests.site import KEY, Browser, Clock, Site

LISTING: dict[str, Callable[[Clock], SessionBackend]] = {
    "memory": lambda clock: InMemoryBackend(clock=clock),
    "stored": lambda clock: StoreBackend(MemoryStore(), clock=clock),
    "encrypted store": lambda clock: StoreBackend(MemoryStore(), encrypt_with=KEY, clock=clock),
    "signed": lambda clock: CookieBackend(KEY, revocations=MemoryStore(), clock=clock),
    "encrypted": lambda clock: EncryptedCookieBackend(KEY, revocations=InMemoryBackend(clock=clock), clock=clock),
}
each_listing = on_each(LISTING, "listing")


_VERBS = {Creation: "create", Replacement: "replace", Deletion: "delete"}


class Recorded(MemoryStore):
    """A store that says which verbs were called: each is a round trip, where the store is a server."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def get(self, key: str, *, now: int) -> Any:
        self.calls.append("get")
        return await super().get(key, now=now)

    async def get_joined(self, key: str, other: str, *, now: int) -> Any:
        self.calls.append("get")
        return await super().get_joined(key, other, now=now)

    async def create(self, key: str, value: bytes, **how: Any) -> Any:
        self.calls.append("create")
        return await super().create(key, value, **how)

    async def replace(self, key: str, value: bytes, version: Any, **how: Any) -> Any:
        self.calls.append("replace")
        return await super().replace(key, value, version, **how)

    async def delete(self, key: str, version: Any = None, *, now: int) -> bool:
        self.calls.append("delete")
        return await super().delete(key, version, now=now)

    async def write_together(self, writes: Sequence[Write], **how: Any) -> Any:
        self.calls.append(" and ".join(_VERBS[type(one)] for one in writes))
        return await super().write_together(writes, **how)

    async def list_owned(self, name: str, **how: Any) -> Any:
        self.calls.append("list")
        return await super().list_owned(name, **how)

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        self.calls.append("count")
        return await super().count_owned(name, most=most, now=now)


class OneByOne:
    """A store that cannot carry out several writes at once."""

    def __init__(self, store: MemoryStore) -> None:
        self.get, self.create, self.replace, self.delete = store.get, store.create, store.replace, store.delete
        self.list_owned, self.count_owned = store.list_owned, store.count_owned


def sign_in(user: str = "ann", **how: Any) -> Callable[[Session], Any]:
    async def act(session: Session) -> None:
        await users.sign_in(session, user, **how)

    return act


def who(session: Session) -> str | None:
    return users.get_user_id(session)


async def signed_in(site: Site, user: str = "ann", **how: Any) -> Browser:
    browser = Browser()
    await site.visit(sign_in(user, **how), browser)
    return browser


async def user_of(site: Site, browser: Browser) -> str | None:
    reply = await site.visit(who, Browser(dict(browser.cookies)))
    assert reply.result is None or isinstance(reply.result, str)
    return reply.result
