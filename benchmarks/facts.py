"""Facts that need no timing: what a contestant sends to its store and to the browser, and what it guarantees."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.asgi import Scope
from benchmarks.cases import AT_ONCE, CASES, Browser, Stage, fill_with, read, untouched
from benchmarks.contestants import COOKIES, Contestant

READS = 1000
REQUESTS = 100
WRITERS = 1000


async def of(stage: Stage) -> dict[str, Any]:
    return {
        "set-cookie per 1,000 reads": await set_cookies(stage),
        "per request": await on_the_way(stage),
        f"lost of {WRITERS:,} updates": await lost_updates(stage),
        "keeps a nested write": await keeps_nested_writes(stage),
        "a slow request undoes a logout": await logout_is_undone(stage),
        "adopts an id of a stranger": await adopts_ids(stage),
    }


async def set_cookies(stage: Stage) -> int:
    browser = stage.known[0]
    before = browser.told
    for _ in range(READS):
        await stage.visit(read, browser)
    return browser.told - before


async def lost_updates(stage: Stage) -> int:
    """Send 50 concurrent requests of one browser, each of which sets its own key."""
    lost = 0
    for _ in range(WRITERS // AT_ONCE):
        browser = await stage.visit(fill_with({"user_id": 42}))

        def put(number: int) -> Callable[[Contestant, Scope], Awaitable[None]]:
            async def act(contestant: Contestant, scope: Scope) -> None:
                session = await contestant.load(scope)
                await asyncio.sleep(0)  # as if it queried a database
                session[f"k{number}"] = number

            return act

        await asyncio.gather(*[stage.visit(put(number), browser) for number in range(AT_ONCE)])
        kept = await data(stage, browser)
        lost += sum(f"k{number}" not in kept for number in range(AT_ONCE))
    return lost


async def keeps_nested_writes(stage: Stage) -> bool:
    browser = await stage.visit(fill_with({"cart": [{"n": 1}]}))

    async def change(contestant: Contestant, scope: Scope) -> None:
        (await contestant.load(scope))["cart"][0]["n"] += 1

    await stage.visit(change, browser)
    return bool((await data(stage, browser))["cart"][0]["n"] == 2)


async def logout_is_undone(stage: Stage) -> bool:
    """One request reads, another signs out, and the first one writes. Is the user signed in afterwards?"""
    browser = await stage.visit(fill_with({"user_id": 42, "visits": 1}))
    has_read, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow(contestant: Contestant, scope: Scope) -> None:
        session = await contestant.load(scope)
        session["visits"] += 1
        has_read.set()
        await may_go_on.wait()

    async def sign_out(contestant: Contestant, scope: Scope) -> None:
        await contestant.sign_out(scope)

    copied = Browser(dict(browser.cookies))
    request = asyncio.create_task(stage.visit(slow, browser))
    await has_read.wait()
    await stage.visit(sign_out, browser)
    may_go_on.set()
    await asyncio.wait({request})
    request.exception()  # an error page is a correct response, too
    found = [await data(stage, one) for one in (browser, copied)]
    return any("user_id" in one for one in found)


async def adopts_ids(stage: Stage) -> bool:
    made_up = secrets.token_urlsafe(32)
    victim = await stage.visit(fill_with({"user_id": 42}), Browser({b"session": made_up.encode()}))
    stranger = await data(stage, Browser({b"session": made_up.encode()}))
    return victim.cookies.get(b"session") == made_up.encode() or "user_id" in stranger


async def data(stage: Stage, browser: Browser) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def look(contestant: Contestant, scope: Scope) -> None:
        found.update(await contestant.load(scope))

    await stage.visit(look, Browser(dict(browser.cookies)))
    return found


# --- traffic to the store, or bytes in the cookie ---------------------------------------------------------------------


async def on_the_way(stage: Stage) -> dict[str, dict[str, Any]]:
    """Return for each case the commands, as the store counts them, and the bytes per request."""
    counted = {}
    for name, case in CASES.items():
        browsers = [Browser()] if case.act is untouched else list(stage.known)
        if case.cookie == "known":
            browsers = [Browser(dict(browser.cookies)) for browser in stage.known]
        elif case.cookie == "new":
            browsers = [await stage.visit(fill_with({"cart": [1]})) for _ in range(REQUESTS)]
        meter = METERS.get(stage.contestant.kind, Meter)(stage.contestant)
        told = sum(browser.bytes_told for browser in browsers)
        await meter.start()
        for number in range(REQUESTS):
            await stage.visit(case.act, browsers[number % len(browsers)])
        counted[name] = await meter.stop(REQUESTS)
        if stage.contestant.kind in COOKIES:
            counted[name]["bytes"] = round((sum(browser.bytes_told for browser in browsers) - told) / REQUESTS)
    return counted


class Meter:
    """No counts: a cookie is not a store, and memory keeps no statistics."""

    def __init__(self, contestant: Any) -> None:
        self.contestant = contestant

    async def start(self) -> None:
        pass

    async def stop(self, requests: int) -> dict[str, Any]:
        return {"commands": {}, "bytes": None}


OF_THE_METER = ("config", "info", "hello", "client", "select", "auth", "command", "ping", "script")


class RedisMeter(Meter):
    """INFO commandstats, including commands that scripts call. The bytes are those that the server received."""

    async def start(self) -> None:
        await self.contestant.client.config_resetstat()

    async def stop(self, requests: int) -> dict[str, Any]:
        info = await self.contestant.client.info("commandstats", "stats")
        calls = {name.removeprefix("cmdstat_"): said["calls"] for name, said in info.items() if "cmdstat_" in name}
        commands = {
            name: round(count / requests, 2)
            for name, count in calls.items()
            if name.partition("|")[0] not in OF_THE_METER and count >= requests / 10
        }
        return {"commands": commands, "bytes": round(info["total_net_input_bytes"] / requests)}


class PostgresMeter(Meter):
    """pg_stat_statements. The bytes are those of the write-ahead log."""

    async def ask(self, statement: str) -> Any:
        from sqlalchemy import text

        async with self.contestant.backend.engine.connect() as connection:
            return (await connection.execute(text(statement))).all()

    async def start(self) -> None:
        await self.ask("SELECT pg_stat_statements_reset()")

    async def stop(self, requests: int) -> dict[str, Any]:
        rows = await self.ask(
            "SELECT lower(split_part(query, ' ', 1)), sum(calls), sum(wal_bytes) FROM pg_stat_statements "
            "WHERE query NOT LIKE '%pg_stat%' GROUP BY 1"
        )
        commands = {word: round(int(calls) / requests, 2) for word, calls, _ in rows if calls >= requests / 10}
        return {"commands": commands, "bytes": round(sum(int(row[2]) for row in rows) / requests)}


class SQLiteMeter(Meter):
    """SQLite keeps no statistics: SQLAlchemy tells what it executes."""

    async def start(self) -> None:
        from sqlalchemy import event

        self.seen: list[str] = []
        self.engine = self.contestant.backend.engine.sync_engine
        self.note = lambda connection, cursor, statement, *rest: self.seen.append(statement.split()[0].lower())
        event.listen(self.engine, "before_cursor_execute", self.note)

    async def stop(self, requests: int) -> dict[str, Any]:
        from sqlalchemy import event

        event.remove(self.engine, "before_cursor_execute", self.note)
        commands = {word: round(self.seen.count(word) / requests, 2) for word in sorted(set(self.seen))}
        return {"commands": commands, "bytes": None}


METERS: dict[str, type[Meter]] = {"redis": RedisMeter, "postgres": PostgresMeter, "sqlite": SQLiteMeter}
