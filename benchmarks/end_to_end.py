"""Measure a real server on localhost: requests per second, and the time of the processor that it takes for a request.

uvicorn runs in one process, loaded by wrk, without extras and with its extra `standard`, which is several times as
fast. The applications take turns. If there are several cores, the last one is reserved for the servers.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.servers.process import free_port

ROOT = Path(__file__).parents[1]
SERVERS = {
    "uvicorn": ["--loop", "asyncio", "--http", "h11"],
    "uvicorn[standard]": ["--loop", "uvloop", "--http", "httptools"],
}
APPS = {"bare": "", "ours": "_ours", "Starlette": "_starlette", "floor": "_floor"}
PATHS = {"untouched": "/", "read": "/read"}
CONNECTIONS = 16


class Load(NamedTuple):
    """What a server did in one round."""

    rate: float
    """Requests per second."""
    cpu: float | None
    """Microseconds of the processor for a request; None where the system does not tell."""


@contextmanager
def a_core_for_the_server() -> Iterator[int | None]:
    """Return the core that is reserved for the server; None if there is none to spare, or affinity is unsupported."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()  # not on macOS
    if len(cores) < 2:
        yield None
        return
    os.sched_setaffinity(0, cores - {max(cores)})
    try:
        yield max(cores)
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def served(name: str, settings: list[str], core: int | None) -> Iterator[tuple[str, int]]:
    port = free_port()
    uvicorn = ["-m", "uvicorn", f"benchmarks.served:{name}", "--port", str(port), "--lifespan", "off"]
    quiet = ["--no-access-log", "--log-level", "warning"]
    with subprocess.Popen([sys.executable, *uvicorn, *quiet, *settings], cwd=ROOT) as process:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        try:
            for _ in range(300):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


def cookie_of(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url + "/fill", timeout=30) as answer:
        return str(answer.headers["set-cookie"]).partition(";")[0]


def seconds_of(process: int) -> float | None:
    """Return the seconds of the processor that a process has taken; None if the system does not tell (Linux does)."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def loaded(url: str, process: int, cookie: str, seconds: int) -> Load:
    before = seconds_of(process)
    wrk = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-H", f"Cookie: lang=en; {cookie}", url]
    said = subprocess.run(wrk, capture_output=True, text=True, check=True, timeout=60).stdout
    if "Non-2xx" in said:
        raise RuntimeError(said)
    after = seconds_of(process)
    [rate], [requests] = re.findall(r"Requests/sec:\s*([\d.]+)", said), re.findall(r"(\d+) requests in", said)
    taken = None if before is None or after is None else (after - before) / int(requests) * 1e6
    return Load(float(rate), taken)


def measure(rounds: int, seconds: int, left_out: list[str]) -> list[dict[str, Any]]:
    if shutil.which("wrk") is None:
        left_out.append("uvicorn: wrk is not installed (Debian: apt-get install wrk)")
        return []
    found = []
    for server, settings in SERVERS.items():
        for flavour in ("plain", "routed"):
            with ExitStack() as stack:
                core = stack.enter_context(a_core_for_the_server())
                servers = {
                    name: stack.enter_context(served(flavour + ending, settings, core)) for name, ending in APPS.items()
                }
                cookies = {name: cookie_of(url) for name, (url, _) in servers.items() if name != "bare"}
                cookies["bare"] = cookies["ours"]
                for case, path in PATHS.items():
                    loads: dict[str, list[Load]] = {name: [] for name in servers}
                    for number in range(rounds):
                        for name in sorted(servers, reverse=number % 2 == 1):
                            url, process = servers[name]
                            loads[name].append(loaded(url + path, process, cookies[name], seconds))
                    found.append({"server": server, "app": flavour, "case": case, **_by_name(loads)})
    return found


def _by_name(loads: dict[str, list[Load]]) -> dict[str, dict[str, Any]]:
    """Return the rates, and the least time of the processor, of each application."""
    told = {name: [load.cpu for load in some if load.cpu is not None] for name, some in loads.items()}
    return {
        "rates": {name: [load.rate for load in some] for name, some in loads.items()},
        "cpu": {name: min(some) for name, some in told.items() if some},
    }
