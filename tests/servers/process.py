"""What the private servers share: a program, a free port, a folder, a log, and the ways to end, pause and resume it.

An engine is a subclass of `Server` that says whether it is ready. Its functions are context managers, which start a
server of the caller's own: it may be killed. The fixtures in `tests.servers.fixtures` give the address of one which all
tests share.
"""

import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.missing import missing
from tests.servers import guard

PATIENCE = 60.0
"""How long a server may take; a machine that is busy with other things needs much more than usual."""
PAUSE = 0.02

# Below the ports that systems give to outgoing connections (from 32768 on Linux), which could otherwise take the port
# of a server between its death and its restart. A node of a Redis Cluster also has the port 10 000 above its own.
PORTS = range(10_240, 20_000)
BUS = 10_000
_given: set[int] = set()
_random = random.SystemRandom()  # Hypothesis seeds the other one, and two runs at a time would choose the same ports


class ServerError(Exception):
    """A server did not do in time what it should; the message ends with its log."""


@dataclass(frozen=True)
class Address:
    """Where a server listens. The URL may contain a password, so it is not shown."""

    url: str = field(repr=False)

    def over(self, driver: str) -> str:
        """The URL for SQLAlchemy: ``address.over("asyncpg")`` begins with ``postgresql+asyncpg://``."""
        scheme, rest = self.url.split("://", 1)
        return f"{scheme.split('+')[0]}+{driver}://{rest}"


class Server:
    """One process with its folder, port and log. All of it is gone at the end of the ``with`` block."""

    graceful: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, name: str, command: Sequence[str | Path], directory: Path, port: int, user: str | None) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.directory = directory
        self.port = port
        self.user = user
        self.log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[int] = []

    # What an engine adds.

    @property
    def url(self) -> str:
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Does it answer? False or an error means not yet."""
        raise NotImplementedError

    # What a test does.

    @property
    def address(self) -> Address:
        return Address(self.url)

    @property
    def running(self) -> bool:
        """Paused counts as running."""
        return self._process is not None and self._process.poll() is None

    @property
    def answering(self) -> bool:
        return self.running and not self._paused

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Starts it without waiting, for a group of servers of which none is ready without the others."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **as_user(self.user),
            )
        tell_guard(f"+process {self._process.pid}")

    def wait_until_ready(self) -> None:
        self.wait_until(self.is_ready, "was not ready")

    def stop(self) -> None:
        """The orderly end: all data is kept, whatever the server is configured for."""
        if self._process is None:
            return
        self.resume()
        if self.running:
            self.ask_to_stop()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(self.with_log("did not stop")) from None
        self._forget()

    def ask_to_stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(self.graceful)

    def kill(self) -> None:
        """SIGKILL to all its processes at once. Does nothing if it does not run."""
        if self._process is None:
            return
        if self.running:
            guard.kill_family(self._process.pid)
        self._process.wait(PATIENCE)
        self._forget()

    def restart(self) -> None:
        """Starts it again, on the same port and with the same data; if it runs, it is stopped before."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, without answers. Returns when all its processes have stopped."""
        assert self._process is not None
        self._paused = guard.stop_family(self._process.pid)

        def has_stopped() -> bool:
            seen = guard.processes()
            return all(seen[pid].state in "TtZ" for pid in self._paused if pid in seen)

        self.wait_until(has_stopped, "did not pause")

    def resume(self) -> None:
        """SIGCONT. Does nothing if it is not paused."""
        for pid in self._paused:
            guard.send(pid, signal.SIGCONT)
        self._paused = []

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def close(self) -> None:
        self.kill()
        remove_folder(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # Helpers.

    def wait_until(self, condition: Callable[[], bool], complaint: str, patience: float = PATIENCE) -> None:
        """Polls a condition of the running server; an error within it counts as not yet."""
        until = time.monotonic() + patience
        error: Exception | None = None
        while time.monotonic() < until:
            if not self.running:
                raise ServerError(self.with_log("has ended"))
            try:
                if condition():
                    return
            except Exception as caught:
                error = caught
            time.sleep(PAUSE)
        raise ServerError(self.with_log(f"{complaint} within {patience:g} s")) from error

    def with_log(self, complaint: str) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"{self.name} on port {self.port} {complaint}; the end of its log:", *lines[-30:]])

    def _forget(self) -> None:
        assert self._process is not None
        tell_guard(f"-process {self._process.pid}")
        self._process = None
        self._paused = []


# --- programs, users, folders, ports ----------------------------------------------------------------------------------


def program(*names: str, package: str, folders: Sequence[str] = ()) -> Path:
    """The first of the programs that is installed: on the PATH, in the folders of system programs, or in `folders`."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", *folders])
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    return Path(found or missing(f"{names[0]} is not installed (Debian: apt-get install {package})"))


def unprivileged(*names: str) -> str | None:
    """A user for servers that refuse to run as root, the first that exists; None if we are not root ourselves."""
    import pwd

    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in (*names, "nobody") if name in known)


def as_user(user: str | None) -> dict[str, object]:
    """The arguments of `subprocess` for a process of this user."""
    if user is None:
        return {}
    import pwd

    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def run(command: Sequence[str | Path], user: str | None, cwd: Path) -> None:
    """Runs a program that prepares something."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=2 * PATIENCE,
        check=False,
        **as_user(user),  # type: ignore[call-overload]
    )
    if done.returncode:
        raise ServerError(f"{command[0]} failed:\n{done.stdout.decode(errors='replace')}")


def new_folder(user: str | None = None) -> Path:
    """Below /tmp and not below pytest's own folder, which another user may not enter."""
    folder = Path(tempfile.mkdtemp(prefix="starsessions-"))
    tell_guard(f"+folder {folder}")
    if user is not None:
        shutil.chown(folder, user)
    return folder


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    tell_guard(f"-folder {folder}")


def copy_folder(source: Path, target: Path, user: str | None) -> None:
    """A copy by the user who owns the source, so that the copy belongs to that user too."""
    run(["cp", "-R", "-p", source, target], user, target.parent)


def free_port(*offsets: int) -> int:
    """A port that was not given before, on which no process listens, nor on the ports so far above it."""
    for port in _random.sample([port for port in PORTS if port not in _given], 100):
        with contextlib.ExitStack() as sockets:
            try:
                for offset in (0, *offsets):
                    one = sockets.enter_context(socket.socket())
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    one.bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            _given.add(port)
            return port
    raise ServerError("no free port was found")


# --- the guard --------------------------------------------------------------------------------------------------------


@functools.cache
def _guard(pid: int) -> int:
    """Our end of the pipe; it stays open, so that the guard sees its end when this process has ended."""
    theirs, ours = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__], stdin=theirs, start_new_session=True, cwd="/"
    )
    os.close(theirs)
    process.returncode = 0  # it outlives us, which Popen would complain about
    return ours


def tell_guard(line: str) -> None:
    os.write(_guard(os.getpid()), f"{line}\n".encode())
