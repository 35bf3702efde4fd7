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
    _beside("untouched, no cookie", "signed", "no cookie", "Starlette", 0.38),
    _beside("signed cookie, read", "signed", "read", "Starlette", 0.37),
    _beside("signed cookie, write", "signed", "write", "Starlette", 0.36),
    _beside("signed cookie, nested write", "signed", "nested write", "Starlette", 0.5),
    _beside("signed cookie, sign in", "signed", "sign in", "Starlette", 0.6),
    _beside("encrypted cookie, read", "encrypted", "read", "Starlette", 0.33, than="signed"),
    _beside("encrypted cookie, write", "encrypted", "write", "Starlette", 0.35, than="signed"),
    _beside("memory, nested write", "memory", "nested write", "starsessions 2.2.1", 1.0),
    _beside("memory, sign in", "memory", "sign in", "starsessions 2.2.1", 1.0),
    _beside("Redis, read", "redis", "read", CLIENT, 1.12),
    _beside("Redis, write", "redis", "write", CLIENT, 1.12),
    _beside("Redis, read, 50 at once", "redis", "read", CLIENT, 0.6, 50),
    _beside("Redis, sign in", "redis", "sign in", "starsessions 2.2.1", 1.0),
    *[
        _beside(f"{name}, {case}", kind, case, CLIENT, 1.1)
        for name, kind in (("SQLite", "sqlite"), ("PostgreSQL", "postgres"))
        for case in ("read", "write")
    ],
    *[_beside(f"PostgreSQL, {case}, 50 at once", "postgres", case, CLIENT, 1.0, 50) for case in ("read", "write")],
]
CPU = 1.35
"""How much more of the processor's time uvicorn[standard] may take for a signed read than without a session."""
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
        if row["server"] == "uvicorn[standard]" and row["case"] == "read" and row["cpu"]:
            name = f"uvicorn[standard], {row['app']} application, signed read: time of the processor over bare"
            yield _judged(name, row["cpu"]["ours"] / row["cpu"]["bare"], CPU)
    if growth := results["memory"]:
        yield _judged(f"memory, {growth['many']:,} sessions over {growth['few']:,}", growth["ratio"], GROWTH)
    if milliseconds := results["import"]:
        yield _judged("import, milliseconds over Starlette", milliseconds, IMPORT)


def _judged(name: str, figure: float, most: float) -> dict[str, Any]:
    return {"name": name, "figure": figure, "mark": f"≤ {most:g}", "met": figure <= most}
