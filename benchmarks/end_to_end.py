"""Measure requests per second of a real server on localhost: uvicorn in one process, loaded by wrk.

uvicorn runs without extras, and with its extra `standard`, which is several times as fast. The applications take turns.
If there are several cores, the last one is reserved for the servers.
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
from typing import Any

from tests.servers.process import free_port

ROOT = Path(__file__).parents[1]
SERVERS = {
    "uvicorn": ["--loop", "asyncio", "--http", "h11"],
    "uvicorn[standard]": ["--loop", "uvloop", "--http", "httptools"],
}
APPS = {"bare": "", "ours": "_ours", "Starlette": "_starlette", "floor": "_floor"}
PATHS = {"untouched": "/", "read": "/read"}
CONNECTIONS = 16


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
def served(name: str, settings: list[str], core: int | None) -> Iterator[str]:
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
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def cookie_of(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url + "/fill", timeout=30) as answer:
        return str(answer.headers["set-cookie"]).partition(";")[0]


def per_second(url: str, cookie: str, seconds: int) -> float:
    wrk = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-H", f"Cookie: lang=en; {cookie}", url]
    said = subprocess.run(wrk, capture_output=True, text=True, check=True, timeout=60).stdout
    if "Non-2xx" in said:
        raise RuntimeError(said)
    [rate] = re.findall(r"Requests/sec:\s*([\d.]+)", said)
    return float(rate)


def measure(rounds: int, seconds: int, left_out: list[str]) -> list[dict[str, Any]]:
    if shutil.which("wrk") is None:
        left_out.append("uvicorn: wrk is not installed (Debian: apt-get install wrk)")
        return []
    found = []
    for server, settings in SERVERS.items():
        for flavour in ("plain", "routed"):
            with ExitStack() as stack:
                core = stack.enter_context(a_core_for_the_server())
                urls = {
                    name: stack.enter_context(served(flavour + ending, settings, core)) for name, ending in APPS.items()
                }
                cookies = {name: cookie_of(url) for name, url in urls.items() if name != "bare"}
                cookies["bare"] = cookies["ours"]
                for case, path in PATHS.items():
                    rates: dict[str, list[float]] = {name: [] for name in urls}
                    for number in range(rounds):
                        for name in sorted(urls, reverse=number % 2 == 1):
                            rates[name].append(per_second(urls[name] + path, cookies[name], seconds))
                    found.append({"server": server, "app": flavour, "case": case, "rates": rates})
    return found
