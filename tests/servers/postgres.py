"""PostgreSQL for tests.

Without `durable` it does not wait for the disk (``fsync=off``). That is much faster, and survives a `kill()` all the
same as long as the machine itself does not stop; `durable` is for tests that want the real thing.
"""

import contextlib
import functools
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.process import Server, copy_folder, free_port, new_folder, program, remove_folder, run, unprivileged

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",  # in the folder of the server, which is removed; a killed one leaves it there
    "log_min_messages": "warning",
}
# Not synchronous_commit=off: the writer of the log may be 0.6 s late then, and a `kill()` takes back what is confirmed.
HASTY = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer(Server):
    graceful = signal.SIGINT  # "fast": it ends the connections; SIGTERM would wait for them

    def __init__(self, settings: Mapping[str, str], of: "PostgresServer | None" = None) -> None:
        user, port = unprivileged("postgres"), free_port()
        template, self.password = _template(user)
        folder = new_folder(user)
        self.data = folder / "data"
        if of is None:
            copy_folder(template, self.data, user)
        else:
            copy = ["-D", self.data, "-d", of.url, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
            run([postgres_program("pg_basebackup"), *copy], user, folder)
        options = [word for key, value in {**SETTINGS, **settings}.items() for word in ("-c", f"{key}={value}")]
        command = [postgres_program("postgres"), "-D", self.data, "-p", str(port), *options]
        super().__init__("PostgreSQL", command, folder, port, user)

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def client(self) -> psycopg.Connection:
        """A blocking connection with autocommit for what a test asks the server itself; use it in a ``with`` block."""
        return psycopg.connect(self.url, autocommit=True, connect_timeout=30)

    def ask(self, question: str) -> Any:
        with self.client() as client:
            answer = client.execute(question.encode())
            row = answer.fetchone() if answer.description else None
            return row and row[0]

    def is_ready(self) -> bool:
        with self.client():
            return True

    def refuse_standbys(self) -> None:
        """Let no write reach a standby any more. (What a paused one has not read may be in its socket.)"""
        rules = self.data / "pg_hba.conf"
        rules.write_text("\n".join(line for line in rules.read_text().splitlines() if "replication" not in line))
        self.ask("SELECT pg_reload_conf()")
        self.ask("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication")
        self.wait_until(lambda: self.ask("SELECT count(*) FROM pg_stat_replication") == 0, "kept its standbys")

    def wait_for_standby(self) -> None:
        """Confirm what a standby has, from now on."""
        self.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.ask("SELECT pg_reload_conf()")
        self.wait_until(lambda: self.ask("SELECT sync_state FROM pg_stat_replication") == "sync", "is asynchronous")

    def promote(self) -> None:
        self.ask("SELECT pg_promote()")

    def kill(self) -> None:
        super().kill()
        _forget_shared_memory(self.data / "postmaster.pid")


def postgres_program(name: str) -> Path:
    """Debian keeps one folder of programs for each version, and none of them on the PATH."""
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True
    )
    return program(name, package="postgresql", folders=[str(folder) for folder in folders])


@contextlib.contextmanager
def server(*, durable: bool = False, settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """``with server(settings={"max_connections": "5"}) as postgres:`` -- the names are those of postgresql.conf."""
    with PostgresServer({**({} if durable else HASTY), **(settings or {})}) as postgres:
        postgres.start()
        yield postgres


@contextlib.contextmanager
def pair(*, settings: Mapping[str, str] | None = None) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary that waits for the disk, and a standby that follows it."""
    with server(durable=True, settings=settings) as primary, PostgresServer(HASTY, of=primary) as standby:
        standby.start()
        primary.wait_until(lambda: primary.ask("SELECT count(*) FROM pg_stat_replication") == 1, "has no standby")
        yield primary, standby


@functools.cache
def _template(user: str | None) -> tuple[Path, str]:
    """A new database, and its password. Copying one is faster than making one; the guard removes it at the end."""
    folder = new_folder(user)
    password = secrets.token_hex(16)
    secret = folder / "password"
    secret.write_text(password)
    if user is not None:
        shutil.chown(secret, user)
    try:
        initdb = [postgres_program("initdb"), "-D", folder / "data", "-U", "postgres", f"--pwfile={secret}"]
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        run([*initdb, *options], user, folder)
    except BaseException:
        remove_folder(folder)
        raise
    return folder / "data", password


def _forget_shared_memory(pid_file: Path) -> None:
    """A killed server leaves its segment of System V memory (56 bytes) behind; the system has room for some thousands.

    The file names it in its seventh line, "KEY ID". A server that is started again removes it itself.
    """
    if pid_file.exists() and (ipcrm := shutil.which("ipcrm")):
        lines = pid_file.read_text().splitlines()
        if len(lines) > 6 and len(words := lines[6].split()) == 2:
            subprocess.run([ipcrm, "-m", words[1]], stderr=subprocess.DEVNULL, check=False)
