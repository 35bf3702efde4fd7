"""Redis or Valkey for tests: one server, a Cluster of six nodes, or a primary with replicas and three Sentinels.

Without `durable`, `stop()` keeps the data and `kill()` loses it. With `durable`, each write is on the disk before it is
answered, so that `kill()` loses nothing that was confirmed.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers.process import PATIENCE, Server, free_port, new_folder, program

Config = Mapping[str, str]

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
COMMON = {
    "bind": "127.0.0.1",
    "save": '""',
    "repl-diskless-sync-delay": "0",  # it waits 5 s otherwise, for more replicas to come
    "repl-ping-replica-period": "1",
}


class RedisServer(Server):
    """One process of redis-server: a server, a node of a Cluster, or a Sentinel."""

    def __init__(self, name: str, port: int, config: Config, *mode: str) -> None:
        directory = new_folder()
        file = directory / "redis.conf"
        lines = {"port": str(port), "dir": str(directory), **COMMON, **config}
        file.write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
        super().__init__(name, [redis_program(), file, *mode], directory, port, user=None)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> "redis.Redis":
        """A blocking client for what a test asks the server itself; use it in a ``with`` block."""
        return redis.Redis(port=self.port, socket_timeout=PATIENCE, decode_responses=True, retry=Retry(NoBackoff(), 0))

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
            super().ask_to_stop()  # it lets nobody in, for instance because it has too many clients

    def role(self) -> str:
        """What it takes itself for: master, slave, or sentinel."""
        return str(self.ask("ROLE")[0])


def redis_program() -> Path:
    return program("redis-server", "valkey-server", package="redis-server")


@contextlib.contextmanager
def standalone(*, durable: bool = False, config: Config | None = None) -> Iterator[RedisServer]:
    """``with standalone(config={"maxmemory": "2mb"}) as server:`` -- the names are those of redis.conf."""
    with RedisServer("Redis", free_port(), {**(DURABLE if durable else {}), **(config or {})}) as server:
        server.start()
        yield server
