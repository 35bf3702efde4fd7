"""Requests per second of a real server on loopback: uvicorn as it is installed with its extra `standard`, asked by wrk.

The applications take turns, each with one process and one kind of request at a time.
"""

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
PATHS = {"untouched": "/", "read": "/read"}
CONNECTIONS = 16


@contextmanager
def served(name: str) -> Iterator[str]:
    port = free_port()
    uvicorn = ["-m", "uvicorn", f"benchmarks.served:{name}", "--port", str(port), "--loop", "uvloop"]
    options = ["--http", "httptools", "--no-access-log", "--log-level", "warning", "--lifespan", "off"]
    with subprocess.Popen([sys.executable, *uvicorn, *options], cwd=ROOT) as process:
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


def per_second(url: str, cookie: str, seconds: float) -> float:
    wrk = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-H", f"Cookie: lang=en; {cookie}", url]
    said = subprocess.run(wrk, capture_output=True, text=True, check=True, timeout=60).stdout
    if "Non-2xx" in said:
        raise RuntimeError(said)
    [rate] = re.findall(r"Requests/sec:\s*([\d.]+)", said)
    return float(rate)


def measure(rounds: int, seconds: float, left_out: list[str]) -> list[dict[str, Any]]:
    if shutil.which("wrk") is None:
        left_out.append("uvicorn: wrk is not installed (Debian: apt-get install wrk)")
        return []
    found = []
    for flavour in ("plain", "starlette"):
        with ExitStack() as stack:
            bare, ours = (stack.enter_context(served(name)) for name in (flavour, f"{flavour}_ours"))
            cookie = cookie_of(ours)
            for case, path in PATHS.items():
                rates: dict[str, list[float]] = {bare: [], ours: []}
                for number in range(rounds):
                    for url in (bare, ours) if number % 2 else (ours, bare):
                        rates[url].append(per_second(url + path, cookie, seconds))
                ratios = [mine / theirs for mine, theirs in zip(rates[ours], rates[bare], strict=True)]
                best = {"bare": max(rates[bare]), "ours": max(rates[ours])}
                found.append({"app": flavour, "case": case, **best, "ratios": ratios})
    return found
