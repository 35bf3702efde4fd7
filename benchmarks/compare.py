"""Compare this middleware with others on the same work. `benchmarks/run` installs what this needs, and starts it.

benchmarks/run                      everything; takes a quarter of an hour
benchmarks/run --quick              all kinds and cases with 150 bytes, in two minutes, and less exact
benchmarks/run --only signed,redis  some kinds of storage
benchmarks/run --rows 1000000       also SQL among that many rows
benchmarks/run --json FILE          write the results there
benchmarks/run --publish            update docs/explanation/performance.md and its charts

Each figure is the best of many rounds in which the contestants take turns, on one core, minus the best of the bare
application in the same process. Only the ratios count. Libraries with the same import name run in separate processes.
(Applications under uvicorn may use all cores.)
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from benchmarks.cases import AT_ONCE, CASES, SIZES, SIZES_ON_A_SERVER
from benchmarks.contestants import CONTESTANTS, KINDS, Contestant
from benchmarks.marks import Cell, judged
from benchmarks.report import draw, publish, tables

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".venv" / "bench"
CASES_OF_A_CLIENT = {"redis": ("read", "write", "sign in"), "sqlite": ("read", "write"), "postgres": ("read", "write")}


class Asked(Protocol):
    def ask(self, do: str, **arguments: Any) -> Any: ...


class Away:
    """A worker process in another environment."""

    def __init__(self, environment: str) -> None:
        python = ENVIRONMENTS / environment / "bin" / "python"
        command = [python, "-m", "benchmarks.worker"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
        said = json.loads(self.process.stdout.readline())
        if "error" in said:
            raise RuntimeError(said["error"])
        return said["answer"]

    def close(self) -> None:
        self.process.communicate()


@contextmanager
def workers(environments: set[str]) -> Iterator[dict[str, Asked]]:
    away = {name: Away(name) for name in environments if (ENVIRONMENTS / name).is_dir()}
    try:
        yield dict(away)
    finally:
        for worker in away.values():
            worker.close()


@contextmanager
def one_core() -> Iterator[None]:
    """Run everything that is started in this block, clients and servers, on one core.

    Otherwise the scheduler decides whether a client and its server share a core, and if they do, a GET of Redis is one
    and a half times as fast.
    """
    if not hasattr(os, "sched_setaffinity"):  # not on macOS
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Race:
    """All contestants with one kind of storage and one size of sessions."""

    def __init__(
        self, kind: str, size: int, urls: dict[str, str], asked: dict[str, Asked], left_out: list[str]
    ) -> None:
        self.kind, self.size, self.asked = kind, size, asked
        self.contestants: list[type[Contestant]] = []
        for one in CONTESTANTS:
            if kind in one.kinds and one.environment in asked:
                try:
                    self.ask(one, "open", kind=kind, size=size, urls=urls)
                except RuntimeError as error:
                    left_out.append(f"{one.name} with {kind}, {size} bytes: {error}")
                else:
                    self.contestants.append(one)

    def ask(self, one: type[Contestant], do: str, **arguments: Any) -> Any:
        return self.asked[one.environment].ask(do, contestant=one.name, **arguments)

    def times(self, rounds: int, seconds: float) -> Iterator[dict[str, Any]]:
        for case in CASES:
            for at_once in (1, AT_ONCE):
                yield from self.time(case, at_once, rounds, seconds)

    def time(self, case: str, at_once: int, rounds: int, seconds: float) -> Iterator[dict[str, Any]]:
        """Run the rounds: in each one, every contestant takes its turn for about `seconds`."""
        contestants = [one for one in self.contestants if one.is_a_library or case in CASES_OF_A_CLIENT[self.kind]]
        chosen = {"case": case, "at_once": at_once}
        few = {one: self.ask(one, "time", **chosen, times=2 * AT_ONCE) for one in contestants}
        times = {one: max(AT_ONCE, int(seconds / sum(took)) // AT_ONCE * AT_ONCE) for one, took in few.items()}
        took: dict[type[Contestant], list[tuple[float, float]]] = {one: [] for one in contestants}
        for number in range(rounds):
            for one in contestants if number % 2 == 0 else contestants[::-1]:
                took[one].append(self.ask(one, "time", **chosen, times=times[one]))
        bares = {one: min(bare for bare, _ in took[one]) for one in contestants}
        for one in contestants:
            with_it = [whole for _, whole in took[one]]
            # Scaled to the first one's process, where the bare application may be a little faster or slower.
            scale = bares[contestants[0]] / bares[one]
            overhead = (min(with_it) - bares[one]) * scale
            yield {
                "cell": Cell(one.name, self.kind, case, self.size, at_once),
                "bare": round(bares[one] * 1e6, 3),
                "overhead": round(overhead * 1e6, 3),
                "spread": round((median(with_it) - min(with_it)) / max(overhead / scale, 1e-9), 3),
            }

    def facts(self) -> Iterator[dict[str, Any]]:
        for one in self.contestants:
            if one.is_a_library:
                yield {"kind": self.kind, "contestant": one.name, "facts": self.ask(one, "facts")}

    def close(self) -> None:
        for worker in self.asked.values():
            worker.ask("close")


def compare(
    kinds: list[str],
    urls: dict[str, str],
    asked: dict[str, Asked],
    left_out: list[str],
    *,
    rounds: int,
    seconds: float,
    quick: bool,
) -> dict[str, Any]:
    """Return the parts of the results that need no application server."""
    results: dict[str, Any] = {"times": [], "facts": []}
    for kind in kinds:
        for size in SIZES.get(kind, SIZES_ON_A_SERVER)[: 1 if quick else None]:
            print(f"{kind}, {size} bytes", file=sys.stderr)
            race = Race(kind, size, urls, asked, left_out)
            results["times"] += race.times(rounds, seconds)
            if size == SIZES_ON_A_SERVER[0]:
                results["facts"] += race.facts()
            race.close()
    return results


def import_time(rounds: int) -> float:
    """Return the best milliseconds of `import starsessions` in a new process that has imported Starlette.

    All runs except the first find the bytecode on disk, as after any installation.
    """
    clock = "from time import perf_counter as clock"
    code = f"{clock}; import starlette.applications; s = clock(); import starsessions; print(clock() - s)"
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env) for _ in range(rounds)
    ]
    return min(float(run.stdout) for run in runs) * 1e3


def memory(many: int, rounds: int) -> dict[str, Any]:
    from benchmarks.overhead import memory_growth

    return {"few": 1000, "many": many, "ratio": memory_growth(1000, many, rounds)}


def write(results: dict[str, Any], file: Path) -> None:
    """Return JSON with one row per line, so that two files can be compared."""
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, part in results.items():
        rows = part if isinstance(part, list) else [part]
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        parts.append(f'"{name}": ' + (f"[\n{lines}\n]" if isinstance(part, list) else lines))
    file.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def about(load_before: float) -> dict[str, Any]:
    packages = ("starlette", "starsessions", "msgspec", "cryptography", "redis", "hiredis", "sqlalchemy", "asyncpg")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "load before": round(load_before, 1),
        "machine": f"{os.cpu_count()} cores, {platform.system()} on {platform.machine()}",
        "versions": {name: version(name) for name in packages},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(KINDS), metavar="KIND,…")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 if a mark is missed")
    options = parser.parse_args()
    from benchmarks.end_to_end import measure as end_to_end
    from benchmarks.rows import measure as among_rows
    from benchmarks.servers import started

    rounds, seconds = (5, 0.01) if options.quick else (15, 0.02)
    left_out: list[str] = []
    load_before = os.getloadavg()[0]
    with ExitStack() as stack:
        stack.enter_context(one_core())
        urls = stack.enter_context(started(options.only, left_out))
        kinds = [kind for kind in options.only if kind in urls or kind not in ("redis", "sqlite", "postgres")]
        asked = stack.enter_context(workers({one.environment for one in CONTESTANTS}))
        results = compare(kinds, urls, asked, left_out, rounds=rounds, seconds=seconds, quick=options.quick)
        sql = {kind: urls[kind] for kind in ("sqlite", "postgres") if kind in urls}
        results["rows"] = among_rows(sql, options.rows) if options.rows else []
    print("end to end, import, memory", file=sys.stderr)
    results["end to end"] = end_to_end(*((1, 1) if options.quick else (5, 2)), left_out)
    results["import"] = import_time(5 if options.quick else 15)
    results["memory"] = memory(100_000, 3) if options.quick else memory(1_000_000, 15)
    results["about"], results["left out"] = about(load_before), left_out
    results["marks"] = list(judged(results))
    print(tables(results))
    if options.json:
        write(results, options.json)
    if options.publish:
        write(results, ROOT / "benchmarks" / "results" / "reference.json")
        draw(results, ROOT / "docs" / "images")
        publish(results, ROOT / "docs" / "explanation" / "performance.md")
    return 1 if options.check and not all(mark["met"] for mark in results["marks"]) else 0


if __name__ == "__main__":
    raise SystemExit(main())
