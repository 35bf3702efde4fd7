"""What comes back with a backup, by the tools of each server: no session that was ended, if it is done right."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from starsessions import CookieBackend, Session, SessionBackend
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.stores.base import Store
from starsessions.users import UserSessions
from tests.servers import postgres, redis
from tests.servers.postgres import PostgresServer, postgres_program
from tests.servers.process import copy_folder, new_folder, program, remove_folder
from tests.servers.redis import RedisServer
from tests.shell.people import signed_in, user_of
from tests.site import KEY, Browser, Site

pytestmark = [pytest.mark.anyio, pytest.mark.once]


def dump(server: PostgresServer, tool: str, *options: str | Path) -> None:
    """Run a tool that is PostgreSQL's own on the database of the server."""
    command = [str(postgres_program(tool)), *map(str, options)]
    done = subprocess.run(command, env={**os.environ, "PGPASSWORD": server.password}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


class Postgres:
    """`pg_dump` and `pg_restore`."""

    left_out: tuple[str, ...] = ()

    def __init__(self, stack: ExitStack, server: PostgresServer) -> None:
        self.server = server
        self.folder = new_folder()
        stack.callback(remove_folder, self.folder)
        with server.client() as client:
            client.execute("DROP TABLE IF EXISTS starsessions")

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        backend = SQLAlchemyBackend(self.server.address.over("asyncpg"), timeout=30)
        await backend.create_table()
        try:
            yield backend.store
        finally:
            await backend.store.aclose()

    def take(self) -> None:
        where = "--dbname", self.server.url.replace(f":{self.server.password}", "")
        dump(self.server, "pg_dump", *where, "--format=custom", "--file", self.folder / "dump", *self.left_out)

    def restore(self) -> None:
        where = "--dbname", self.server.url.replace(f":{self.server.password}", "")
        dump(self.server, "pg_restore", *where, "--clean", "--if-exists", self.folder / "dump")

    def empty(self) -> None:
        with self.server.client() as client:
            client.execute("TRUNCATE starsessions")


class WithoutSessions(Postgres):
    """The sessions are left out of the dump. Their table is in it."""

    left_out = ("--exclude-table-data=starsessions",)


class ToTheLastMoment(Postgres):
    """A base backup, and an archive of all that was written after it."""

    def __init__(self, stack: ExitStack, server: PostgresServer) -> None:
        self.stack = stack
        self.folder = new_folder(postgres.unprivileged("postgres"))
        stack.callback(remove_folder, self.folder)
        whole = f"cp %p {self.folder}/part && mv {self.folder}/part {self.folder}/%f"  # the server is killed later
        archive = {"archive_mode": "on", "archive_command": whole, "fsync": "on"}
        self.server = stack.enter_context(postgres.server(settings=archive))

    def take(self) -> None:
        where = "--dbname", self.server.url.replace(f":{self.server.password}", "")
        dump(self.server, "pg_basebackup", *where, "--pgdata", self.folder / "base", "--checkpoint=fast")
        if self.server.user is not None:
            for path in (self.folder / "base", *(self.folder / "base").rglob("*")):
                shutil.chown(path, self.server.user)

    def restore(self) -> None:
        """The server is lost. Another one begins with the base backup, and repeats what is in the archive."""
        with self.server.client() as client:
            [(written,)] = client.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchall()
        self.server.wait_until((self.folder / written).exists, "did not archive its log")
        self.server.kill()
        settings = {"restore_command": f"cp {self.folder}/%f %p", **postgres.HASTY}
        other = self.stack.enter_context(PostgresServer(settings))
        remove_folder(other.data)
        (self.folder / "base" / "recovery.signal").touch()
        copy_folder(self.folder / "base", other.data, other.user)
        other.start()
        other.wait_until(lambda: not in_recovery(other), "did not leave recovery")
        self.server = other


def in_recovery(server: PostgresServer) -> bool:
    with server.client() as client:
        [(answer,)] = client.execute("SELECT pg_is_in_recovery()").fetchall()
        return bool(answer)


class Redis:
    """A copy of the file that `SAVE` writes."""

    durable = False
    saved = "dump.rdb"

    def __init__(self, stack: ExitStack, server: PostgresServer) -> None:
        self.stack = stack
        self.server = stack.enter_context(redis.standalone(durable=self.durable))
        self.folder = new_folder()
        stack.callback(remove_folder, self.folder)

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        backend = RedisBackend(self.server.url, timeout=30)
        async with backend.lifespan():
            yield backend.store

    def take(self) -> None:
        self.server.ask("SAVE")
        shutil.copy(self.server.directory / self.saved, self.folder)

    def restore(self) -> None:
        self.server.stop()
        shutil.copy(self.folder / self.saved, self.server.directory)
        self.server.start()

    def empty(self) -> None:
        """As it is done where the server holds more than sessions."""
        cli = f"{program('redis-cli', package='redis-tools')} -p {self.server.port}"
        command = f"{cli} --scan --pattern 'starsessions:*' | xargs -r {cli} UNLINK"
        subprocess.run(command, shell=True, check=True, capture_output=True)


class WithTheLog(Redis):
    """The append-only file, which another disk has a copy of."""

    durable = True

    def take(self) -> None:
        pass

    def restore(self) -> None:
        self.server.kill()
        config = redis.settings(True, None)
        other = self.stack.enter_context(RedisServer("Redis", redis.free_port(), config))
        shutil.copytree(self.server.directory / "appendonlydir", other.directory / "appendonlydir")
        other.start()
        self.server = other


Place = Postgres | Redis
OF_LAST_NIGHT: list[type[Place]] = [Postgres, Redis]
TO_THE_LAST_MOMENT: list[type[Place]] = [ToTheLastMoment, WithTheLog]

Kind = Callable[[Store], SessionBackend]
KINDS: dict[str, Kind] = {
    "stored": lambda store: StoreBackend(store, check_epoch=True),
    "signed": lambda store: CookieBackend(KEY, revocations=store, check_epoch=True),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """The one whose dumps are restored into itself."""
    with postgres.server() as server:
        yield server


@pytest.fixture
def place(request: pytest.FixtureRequest, server: PostgresServer) -> Iterator[Place]:
    with ExitStack() as stack:
        yield request.param(stack, server)


def at(*places: type[Place]) -> Any:
    return pytest.mark.parametrize("place", places, indirect=True, ids=lambda one: one.__name__)


def put(session: Session) -> None:
    session["n"] = 1


async def new_id(session: Session) -> None:
    await session.regenerate_id()


async def leave(session: Session) -> None:
    await session.delete()


class Story:
    """Sessions of which a copy is taken. After that, some of them are ended, one gets another id, and one begins."""

    def __init__(self, place: Place, kind: Kind) -> None:
        self.place, self.kind = place, kind
        self.browsers: dict[str, Browser] = {}

    @asynccontextmanager
    async def site(self) -> AsyncIterator[tuple[Site, UserSessions]]:
        async with self.place.store() as store:
            backend = self.kind(store)
            yield Site(backend=backend, autoload=True), UserSessions(backend)

    async def tell(self) -> None:
        async with self.site() as (site, sessions):
            names = ("ended before", "stays", "signs out", "all ended", "ended by handle", "rotates", "changed")
            for name in names:
                self.browsers[name] = await signed_in(site, name)
            self.browsers["anonymous"] = Browser()
            await site.visit(put, self.browsers["anonymous"])
            await site.visit(leave, Browser(dict(self.browsers["ended before"].cookies)))
        self.place.take()
        async with self.site() as (site, sessions):
            self.browsers["begins later"] = await signed_in(site, "begins later")
            await site.visit(leave, Browser(dict(self.browsers["signs out"].cookies)))
            await sessions.revoke_all("all ended")
            [one] = await sessions.list("ended by handle")
            await sessions.revoke("ended by handle", one.handle)
            rotated = Browser(dict(self.browsers["rotates"].cookies))
            await site.visit(new_id, rotated)
            self.browsers["rotated"] = rotated
            await site.visit(put, self.browsers["changed"])

    async def alive(self) -> set[str]:
        """The browsers whose cookie opens a session."""
        async with self.site() as (site, _):
            users = {name: await user_of(site, browser) for name, browser in self.browsers.items()}
            anonymous = Browser(dict(self.browsers["anonymous"].cookies))
            users["anonymous"] = "anonymous" if await site.data(anonymous) else None
        return {name for name, user in users.items() if user is not None}


ALIVE = {"stays", "changed", "rotated", "begins later", "anonymous"}
"""Of those who had a session, whose is alive when the server is lost."""


PLAIN: dict[str, Kind] = {
    "stored": StoreBackend,
    "signed": lambda store: CookieBackend(KEY, revocations=store),
}
"""With the settings that most have."""


@at(*OF_LAST_NIGHT)
async def test_all_that_were_ended_since_a_dump_come_back_with_it(place: Place, kind: Kind) -> None:
    """The danger, which the tests below show to be averted."""
    story = Story(place, kind)
    await story.tell()
    assert await story.alive() == ALIVE
    place.restore()
    assert await story.alive() >= {"signs out", "all ended", "ended by handle", "rotates"}
    assert "ended before" not in await story.alive()


@pytest.mark.guarantee(29)
@pytest.mark.parametrize("plain", list(PLAIN))
@at(*OF_LAST_NIGHT)
async def test_nothing_of_a_dump_opens_once_the_store_was_emptied(place: Place, plain: str) -> None:
    story = Story(place, PLAIN[plain])
    await story.tell()
    place.restore()
    assert await story.alive() >= {"signs out", "all ended", "ended by handle", "rotates"}
    place.empty()
    stays_in_the_cookie = {"anonymous"} if plain == "signed" else set[str]()
    assert await story.alive() == stays_in_the_cookie
    async with story.site() as (site, _):
        story.browsers = {"new": await signed_in(site, "new"), "anonymous": story.browsers["anonymous"]}
    assert await story.alive() == {"new"} | stays_in_the_cookie


@pytest.mark.guarantee(29)
@at(*OF_LAST_NIGHT)
async def test_no_signed_in_session_of_a_dump_opens_once_everyone_was_ended(place: Place, kind: Kind) -> None:
    story = Story(place, kind)
    await story.tell()
    place.restore()
    async with story.site() as (_, sessions):
        await sessions.revoke_everyone()
    assert await story.alive() == {"anonymous"}
    async with story.site() as (site, _):
        story.browsers = {"new": await signed_in(site, "new"), "anonymous": story.browsers["anonymous"]}
    assert await story.alive() == {"new", "anonymous"}


@at(*OF_LAST_NIGHT)
async def test_ending_everyone_before_a_dump_is_restored_ends_none_in_it(place: Place, kind: Kind) -> None:
    story = Story(place, kind)
    await story.tell()
    async with story.site() as (_, sessions):
        await sessions.revoke_everyone()
    assert await story.alive() == {"anonymous"}
    place.restore()
    assert await story.alive() >= {"signs out", "all ended", "ended by handle", "rotates"}


@pytest.mark.guarantee(29)
@at(WithoutSessions)
async def test_nothing_opens_where_the_sessions_were_left_out_of_the_dump(place: Place, kind: Kind) -> None:
    story = Story(place, kind)
    await story.tell()
    place.restore()
    stays_in_the_cookie = {"anonymous"} if kind is KINDS["signed"] else set[str]()
    assert await story.alive() == stays_in_the_cookie


@pytest.mark.guarantee(29)
@at(*TO_THE_LAST_MOMENT)
async def test_what_is_restored_to_the_last_moment_is_alive_if_it_was(place: Place, kind: Kind) -> None:
    story = Story(place, kind)
    await story.tell()
    place.restore()
    assert await story.alive() == ALIVE
