"""After an erasure, no byte of the user's id is in a dump that the tools of the database make."""

import subprocess
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from starsessions import CookieBackend
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.personal import erase_user
from starsessions.users import UserSessions
from tests.servers import postgres, redis
from tests.servers.process import program
from tests.shell.people import sign_in, signed_in, user_of
from tests.site import KEY, Browser, Clock, Site

pytestmark = [pytest.mark.anyio, pytest.mark.once]

ANN, BOB = "ann+7f3e9c51@example.com", "bob+0b6d2a84@example.com"
PROVIDER = {"provider": "https://idp.example.com", "provider_session": "s-1", "provider_subject": "sub-1"}


def spellings(text: str) -> set[bytes]:
    """A text as it may be in a dump: as it is, in hex, and in base64, wherever in it the text begins."""
    raw = text.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode()}
    for before in range(3):
        end = (before + len(raw)) // 3 * 4
        encoded = b64encode(b"\0" * before + raw)[(before * 8 + 5) // 6 : end]
        found |= {encoded, encoded.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def times_in(dump: bytes, user: str) -> int:
    return sum(dump.count(spelled) for spelled in spellings(user))


@pytest.mark.guarantee(29)
@pytest.mark.parametrize("before", range(3))
def test_a_spelling_is_found_wherever_the_text_begins(before: int) -> None:
    dump = b"x" * before + ANN.encode() + b"and so on"
    assert all(times_in(form, ANN) for form in (dump, dump.hex().encode(), b64encode(dump)))
    assert times_in(b64encode(dump), BOB) == 0


async def in_use(backend: StoreBackend, clock: Clock) -> tuple[Site, Browser, Browser]:
    """Sign two users in, and do all that stores an id of a user. Return the site and their browsers."""
    site = Site(backend=backend, autoload=True, clock=clock, rotate_every=90)
    ann, bob = Browser(), Browser()
    for browser, user in ((ann, ANN), (bob, BOB)):
        await site.visit(lambda session, user=user: session.update(typed=user), browser)
        await site.visit(sign_in(user, **PROVIDER), browser)
    clock.now += 100
    await site.visit(None, ann)  # it gets another id
    await signed_in(site, ANN, **PROVIDER)
    await UserSessions(backend).revoke(ANN, (await UserSessions(backend).list(ANN))[0].handle)  # its links remain
    return site, ann, bob


async def erased(backend: StoreBackend, clock: Clock, dump: Callable[[], bytes]) -> None:
    """Erase one of two users, and compare the dumps of before and after."""
    site, ann, bob = await in_use(backend, clock)
    # In cookies of the same store as well, and under the same id.
    cookies = CookieBackend(KEY, revocations=backend, clock=clock)
    there = Site(backend=cookies, autoload=True, clock=clock, session_cookie="other")
    await signed_in(there, ANN, **PROVIDER)
    before = dump()
    assert times_in(before, ANN) >= 8
    of_bob = times_in(before, BOB)
    assert of_bob >= 4
    counted = await erase_user(backend, ANN)
    assert (counted.sessions, counted.unreadable) == (1, 0)
    assert (await erase_user(cookies, ANN)).sessions == 1
    after = dump()
    assert times_in(after, ANN) == 0
    assert times_in(after, BOB) == of_bob
    assert await user_of(site, ann) is None
    assert await user_of(site, bob) == BOB


@pytest.mark.guarantee(29)
async def test_nothing_of_an_erased_user_is_in_the_files_of_redis(clock: Clock, tmp_path: Path) -> None:
    # Compressed or in the form of a snapshot, the id could not be looked for.
    plain = {"rdbcompression": "no", "aof-use-rdb-preamble": "no"}
    with redis.standalone(durable=True, config=plain) as server:

        def dump() -> bytes:
            copy = tmp_path / "copy.rdb"
            command = [program("redis-cli", package="redis-tools"), "-p", str(server.port), "--rdb", str(copy)]
            subprocess.run(command, check=True, capture_output=True)
            server.ask("BGREWRITEAOF")
            server.wait_until(lambda: has_rewritten(server), "did not rewrite its log")
            # What the manifest does not name is removed later, by a thread.
            [manifest] = server.directory.rglob("*.manifest")
            log = [manifest.parent / line.split()[1] for line in manifest.read_text().splitlines()]
            assert log
            return b"".join(file.read_bytes() for file in (copy, *log))

        backend = RedisBackend(server.url, clock=clock, timeout=30)
        async with backend.lifespan():
            await erased(backend, clock, dump)


def has_rewritten(server: redis.RedisServer) -> bool:
    with server.client() as client:
        state: Any = client.info("persistence")
    return not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])


@pytest.mark.guarantee(29)
async def test_nothing_of_an_erased_user_is_in_a_dump_of_postgresql(clock: Clock) -> None:
    with postgres.server() as server:
        pg_dump = postgres.postgres_program("pg_dump")

        def dump() -> bytes:
            # Without options, and with the forms that a tool might choose.
            return b"".join(
                subprocess.run([pg_dump, server.url, *options], check=True, capture_output=True).stdout
                for options in ([], ["--inserts", "--clean"])
            )

        backend = SQLAlchemyBackend(server.url, clock=clock, timeout=30)
        await backend.create_table()
        try:
            await erased(backend, clock, dump)
        finally:
            await backend.store.aclose()
