"""The performance targets: a figure of this library over another one of the same run, and its upper limit."""

from collections.abc import Iterator
from typing import Any, NamedTuple

CLIENT = "bare client"


class Cell(NamedTuple):
    """One measured combination."""

    contestant: str
    kind: str
    case: str
    size: int = 150
    at_once: int = 1


class Mark(NamedTuple):
    name: str
    ours: Cell
    over: Cell
    most: float


def _beside(name: str, kind: str, case: str, contestant: str, most: float, at_once: int = 1, than: str = "") -> Mark:
    ours, over = (Cell(who, where, case, 150, at_once) for who, where in (("ours", kind), (contestant, than or kind)))
    return Mark(f"{name}, over {contestant}", ours, over, most)


STOPWATCH = [
    _beside("untouched, no cookie", "signed", "no cookie", "Starlette", 0.35),
    _beside("untouched, cookie", "signed", "untouched", "Starlette", 0.07),
    _beside("signed cookie, read", "signed", "read", "Starlette", 0.33),
    _beside("signed cookie, write", "signed", "write", "Starlette", 0.28),
    _beside("encrypted cookie, read", "encrypted", "read", "Starlette", 0.28, than="signed"),
    _beside("encrypted cookie, write", "encrypted", "write", "Starlette", 0.25, than="signed"),
    _beside("memory, read", "memory", "read", "starsessions 2.2.1", 0.12),
    _beside("memory, write", "memory", "write", "starsessions 2.2.1", 0.25),
    _beside("Redis, read", "redis", "read", CLIENT, 1.12),
    _beside("Redis, write", "redis", "write", CLIENT, 1.12),
    _beside("Redis, read, 50 at once", "redis", "read", CLIENT, 0.6, 50),
    *[
        _beside(f"{name}, {case}", kind, case, CLIENT, 1.15)
        for name, kind in (("SQLite", "sqlite"), ("PostgreSQL", "postgres"))
        for case in ("read", "write")
    ],
]
AT_LEAST = {"untouched": 0.97, "read": 0.93}
"""A share of the requests per second of the bare application."""
GROWTH, IMPORT = 1.2, 20.0
SWEEP, WAITS = "sweep of 1,000", "longest write meanwhile, over the batch and a write"


def judged(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return what these results can tell: name, figure, mark, and whether the mark is met."""
    overheads = {Cell(*row["cell"]): row["overhead"] for row in results["times"]}
    for name, ours, over, most in STOPWATCH:
        if ours in overheads and over in overheads:
            yield _judged(name, overheads[ours] / overheads[over], most)
    for row in results["rows"]:
        yield _judged(f"{row['kind']}, {row['rows']:,} rows: {WAITS}", row[WAITS], 1.0)
    for row in results["end to end"]:
        name = f"{row['server']}, {row['app']} application, {row['case']}: requests per second over bare"
        figure, least = max(row["rates"]["ours"]) / max(row["rates"]["bare"]), AT_LEAST[row["case"]]
        yield {"name": name, "figure": figure, "mark": f"≥ {least:g}", "met": figure >= least}
    if growth := results["memory"]:
        yield _judged(f"memory, {growth['many']:,} sessions over {growth['few']:,}", growth["ratio"], GROWTH)
    if milliseconds := results["import"]:
        yield _judged("import, milliseconds over Starlette", milliseconds, IMPORT)


def _judged(name: str, figure: float, most: float) -> dict[str, Any]:
    return {"name": name, "figure": figure, "mark": f"≤ {most:g}", "met": figure <= most}
