"""The servers that `scripts/wide-servers` unpacks: newer than those of the machine, and not installed on it."""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import redis

from tests.missing import missing
from tests.servers.mariadb import MariaDBServer
from tests.servers.process import Address, Server, free_port, new_folder, run, unprivileged
from tests.servers.tls import self_signed

WIDE = Path(__file__).parents[2] / ".wide" / "servers"


def unpacked(path: str) -> list[str]:
    """Return the command that starts a program of the unpacked system with the libraries of that system."""
    program = WIDE / path
    loader = next(WIDE.glob("usr/lib*/ld-linux*"), None)
    if loader is None or not program.exists():
        missing(f"{path} is not there: run scripts/wide-servers")
    libraries = next(WIDE.glob("usr/lib/*-linux-gnu"))
    return [str(loader), "--library-path", f"{libraries}:{libraries / 'vinyl-cache'}", str(program)]


def accepts(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


class Proxy(Server):
    """A program that is ready once it accepts connections."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        return accepts(self.port)


# --- Redis and Valkey -------------------------------------------------------------------------------------------------


class RedisLike(Server):
    def __init__(self, program: str, folder: Path, url: str, *options: object) -> None:
        port = urlsplit(url).port or 0
        command = [*unpacked(program), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *map(str, options)]
        super().__init__(program, command, folder, port, user=None)
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    def is_ready(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=10) as client:
            return bool(client.ping())


@contextlib.contextmanager
def redis_like(program: str, transport: str = "tcp") -> Iterator[Address]:
    """Start a server that is reached over TCP, TLS with a client certificate, or a unix socket."""
    folder, port = new_folder(), free_port()
    if transport == "unix":
        path = folder / "socket"
        server = RedisLike(program, folder, f"unix://{path}?db=1", "--port", 0, "--unixsocket", path)
    elif transport == "tls":
        key, certificate = self_signed(folder)
        files = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate]
        url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}&ssl_certfile={certificate}&ssl_keyfile={key}"
        server = RedisLike(program, folder, url, "--port", 0, "--tls-port", port, *files)
    else:
        server = RedisLike(program, folder, f"redis://127.0.0.1:{port}", "--port", port)
    with server:
        server.start()
        yield server.address


# --- MySQL ------------------------------------------------------------------------------------------------------------


class MySQLServer(Server):
    """Oracle's MySQL, with its own default for passwords (`caching_sha2_password`)."""

    def __init__(self) -> None:
        user, port = unprivileged("mysql"), free_port()
        folder = new_folder(user)
        first = folder / "init.sql"
        first.write_text("CREATE USER test@'127.0.0.1' IDENTIFIED BY 'test'; GRANT ALL ON *.* TO test@'127.0.0.1';\n")
        first.chmod(0o644)
        places = [f"--datadir={folder / 'data'}", f"--basedir={WIDE / 'usr'}", f"--socket={folder / 'socket'}"]
        places += [f"--pid-file={folder / 'pid'}", "--secure-file-priv=", "--mysqlx=OFF"]
        program = [*unpacked("usr/sbin/mysqld"), "--no-defaults", *places]
        run([*program, "--initialize-insecure"], user, folder)
        self.first = first
        options = ["--bind-address=127.0.0.1", f"--port={port}", "--skip-log-bin", "--innodb-buffer-pool-size=16M"]
        super().__init__("MySQL", [*program, *options, f"--init-file={first}"], folder, port, user)

    @property
    def url(self) -> str:
        return f"mysql://test:test@127.0.0.1:{self.port}/test"

    is_ready = MariaDBServer.is_ready


@contextlib.contextmanager
def mysql() -> Iterator[Address]:
    server = MySQLServer()
    with server:
        server.first.write_text("CREATE DATABASE test;\n" + server.first.read_text())
        server.start()
        yield server.address


# --- PgBouncer --------------------------------------------------------------------------------------------------------


class PgBouncer(Server):
    def __init__(self, postgres: Address, settings: Sequence[str]) -> None:
        user, port = unprivileged("postgres"), free_port()
        folder = new_folder(user)
        there = urlsplit(postgres.url)
        (folder / "users").write_text(f'"{there.username}" "{there.password}"\n')
        lines = [
            "[databases]",
            f"* = host=127.0.0.1 port={there.port}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {port}",
            "unix_socket_dir =",
            "auth_type = scram-sha-256",
            f"auth_file = {folder / 'users'}",
            "pool_mode = transaction",
            "default_pool_size = 2",
            *settings,
        ]
        file = folder / "pgbouncer.ini"
        file.write_text("\n".join(lines) + "\n")
        super().__init__("PgBouncer", [*unpacked("usr/sbin/pgbouncer"), str(file)], folder, port, user)
        self._url = f"postgresql://{there.username}:{there.password}@127.0.0.1:{port}{there.path}"

    @property
    def url(self) -> str:
        return self._url

    def is_ready(self) -> bool:
        return accepts(self.port)


@contextlib.contextmanager
def pgbouncer(postgres: Address, *settings: str) -> Iterator[Address]:
    """Start PgBouncer in transaction mode, with two connections to the server."""
    with PgBouncer(postgres, settings) as server:
        server.start()
        yield server.address
