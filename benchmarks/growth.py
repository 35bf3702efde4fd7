"""Measure how the cost of a request grows with its session: it should follow what the request touches.

    python -m benchmarks.growth                           # a table of microseconds and ratios
    python -m benchmarks.growth --draw docs/images        # the same, and a picture

One session in memory has a few values, a small list, and a large one of the named size. "Bare" decodes and encodes the
same bytes, and does nothing else. All cases of a size take turns. The figure is the best round, in CPU time, so that
other processes disturb little.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.msgpack import Decoder, Encoder

from benchmarks.turns import request
from starsessions import InMemoryBackend, SessionMiddleware
from starsessions.core.serializer import Msgpack

Figures = dict[str, float]

SIZES = {"150 B": 150, "4 kB": 4096, "64 kB": 65536, "1 MB": 1 << 20}
KEYS = "5,000 keys"
BARE = "bare decode and encode"


def data_of(size: int) -> dict[str, Any]:
    """Return a session of about `size` bytes, most of which are in one list that no one touches."""
    small = {"user_id": 42, "visits": 3, "cart": [{"sku": "abc", "n": 1}], "theme": "dark", "csrf": "x" * 40}
    log = [{"at": 1_700_000_000 + n, "path": f"/shop/item-{n}"} for n in range((size - 100) // 35)]
    return {**small, "log": log}


def sessions() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, size in SIZES.items():
        yield name, data_of(size)
    yield KEYS, {**data_of(150), **{f"key-{n}": n for n in range(5000)}}


# --- handlers ---------------------------------------------------------------------------------------------------------


def read(session: Any) -> None:
    session.mark_accessed()
    session["user_id"]


def read_list(session: Any) -> None:
    session.mark_accessed()
    session["cart"][0]["n"]


def write(session: Any) -> None:
    session.mark_accessed()
    session["visits"] += 1


def write_list(session: Any) -> None:
    session.mark_accessed()
    session["cart"][0]["n"] += 1


HANDLERS = {"read a value": read, "read a list": read_list, "write a value": write, "change a list": write_list}


class Ratio(NamedTuple):
    """A figure over another one of the same session, and its upper limit for these sessions."""

    case: str
    over: str
    most: float
    where: tuple[str, ...]


RATIOS = [
    Ratio("read a list", "read a value", 1.5, (*SIZES, KEYS)),
    Ratio("change a list", "write a value", 2.0, ("64 kB",)),
    Ratio("write a value", BARE, 2.0, ("64 kB", KEYS)),
]

# --- measuring --------------------------------------------------------------------------------------------------------


def measure(rounds: int, seconds: float) -> dict[str, Figures]:
    """Return the microseconds of each case with each session."""
    return {name: in_turns(dict(works(data)), rounds, seconds) for name, data in sessions()}


def works(data: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    payload, decode, encode = Msgpack().dumps(data), Decoder(dict[str, Any]).decode, Encoder().encode
    yield BARE, lambda: encode(decode(payload))

    async def no_app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    middleware = SessionMiddleware(no_app, backend=InMemoryBackend(), autoload=True, max_size=None)
    sent: list[Any] = []
    request(middleware, lambda session: session.update(data), b"", sent)()
    cookie = dict(sent[0]["headers"])[b"set-cookie"].partition(b";")[0]
    for name, handler in HANDLERS.items():
        yield name, request(middleware, handler, cookie)


def in_turns(works: dict[str, Callable[[], object]], rounds: int, seconds: float) -> Figures:
    times = {name: max(1, round(seconds / timed(work, 1))) for name, work in works.items()}
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            best[name] = min(best[name], timed(work, times[name]))
    return {name: taken * 1e6 for name, taken in best.items()}


def timed(work: Callable[[], object], times: int) -> float:
    begins = time.process_time()
    for _ in range(times):
        work()
    return max(time.process_time() - begins, 1e-9) / times


# --- telling ----------------------------------------------------------------------------------------------------------


def table(found: dict[str, Figures]) -> str:
    names = [*next(iter(found.values())), *(f"{ratio.case} / {ratio.over}" for ratio in RATIOS)]
    lines = [["session", *(name if " / " in name else f"{name}, µs" for name in names)], ["---"] * (len(names) + 1)]
    for session, figures in found.items():
        ratios = [told(ratio, session, figures[ratio.case] / figures[ratio.over]) for ratio in RATIOS]
        lines.append([session, *(f"{figure:.3g}" if figure < 100 else f"{figure:.0f}" for figure in figures.values())])
        lines[-1] += ratios
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def told(ratio: Ratio, session: str, figure: float) -> str:
    if session not in ratio.where:
        return f"{figure:.2f}"
    return f"{figure:.2f} (≤ {ratio.most:g}{'' if figure <= ratio.most else ', MISSED'})"


COLOURS = {
    BARE: "#bdbdbd",
    "read a value": "#4575b4",
    "read a list": "#1b7837",
    "write a value": "#c2731c",
    "change a list": "#b2182b",
}
LEFT, TOP, WIDTH, HEIGHT, RIGHT = 70, 36, 420, 260, 190


def svg(found: dict[str, Figures]) -> str:
    """Draw the microseconds over the size, both on a logarithmic scale."""
    shown = [found[name] for name in SIZES]
    low = floor(log10(min(min(figures.values()) for figures in shown)))
    high = ceil(log10(max(max(figures.values()) for figures in shown)))
    shapes = ['<text x="8" y="18" font-weight="bold">µs for a request, by the size of its session</text>']
    for power in range(low, high + 1):
        y = TOP + HEIGHT * (high - power) / (high - low)
        shapes.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#e0e0e0"/>')
        shapes.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10**power:g}</text>')
    places = [LEFT + WIDTH * n / (len(SIZES) - 1) for n in range(len(SIZES))]
    for x, name in zip(places, SIZES, strict=True):
        shapes.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{escape(name)}</text>')
    for row, (case, colour) in enumerate(COLOURS.items()):
        heights = [TOP + HEIGHT * (high - log10(figures[case])) / (high - low) for figures in shown]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(places, heights, strict=True))
        shapes.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = LEFT + WIDTH + 24, TOP + 12 + row * 20
        shapes.append(f'<rect x="{x}" y="{y - 9}" width="12" height="10" fill="{colour}"/>')
        shapes.append(f'<text x="{x + 18}" y="{y}">{escape(case)}</text>')
    lines = "\n".join(shapes)
    size = f'width="{LEFT + WIDTH + RIGHT}" height="{TOP + HEIGHT + 32}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{lines}\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.01, help="how long each case runs in a round")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="write growth.svg into this folder")
    arguments = parser.parse_args()
    found = measure(arguments.rounds, arguments.seconds)
    print(table(found))
    if arguments.draw is not None:
        (arguments.draw / "growth.svg").write_text(svg(found), encoding="utf-8")


if __name__ == "__main__":
    main()
