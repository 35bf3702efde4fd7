"""Runs clients against servers of their own, and records the history."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.backends.proxy import proxy
from tests.histories.checker import Rules, at_rest
from tests.histories.clients import MOVING, Browser, Request, World
from tests.histories.faults import FAULTS, Machine, kill
from tests.histories.history import Answer, History, Operation, Quiet, Seen
from tests.histories.stores import STORES, through
from tests.histories.wire import Connection, NoAnswer, NotSent
from tests.servers.process import PATIENCE, Server
from tests.wide.asgi import AsgiServer

APP = "tests.histories.app:app"

SETTINGS = frozenset(
    {"encrypt_with", "revocations", "refuse", "rotate_every", "check_epoch", "revoke_everyone", "wait_for_replicas"}
)
"""What the application may be set to: as the library calls it; `revocations`: signed cookies; `refuse`: `on_too_many`;
`revoke_everyone`: the clients do."""
GRACE = 60
"""Seconds for which an id works that `rotate_every` has replaced."""
HASTE = 30
"""How much faster the clocks of the servers run, so that `rotate_every` and its grace period come about."""
UNTIL_LISTED = 60
"""Seconds for which the new entry of a rotation lives that was interrupted."""


@dataclass(frozen=True)
class Condition:
    """Under what the clients work."""

    store: str = "sqlite"
    servers: tuple[str, ...] = ("uvicorn-asyncio-h11", "uvicorn-2-workers")
    faults: tuple[str, ...] = ()
    seed: int = 1
    operations: int = 0
    """The least number of answers."""
    strikes: int = 0
    """The least number of faults."""
    seconds: float = 0.0
    """The least time."""
    ends_with_kill: bool = False
    """Whether the store is killed once more when all is quiet: that may take back nothing at all."""
    leave: float = 0.0
    """The share of requests whose client leaves before the answer."""
    skew: float = 0.0
    """The clocks of the servers are this number of seconds ahead and behind, in turns."""
    maximum: int = 4
    users: int = 5
    browsers: int = 8
    tabs: int = 2
    costs: frozenset[str] = frozenset()
    """The promises that cannot be kept under it."""
    timeout: float = 1.0
    """How long the library waits for the store."""
    settings: frozenset[str] = frozenset()
    """Some of `SETTINGS`."""

    @property
    def speed(self) -> float:
        """How fast the clocks of the servers run."""
        return HASTE if "rotate_every" in self.settings else 1

    @property
    def rules(self) -> Rules:
        return Rules(
            self.maximum,
            evicts="refuse" not in self.settings,
            checks_epoch="check_epoch" in self.settings,
            is_sealed="revocations" in self.settings,
            grace=GRACE / self.speed if "rotate_every" in self.settings else None,
            shown_for=UNTIL_LISTED / self.speed if self.store == "redis-cluster" else 0,
            puts_back=self.store != "redis-cluster" and "revocations" not in self.settings,
        )


@dataclass
class Run:
    """One run: its history, and what is counted besides."""

    condition: Condition
    history: History = field(default_factory=History)
    counts: "Counter[str]" = field(default_factory=Counter)

    def __post_init__(self) -> None:
        condition = self.condition
        ends_everyone = 0.003 if "revoke_everyone" in condition.settings else 0.0
        self.world = World.of(condition.seed, condition.users, condition.browsers, ends_everyone)
        self.machine: Machine
        self._aliases: dict[str, str] = {}
        self._raw: dict[str, str] = {}
        self._dead: set[str] = set()

    # The whole

    async def carry_out(self, url: str, store: Any) -> History:
        """Start the servers, let the clients work, and look at everything in the end."""
        condition = self.condition
        async with AsyncExitStack() as stack:
            between = None
            if "proxy" in condition.faults:
                assert isinstance(store, Server)
                between = await stack.enter_async_context(proxy(store.port))
                url = through(url, store, between.port)
            workers = [stack.enter_context(self._worker(at, url)) for at in range(len(condition.servers))]
            for worker in workers:
                worker.launch()
            for worker in workers:
                await asyncio.to_thread(worker.wait_until_ready)
            self.machine = Machine(Random(condition.seed), store, workers, between)
            end = time.monotonic() + condition.seconds
            while True:
                await self._phase(min(end, time.monotonic() + 10))
                await self._look_at_everything()
                if condition.ends_with_kill:
                    await kill(self.machine)
                    await self._look_at_everything()
                if time.monotonic() >= end:
                    return self.history

    def _worker(self, at: int, url: str) -> AsgiServer:
        condition = self.condition
        skew = condition.skew * (1 if at % 2 else -1)
        settings = {"STORE": url, "SKEW": skew, "TIMEOUT": condition.timeout, "MAXIMUM": condition.maximum}
        settings["SPEED"] = condition.speed
        settings["SETTINGS"] = ",".join(sorted(condition.settings))
        return AsgiServer(condition.servers[at], {key: str(value) for key, value in settings.items()}, APP)

    async def _phase(self, until: float) -> None:
        """Let clients and faults work until it has been long enough."""
        condition, aim = self.condition, self.counts["answered 200"] + self.condition.operations
        struck = self.counts["faults"] + condition.strikes

        def goes_on() -> bool:
            return time.monotonic() < until or self.counts["answered 200"] < aim or self.counts["faults"] < struck

        async with asyncio.timeout(5 * PATIENCE), asyncio.TaskGroup() as tasks:
            for browser in self.world.browsers:
                for _ in range(condition.tabs):
                    tasks.create_task(self._tab(browser, goes_on))
            if condition.faults:
                tasks.create_task(self._strike(goes_on))

    async def _strike(self, goes_on: Callable[[], bool]) -> None:
        machine, condition = self.machine, self.condition
        while True:
            await machine.wait(0.1, 1.0)
            if not goes_on():
                break
            fault = machine.rng.choice(FAULTS[machine.rng.choice(condition.faults)])
            await fault(machine)
            self.counts["faults"] += 1
        if machine.proxy is not None:
            machine.proxy.lose_replies = machine.proxy.lose_requests = 0

    # The clients

    async def _tab(self, browser: Browser, goes_on: Callable[[], bool]) -> None:
        rng, connections = self.world.rng, [Connection(one.port, 15) for one in self.machine.workers]
        while goes_on():
            request = self.world.choose(browser)
            is_moving = request.kind in MOVING
            browser.is_moving |= is_moving
            leave_after = rng.uniform(0, 0.03) if rng.random() < self.condition.leave else None
            try:
                operation = await self._ask(rng.choice(connections), request, leave_after)
            finally:
                browser.is_moving &= not is_moving
            if operation is None or operation.answer is None:
                await asyncio.sleep(rng.uniform(0.01, 0.05))
            if operation is not None:
                self.world.heard(operation)
        for connection in connections:
            connection.close()

    async def _ask(
        self, connection: Connection, request: Request, leave_after: float | None = None
    ) -> Operation | None:
        """Send a request, and record it with its answer. None: it cannot have reached the server."""
        arguments = {key: value for key, value in request._asdict().items() if value is not None and key != "token"}
        arguments["handle"] = self._raw.get(request.handle, request.handle)
        began, self.counts["asked"] = time.monotonic(), self.counts["asked"] + 1
        sent = Operation(began=began, number=self.counts["asked"], **request._asdict())
        try:
            reply = await connection.ask(request.kind, self._raw.get(request.token, ""), arguments, leave_after)
        except NotSent:
            self.counts["refused"] += 1
            return None
        except NoAnswer:
            self.counts["without an answer"] += 1
            return self._recorded(sent)
        self.counts[f"answered {reply.status}"] += 1
        if reply.status == 200:
            return self._recorded(sent, self._answer(reply.body, reply.token), time.monotonic())
        if reply.status == 409:  # it was not saved, or not known to be, and nothing more happens
            return self._recorded(sent, None, time.monotonic())
        if reply.status != 503:
            self.history.broken.append(f"{reply.status} to {sent}")
        return self._recorded(sent)

    def _recorded(self, sent: Operation, answer: Answer | None = None, ended: float | None = None) -> Operation:
        operation = sent if ended is None else Operation(**{**vars(sent), "answer": answer, "ended": ended})
        self.history.add(operation)
        return operation

    def _answer(self, body: dict[str, Any], token: str | None) -> Answer:
        def seen(told: dict[str, Any] | None) -> Seen | None:
            return None if told is None else Seen(**{**told, "handle": self._alias("h", told["handle"])})

        value = body["value"]
        if isinstance(value, list):
            value = tuple(self._alias("h", one) for one in value)
        return Answer(seen(body.get("opened")), seen(body.get("left")), value, self._alias("t", token))

    def _alias(self, letter: str, raw: str | None) -> str | None:
        """Return a short name for an id, which a reader can tell from others."""
        if not raw:
            return raw
        alias = self._aliases.setdefault(raw, f"{letter}{len(self._aliases)}")
        self._raw[alias] = raw
        return alias

    # The quiet after it

    async def _look_at_everything(self) -> None:
        """Read all lists and try every cookie, again until it is as it should be: late commands may still arrive."""
        until = time.monotonic() + PATIENCE / 2
        if self.condition.faults or self.condition.leave:  # requests whose client has left go on for a while
            await asyncio.sleep(self.condition.timeout)
        while True:
            began = time.monotonic()
            is_whole = await self._round()
            quiet = Quiet(began, time.monotonic())
            is_clean = is_whole and not list(at_rest(self.history, quiet, self.condition.rules))
            if is_clean or time.monotonic() > until:
                break
            await asyncio.sleep(0.2)
        if not is_whole:
            self.history.broken.append("the application did not come back after the last fault")
        self.history.quiets.append(quiet)
        for one, answer in self.history.answered("replay"):
            if answer.opened is None and one.began >= quiet.began:
                self._dead.add(one.token)

    async def _round(self) -> bool:
        """Return whether everything was answered."""
        connections = [Connection(one.port, 15) for one in self.machine.workers]
        dead = sorted(self._dead)
        tokens = [one for one in self.world.owners if one not in self._dead]
        tokens += self.world.rng.sample(dead, min(50, len(dead)))
        requests = [Request("list", "", user=user) for user in self.world.users] + [*map(self.world.replay, tokens)]
        answers = []
        for at, request in enumerate(requests):
            with suppress(KeyError):
                operation = await self._ask(connections[at % len(connections)], request)
                answers.append(operation is not None and operation.answer is not None)
        for connection in connections:
            connection.close()
        return all(answers)


def run(condition: Condition) -> Run:
    """Carry out a run with a store of its own."""
    one = Run(condition)
    with STORES[condition.store]() as (url, server):
        asyncio.run(one.carry_out(url, server))
    return one
