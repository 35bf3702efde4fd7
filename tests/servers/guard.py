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
                # "PID (NAME) STATE PARENT …", where the name may contain anything
                state, parent = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:2]
                found[int(entry.name)] = Seen(int(parent), state)
    return found


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
    """SIGKILL to all while none of them runs, so that no child can react to the death of its parent."""
    for member in reversed(stop_family(pid)):
        send(member, signal.SIGKILL)


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
