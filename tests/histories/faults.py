"""What goes wrong during a run: one fault after another, at random moments."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from tests.backends.proxy import Proxy
from tests.servers.process import Server
from tests.servers.redis import RedisCluster, RedisSentinel, RedisServer
from tests.wide.asgi import AsgiServer


@dataclass
class Machine:
    """What a fault may hit."""

    rng: Random
    store: object
    workers: list[AsgiServer]
    proxy: Proxy | None

    async def wait(self, least: float, most: float) -> None:
        await asyncio.sleep(self.rng.uniform(least, most))


def _server(machine: Machine) -> Server:
    assert isinstance(machine.store, Server), "this store has no server that could fail"
    return machine.store


def _proxy(machine: Machine) -> Proxy:
    assert machine.proxy is not None
    return machine.proxy


async def kill(machine: Machine) -> None:
    """SIGKILL to the store, which is started again."""
    server = _server(machine)
    await asyncio.to_thread(server.kill)
    await machine.wait(0.0, 0.5)
    await asyncio.to_thread(server.start)


async def pause(machine: Machine) -> None:
    """SIGSTOP to the store: shorter and longer than the library waits."""
    server = _server(machine)
    await asyncio.to_thread(server.pause)
    await machine.wait(0.1, 2.5)
    server.resume()


async def kill_worker(machine: Machine) -> None:
    """SIGKILL to a server of the application with its workers, which is started again."""
    server = machine.rng.choice(machine.workers)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def pause_worker(machine: Machine) -> None:
    """SIGSTOP to a server of the application: its requests go on later, with what they had loaded."""
    server = machine.rng.choice(machine.workers)
    await asyncio.to_thread(server.pause)
    await machine.wait(0.1, 1.5)
    server.resume()


async def reset(machine: Machine) -> None:
    _proxy(machine).reset()


async def half_close(machine: Machine) -> None:
    _proxy(machine).half_close()


async def delay(machine: Machine) -> None:
    """No answer of the store arrives for a while: shorter and longer than the library waits."""
    _proxy(machine).flows.clear()
    await machine.wait(0.05, 2.5)
    _proxy(machine).flows.set()


async def swallow(machine: Machine) -> None:
    """The next answers are lost, each with its connection: the store has done what was asked."""
    _proxy(machine).lose_replies += machine.rng.randint(1, 4)


async def lose(machine: Machine) -> None:
    """The next commands are lost before they reach the store."""
    _proxy(machine).lose_requests += machine.rng.randint(1, 4)


async def move(machine: Machine) -> None:
    """Move slots of a Cluster between its primaries."""
    assert isinstance(machine.store, RedisCluster)
    primaries = machine.store.nodes[:3]
    for _ in range(10):
        key, to = f"{{{machine.rng.random()}}}", machine.rng.choice(primaries)
        await asyncio.to_thread(machine.store.move, key, to)


async def fail_over(machine: Machine) -> None:
    """SIGKILL to the primary, whose replica takes over; then it comes back as a replica."""
    if isinstance(machine.store, RedisSentinel):
        old = await asyncio.to_thread(machine.store.primary)
        await asyncio.to_thread(old.kill)
        await asyncio.to_thread(machine.store.wait_for_failover, old)
    else:
        assert isinstance(machine.store, RedisCluster)
        key = str(machine.rng.random())
        old = await asyncio.to_thread(machine.store.primary_of, key)
        await asyncio.to_thread(old.kill)
        await asyncio.to_thread(machine.store.wait_for_takeover, key, old)
    await asyncio.to_thread(machine.store.start)


async def fill(machine: Machine) -> None:
    """Fill the memory of the store, so that it evicts."""
    assert isinstance(machine.store, RedisServer)
    server = machine.store

    def write() -> None:
        with server.client() as client:
            for _ in range(200):
                client.set(f"filler:{machine.rng.random()}", "x" * 4000)

    await asyncio.to_thread(write)


FAULTS: dict[str, list[Callable[[Machine], Awaitable[None]]]] = {
    "kill": [kill],
    "pause": [pause],
    "workers": [kill_worker, pause_worker],
    "proxy": [reset, half_close, delay, swallow, swallow, lose],
    "move": [move],
    "failover": [fail_over],
    "evict": [fill],
}
"""By the name on the command line."""
