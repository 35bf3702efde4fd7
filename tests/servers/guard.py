"""Processes with their descendants, and the guard that ends them when the tests cannot do it any more.

The tests end their servers themselves. When pytest is killed, nothing would: a server has a session of its own, so that
Ctrl-C in the terminal does not reach it while the tests still use it. So pytest tells a small process of its own which
servers and folders there are, over a pipe. When the pipe ends, for whatever reason, the guard removes what is left.
(Linux could kill a child together with its parent, but means the *thread* which started it.)

This file is also the program of the guard, so it uses the standard library only.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Seen(NamedTuple):
    parent: int
    state: str


def processes() -> dict[int, Seen]:
    """All processes of the machine; the state is a letter of ps, such as T for stopped."""
    if not Path("/proc/self/stat").exists():
        lines = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid=,stat="], text=True).splitlines()
        return {int(pid): Seen(int(parent), state[0]) for pid, parent, state in map(str.split, lines)}
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                found[int(entry.name)] = _seen(entry.name)
    return found


def _seen(pid: int | str) -> Seen:
    # "PID (NAME) STATE PARENT …", where the name may contain anything
    state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return Seen(int(parent), state)


def has_ended(pid: int) -> bool:
    """Whether a process is dead, even if no one has asked for its exit code."""
    try:
        return (_seen(pid) if Path("/proc/self/stat").exists() else processes()[pid]).state in "ZX"
    except (OSError, KeyError):
        return True


def family(pid: int) -> Iterator[int]:
    """The process and its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for child, seen in processes().items():
        children.setdefault(seen.parent, []).append(child)
    waiting = [pid]
    while waiting:
        yield (current := waiting.pop())
        waiting.extend(children.get(current, []))


def send(pid: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)


def stop_family(pid: int) -> list[int]:
    """SIGSTOP to all, the parent first: a stopped one starts no further child."""
    stopped: list[int] = []
    while fresh := [member for member in family(pid) if member not in stopped]:
        for member in fresh:
            send(member, signal.SIGSTOP)
        stopped += fresh
    return stopped


def kill_family(pid: int) -> None:
    """SIGKILL to all while none of them runs, so that no child can react to the death of its parent. Waits for the end.

    A child may end later than its parent, and still hold what a server that is started again needs: PostgreSQL refuses
    to start while a process of the one before is attached to its memory.
    """
    members = stop_family(pid)
    for member in reversed(members):
        send(member, signal.SIGKILL)
    until = time.monotonic() + 30
    while not all(map(has_ended, members)) and time.monotonic() < until:
        time.sleep(0.001)
    if left := [member for member in members if not has_ended(member)]:
        sys.stderr.write(f"These processes were killed half a minute ago, and have not ended: {left}\n")


def main() -> None:
    """Reads lines such as ``+process 1234`` and ``-folder /tmp/x`` to the end; then nothing of that may remain."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    mine: set[str] = set()
    for line in sys.stdin:
        sign, what = line[0], line[1:].rstrip("\n")
        if sign == "+":
            mine.add(what)
        else:
            mine.discard(what)
    left = [what.split(" ", 1) for what in mine]
    for kind, name in left:
        if kind == "process":
            kill_family(int(name))
    for kind, name in left:
        if kind == "folder":
            shutil.rmtree(name, ignore_errors=True)


if __name__ == "__main__":
    main()
