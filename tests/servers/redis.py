"""Redis or Valkey for tests: one server, a Cluster of six nodes, or a primary with replicas and three Sentinels.

Without `durable`, `stop()` keeps the data and `kill()` loses it. With `durable`, each write is on the disk before it is
answered, so that `kill()` loses nothing that was confirmed.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tests.servers.process import (
    BUS,
    PATIENCE,
    PAUSE,
    Address,
    Server,
    ServerError,
    free_port,
    new_folder,
    program,
)

Config = Mapping[str, str]

SLOTS = 16_384
PATIENT, WATCHFUL = 60.0, 1.0
"""Seconds without an answer after which a primary is replaced. On a busy machine, a watchful group would also replace a
primary that is alive, and lose what it has confirmed since. So it is so only while a test waits for that."""

SERVICE = "sessions"
"""How the Sentinels call the primary and its replicas."""

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
HASTY = {
    "save": '""',
    "repl-diskless-sync-delay": "0",  # it waits 5 s otherwise, for more replicas to come
    "repl-ping-replica-period": "1",
}


def settings(durable: bool, config: Config | None) -> Config:
    return {**HASTY, **(DURABLE if durable else {}), **(config or {})}


class RedisServer(Server):
    """One process of redis-server: a server, a node of a Cluster, or a Sentinel."""

    def __init__(self, name: str, port: int, config: Config, *mode: str, program: Sequence[str] = ()) -> None:
        directory = new_folder()
        file = directory / "redis.conf"
        lines = {"port": str(port), "dir": str(directory), "bind": "127.0.0.1", **config}
        file.write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
        super().__init__(name, [*(program or [redis_program()]), file, *mode], directory, port, user=None)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> "redis.Redis":
        """A blocking client for what a test asks the server itself; use it in a ``with`` block."""
        return redis.Redis(port=self.port, socket_timeout=10, decode_responses=True, retry=Retry(NoBackoff(), 0))

    def ask(self, *command: str) -> Any:
        with self.client() as client:
            return client.execute_command(*command)

    def is_ready(self) -> bool:
        return bool(self.ask("PING"))

    def ask_to_stop(self) -> None:
        try:
            with self.client() as client:
                client.shutdown(save=True)  # SIGTERM would not save
        except redis.RedisError:
            super().ask_to_stop()  # it refuses connections, for instance because it has too many clients

    def serves_cluster(self) -> bool:
        return "cluster_state:ok" in str(self.ask("CLUSTER", "INFO"))

    def wait_until_replicated(self) -> None:
        """Wait until each replica has what was written so far. (WAIT waits for what its own connection has written.)

        One that was copied without a disk calls itself connected up to a second before the primary streams to it, and
        is empty until then.
        """
        written = self.ask("INFO", "replication")["master_repl_offset"]

        def have_it() -> bool:
            info = self.ask("INFO", "replication")
            replicas = [info[f"slave{number}"] for number in range(info["connected_slaves"])]
            return bool(replicas) and all(one["offset"] >= written for one in replicas)

        self.wait_until(have_it, "was not replicated")

    def refuse_replicas(self) -> None:
        """Let no write reach its replicas any more. (What a paused one has not read may be in its socket.)"""
        self.ask("ACL", "SETUSER", "default", "-psync", "-sync")
        self.ask("CLIENT", "KILL", "TYPE", "replica")
        self.wait_until(lambda: self.ask("INFO", "replication")["connected_slaves"] == 0, "kept its replicas")

    def role(self) -> str:
        """What it takes itself for: master, slave, or sentinel."""
        return str(self.ask("ROLE")[0])


def redis_program() -> Path:
    return program("redis-server", "valkey-server", package="redis-server")


@contextlib.contextmanager
def standalone(
    *, durable: bool = False, config: Config | None = None, program: Sequence[str] = ()
) -> Iterator[RedisServer]:
    """``with standalone(config={"maxmemory": "2mb"}) as server:`` -- the names are those of redis.conf."""
    with RedisServer("Redis", free_port(), settings(durable, config), program=program) as server:
        server.start()
        yield server


@contextlib.contextmanager
def pair(*, config: Config | None = None, program: Sequence[str] = ()) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica."""
    with standalone(config=config, program=program) as primary:
        of_primary = {**(config or {}), "replicaof": f"127.0.0.1 {primary.port}"}
        with standalone(config=of_primary, program=program) as replica:
            primary.wait_until(lambda: primary.ask("WAIT", "1", "100") == 1, "has no replica")
            yield primary, replica


class Group:
    """Several processes that are one service. A test asks and kills its `nodes`, or all of them at once."""

    def __init__(self, nodes: Sequence[RedisServer]) -> None:
        self.nodes = nodes

    @property
    def address(self) -> Address:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    @property
    def answering(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.answering]

    def start(self) -> None:
        """Starts the nodes that do not run, and waits until the service is as it should be."""
        for node in self.nodes:
            if not node.running:
                node.launch()
        self.wait_until(self.is_ready, "was not ready")

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def pause(self) -> None:
        for node in self.nodes:
            node.pause()

    def resume(self) -> None:
        for node in self.nodes:
            node.resume()

    def wait_until(self, condition: Callable[[], bool], complaint: str) -> None:
        """Polls a condition; an error within it, for instance because a node is dead, counts as not yet."""
        until = time.monotonic() + PATIENCE
        error: Exception | None = None
        while time.monotonic() < until:
            try:
                if condition():
                    return
            except (redis.RedisError, LookupError) as caught:
                error = caught
            time.sleep(PAUSE)
        logs = "\n".join(node.with_log("was part of it") for node in self.nodes)
        raise ServerError(f"{type(self).__name__} {complaint} within {PATIENCE:g} s\n{logs}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for node in self.nodes:
            node.close()


# --- Cluster ----------------------------------------------------------------------------------------------------------


class RedisCluster(Group):
    """Three primaries, nodes 0 to 2, and a replica of each, nodes 3 to 5.

    The nodes read the finished topology from their files, so that they need not be introduced to each other. A node
    that starts as a primary waits 2 s before it answers; this is a constant of Redis.
    """

    def __init__(self, config: Config) -> None:
        config = {**config, "cluster-enabled": "yes", "cluster-config-file": "nodes.conf"}
        super().__init__([RedisServer(f"Redis Cluster node {index}", free_port(BUS), config) for index in range(6)])
        ids = [secrets.token_hex(20) for _ in self.nodes]
        for me, node in enumerate(self.nodes):
            lines = [self._line(index, ids, index == me) for index in range(6)]
            (node.directory / "nodes.conf").write_text("\n".join([*lines, "vars currentEpoch 3 lastVoteEpoch 0", ""]))

    def _line(self, index: int, ids: Sequence[str], myself: bool) -> str:
        """See https://redis.io/docs/latest/commands/cluster-nodes/"""
        port, shard = self.nodes[index].port, index % 3
        role, primary = ("master", "-") if index < 3 else ("slave", ids[shard])
        slots = f" {SLOTS * shard // 3}-{SLOTS * (shard + 1) // 3 - 1}" if index < 3 else ""
        flags = f"myself,{role}" if myself else role
        return f"{ids[index]} 127.0.0.1:{port}@{port + BUS} {flags} {primary} 0 0 {shard + 1} connected{slots}"

    @property
    def url(self) -> str:
        """Of the first node that answers; a client learns the others from it."""
        return self.answering[0].url

    @property
    def address(self) -> Address:
        return Address(self.url)

    def is_ready(self) -> bool:
        """All nodes serve the same view of the slots, and every replica has a copy."""

        def serves(node: RedisServer) -> bool:
            role = node.ask("ROLE")
            return node.serves_cluster() and (role[0] == "master" or role[3] == "connected")

        return len(self._views()) == 1 and all(map(serves, self.answering))

    def move(self, key: str, to: RedisServer) -> None:
        """Move the slot of a key to another primary, with all that is in it, as redis-cli does."""
        slot, of = str(key_slot(key.encode())), self.primary_of(key)
        if of is to:
            return
        ids = {node: node.ask("CLUSTER", "MYID") for node in (of, to)}
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[of])
        of.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to])
        while keys := of.ask("CLUSTER", "GETKEYSINSLOT", slot, "100"):
            of.ask("MIGRATE", "127.0.0.1", str(to.port), "", "0", "10000", "KEYS", *keys)
        for node in (to, of, *self.nodes[:3]):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[to])

    def primary_of(self, key: str | bytes) -> RedisServer:
        """The node that has this key, as soon as all nodes that answer agree on it. It may be dead."""
        return self._primary_of(key, lambda node: True, "does not agree on its primaries")

    def wait_for_takeover(self, key: str | bytes, of: RedisServer) -> RedisServer:
        """After `of` was killed or paused: let its replica take over, and return the node that has this key then."""
        self._replace_after(WATCHFUL)
        try:
            return self._primary_of(
                key,
                lambda node: node is not of and all(other.serves_cluster() for other in self.answering),
                f"has no other primary instead of port {of.port}",
            )
        finally:
            self._replace_after(PATIENT)

    def _replace_after(self, seconds: float) -> None:
        for node in self.answering:
            node.ask("CONFIG", "SET", "cluster-node-timeout", str(round(seconds * 1000)))

    def _primary_of(self, key: str | bytes, is_right: Callable[[RedisServer], bool], complaint: str) -> RedisServer:
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        found: list[RedisServer] = []

        def agreed() -> bool:
            views = self._views()
            ports = {port for view in views for first, last, port in view if first <= slot <= last}
            found[:] = [node for node in self.nodes if {node.port} == ports]
            return len(views) == 1 and bool(found) and is_right(found[0])

        self.wait_until(agreed, complaint)
        return found[0]

    def _views(self) -> set[frozenset[tuple[int, int, int]]]:
        """Who has which slots (first, last, port), according to each node that answers."""
        return {
            frozenset((first, last, primary[1]) for first, last, primary, *_ in node.ask("CLUSTER", "SLOTS"))
            for node in self.answering
        }


@contextlib.contextmanager
def cluster(*, durable: bool = False, config: Config | None = None) -> Iterator[RedisCluster]:
    """Six nodes. After a primary has died, `wait_for_takeover` lets its replica take over.

    A primary that loses its data and is back before that stays a primary, without the data. That is how Redis is.
    """
    timing = {
        "cluster-node-timeout": str(round(PATIENT * 1000)),
        "cluster-replica-validity-factor": "0",  # a replica may take over however long it has not heard of its primary
    }
    with RedisCluster({**timing, **settings(durable, config)}) as nodes:
        nodes.start()
        yield nodes


# --- Sentinel ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SentinelAddress(Address):
    """``redis+sentinel://HOST:PORT,HOST:PORT/SERVICE``: redis-py has no such URL, but a variable needs one."""

    @property
    def sentinels(self) -> list[tuple[str, int]]:
        """As `redis.asyncio.Sentinel` takes them."""
        hosts = urlsplit(self.url).netloc.split(",")
        return [(host, int(port)) for host, _, port in (host.rpartition(":") for host in hosts)]

    @property
    def service(self) -> str:
        return urlsplit(self.url).path.strip("/")


class RedisSentinel(Group):
    """`servers`, of which one is the primary and the others are its replicas, and three `sentinels`.

    The Sentinels know each other and the replicas from their files, as if they had already found them.
    """

    def __init__(self, config: Config, *, replicas: int) -> None:
        ports = [free_port() for _ in range(1 + replicas)]
        of_first = {"replicaof": f"127.0.0.1 {ports[0]}"}
        self.servers = [
            RedisServer(f"Redis {index}", port, {**config, **(of_first if index else {})})
            for index, port in enumerate(ports)
        ]
        ids = {free_port(): secrets.token_hex(20) for _ in range(3)}
        common = {
            "sentinel monitor": f"{SERVICE} 127.0.0.1 {ports[0]} 2",
            f"sentinel down-after-milliseconds {SERVICE}": str(round(PATIENT * 1000)),
            f"sentinel failover-timeout {SERVICE}": "3000",
            **{f"sentinel known-replica {SERVICE} 127.0.0.1 {port}": "" for port in ports[1:]},
        }
        known = {port: {f"sentinel known-sentinel {SERVICE} 127.0.0.1 {port}": name} for port, name in ids.items()}
        self.sentinels = []
        for mine, name in ids.items():
            others = [lines for port, lines in known.items() if port != mine]
            config = {**common, "sentinel myid": name, **others[0], **others[1]}
            self.sentinels.append(RedisServer("Redis Sentinel", mine, config, "--sentinel"))
        super().__init__([*self.servers, *self.sentinels])

    @property
    def address(self) -> SentinelAddress:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return SentinelAddress(f"redis+sentinel://{hosts}/{SERVICE}")

    def is_ready(self) -> bool:
        """The Sentinels agree on a primary that is one, and all others are replicas of it with a copy."""
        primary = self._agreed()
        replicas = [server.ask("ROLE") for server in self.servers if server.answering and server is not primary]
        return (
            primary is not None
            and primary.role() == "master"
            and all(role[0] == "slave" and role[2:4] == [primary.port, "connected"] for role in replicas)
        )

    def primary(self) -> RedisServer:
        """The primary, as soon as all Sentinels that answer agree on it. It may be dead."""
        return self._primary(lambda server: True, "does not agree on its primary")

    def wait_for_failover(self, of: RedisServer) -> RedisServer:
        """After `of` was killed or paused: have a Sentinel replace it, and return the primary on which all agree.

        That a Sentinel notices a dead primary is not waited for: it is told.
        """

        def is_replaced(server: RedisServer) -> bool:
            if server is of:
                self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)  # an error if it has begun already
            return server is not of and server.role() == "master"

        return self._primary(is_replaced, f"has no other primary instead of port {of.port}")

    def _primary(self, is_right: Callable[[RedisServer], bool], complaint: str) -> RedisServer:
        found: list[RedisServer] = []

        def agreed() -> bool:
            found[:] = [server for server in [self._agreed()] if server is not None]
            return bool(found) and is_right(found[0])

        self.wait_until(agreed, complaint)
        return found[0]

    def _agreed(self) -> RedisServer | None:
        ports = {
            int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
            for sentinel in self.sentinels
            if sentinel.answering
        }
        return next((server for server in self.servers if {server.port} == ports), None)


@contextlib.contextmanager
def sentinel(*, durable: bool = False, replicas: int = 2, config: Config | None = None) -> Iterator[RedisSentinel]:
    """A primary, its replicas, and three Sentinels. After it has died, `wait_for_failover` has them fail over.

    A primary that comes back after that is told only after 10 s that it is a replica now.
    """
    with RedisSentinel(settings(durable, config), replicas=replicas) as group:
        group.start()
        yield group
