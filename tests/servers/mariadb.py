"""MariaDB for tests.

Without `durable` it does not wait for the disk (``innodb_flush_log_at_trx_commit=2``). A confirmed write then survives
a `kill()`, but not the end of the machine; `durable` is for tests that want the real thing.
"""

import contextlib
import functools
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.servers.process import Server, copy_folder, free_port, new_folder, program, remove_folder, run, unprivileged

SETTINGS = {
    "bind-address": "127.0.0.1",
    "skip-name-resolve": "1",
    "character-set-server": "utf8mb4",
    "innodb-buffer-pool-size": "16M",
    "innodb-log-file-size": "8M",
    "skip-log-bin": "1",
}
DURABLE = {"innodb-flush-log-at-trx-commit": "1"}
HASTY = {"innodb-flush-log-at-trx-commit": "2", "innodb-doublewrite": "0"}

FIRST_PACKET = 10  # the version of the protocol; an error packet has 255 in its place


class MariaDBServer(Server):
    def __init__(self, settings: Mapping[str, str]) -> None:
        user, port = unprivileged("mysql"), free_port()
        template = _template(user)
        folder = new_folder(user)
        copy_folder(template, folder / "data", user)
        self.password = secrets.token_hex(16)
        first = folder / "init.sql"
        first.write_text(
            "CREATE DATABASE IF NOT EXISTS test;\n"
            f"CREATE OR REPLACE USER test@'127.0.0.1' IDENTIFIED BY '{self.password}';\n"
            "GRANT ALL ON *.* TO test@'127.0.0.1';\n"
        )
        first.chmod(0o600)
        if user is not None:
            shutil.chown(first, user)
        options = [f"--{key}={value}" for key, value in {**SETTINGS, **settings}.items()]
        places = [f"--datadir={folder / 'data'}", f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}"]
        places.append(f"--tmpdir={folder}")  # in a shared one, each server removes what others have there
        # --no-defaults: nothing of the configuration of the machine; it must come first
        command = [mariadb_program(), "--no-defaults", *places, f"--port={port}", f"--init-file={first}", *options]
        super().__init__("MariaDB", command, folder, port, user)

    @property
    def url(self) -> str:
        return f"mysql://test:{self.password}@127.0.0.1:{self.port}/test"

    def is_ready(self) -> bool:
        """It greets each client, after it has read the init file."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
            greeting = client.recv(5, socket.MSG_WAITALL)
        return len(greeting) == 5 and greeting[4] == FIRST_PACKET


def mariadb_program() -> Path:
    return program("mariadbd", package="mariadb-server-core mariadb-client-core")


@contextlib.contextmanager
def server(*, durable: bool = False, settings: Mapping[str, str] | None = None) -> Iterator[MariaDBServer]:
    """``with server(settings={"max-connections": "5"}) as mariadb:`` -- the names are the options of mariadbd."""
    with MariaDBServer({**(DURABLE if durable else HASTY), **(settings or {})}) as mariadb:
        mariadb.start()
        yield mariadb


@functools.cache
def _template(user: str | None) -> Path:
    """A new database. Copying one is faster than making one; the guard removes it at the end."""
    mariadb_program()  # its absence has a better message than that of the other program
    folder = new_folder(user)
    install = program("mariadb-install-db", package="mariadb-server-core mariadb-client-core")
    options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M"]
    try:
        run([install, "--no-defaults", f"--datadir={folder / 'data'}", f"--tmpdir={folder}", *options], user, folder)
    except BaseException:
        remove_folder(folder)
        raise
    return folder / "data"
