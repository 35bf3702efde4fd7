"""Tables and charts of the results."""

import re
from collections.abc import Iterable, Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.marks import CLIENT, WAITS, Cell

Results = dict[str, Any]
SMALL = 150


def tables(results: Results) -> str:
    return "\n\n".join(sections(results).values())


def sections(results: Results) -> dict[str, str]:
    """Return the tables by name, each with measured values only."""
    small = [row for row in results["times"] if Cell(*row["cell"]).size == SMALL]
    large = [row for row in results["times"] if Cell(*row["cell"]).size != SMALL]
    promised, told = facts(results["facts"])
    found = {
        "about": about(results),
        "marks": marks(results["marks"]),
        "times": "\n\n".join(times(small)),
        "larger": "\n\n".join(times(large)),
        "promises": promised,
        "on the way": told,
        "end to end": end_to_end(results["end to end"]),
        "rows": rows_of_sql(results["rows"]),
        "left out": "\n".join(f"* {reason}" for reason in results["left out"]),
    }
    return {name: text for name, text in found.items() if text}


def publish(results: Results, page: Path) -> None:
    """Insert the tables into the page, each between `<!-- its name -->` and `<!-- end -->`."""
    text = page.read_text(encoding="utf-8")
    for name, section in sections(results).items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda match, section=section: match[1] + section + match[2], text)
    page.write_text(text, encoding="utf-8")


def about(results: Results) -> str:
    said = results["about"]
    versions = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
    load = f", with a load of {said['load before']} before it began" if "load before" in said else ""
    return f"Measured on {said['date']} with Python {said['python']}, {versions}; {said['machine']}{load}."


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(head), *([str(cell) for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def marks(judged: list[dict[str, Any]]) -> str:
    rows = [(one["name"], f"{one['figure']:.3g}", one["mark"], "yes" if one["met"] else "MISSED") for one in judged]
    return table(("mark", "figure", "wanted", "met"), rows)


def times(measured: list[dict[str, Any]]) -> Iterator[str]:
    """Return a table for each storage: µs over the bare application, and in brackets this library's share of it."""
    overheads = {Cell(*row["cell"]): row for row in measured}
    for kind, rows in groupby(overheads, key=lambda cell: cell.kind):
        cells = list(rows)
        names = list(dict.fromkeys(cell.contestant for cell in cells))
        body = []
        for case, size, at_once in dict.fromkeys((cell.case, cell.size, cell.at_once) for cell in cells):
            found = [overheads.get(Cell(name, kind, case, size, at_once)) for name in names]
            [ours, *others] = found
            told = [f"{ours['overhead']:.1f} ± {ours['spread']:.0%}" if ours else ""]
            for other in others:
                ratio = f" ({ours['overhead'] / other['overhead']:.2f})" if ours and other else ""
                told.append(f"{other['overhead']:.1f}{ratio}" if other else "")
            body.append((case, size, at_once, *told))
        yield f"In {kind}, µs over the bare application:\n\n" + table(("case", "bytes", "at once", *names), body)


def facts(found: list[dict[str, Any]]) -> tuple[str, str]:
    """Return the tables of guarantees and of traffic."""
    names = [name for name in found[0]["facts"] if name != "per request"]
    rows = [(row["kind"], row["contestant"], *(yes_no(row["facts"][name]) for name in names)) for row in found]
    promised = table(("storage", "contestant", *names), rows)
    body = []
    for row in found:
        for case, said in row["facts"]["per request"].items():
            if row["kind"] != "memory":
                commands = ", ".join(f"{count:g} {name}" for name, count in said["commands"].items())
                bytes_ = "" if said["bytes"] is None else said["bytes"]
                body.append((row["kind"], row["contestant"], case, commands or "-", bytes_))
    return promised, table(("storage", "contestant", "one request", "told the store", "bytes"), body)


def yes_no(value: object) -> object:
    return ("no", "yes")[value] if isinstance(value, bool) else value


def end_to_end(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    rows = []
    for row in found:
        best = {name: max(rates) for name, rates in row["rates"].items()}
        told = [f"{rate:.0f} ({rate / best['bare']:.2f})" for rate in best.values()]
        spread = max(1 - median(rates) / max(rates) for rates in row["rates"].values())
        rows.append((row["server"], row["app"], row["case"], *told, f"{spread:.0%}"))
    names = list(found[0]["rates"])
    return f"{table(('server', 'app', 'case', *names, 'spread'), rows)}\n\n{cpu(found)}".rstrip()


def cpu(found: list[dict[str, Any]]) -> str:
    """Return a table of the time of the processor that a server takes, where the system tells."""
    rows = []
    for row in found:
        if taken := row.get("cpu"):
            told = [f"{us:.1f} ({us / taken['bare']:.2f})" for us in taken.values()]
            rows.append((row["server"], row["app"], row["case"], *told))
    if not rows:
        return ""
    head = ("server", "app", "case", *found[0]["rates"])
    return f"Microseconds of the processor for a request:\n\n{table(head, rows)}"


def rows_of_sql(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    names = [name for name in found[0] if name not in ("kind", "rows")]
    body = [
        (one["kind"], f"{one['rows']:,}", *(f"{one[name]:.{2 if name == WAITS else 0}f}" for name in names))
        for one in found
    ]
    return table(("database", "rows", *(name if name == WAITS else f"{name}, µs" for name in names)), body)


# --- pictures ---------------------------------------------------------------------------------------------------------

COLOURS = {
    "ours": "#1b7837",
    "Starlette": "#7b7b7b",
    "starsessions 2.2.1": "#c2731c",
    "fastapi-redis-sdk": "#b2182b",
    "asgi-sessions": "#4575b4",
    CLIENT: "#bdbdbd",
}
BAR, GAP, LEFT, WIDTH, RIGHT = 16, 12, 190, 420, 150


def draw(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "overhead.svg": ("cookies and memory, 150 bytes, one request at a time", ("signed", "encrypted", "memory"), 1),
        "stores.svg": ("stores, 150 bytes, one request at a time", ("redis", "sqlite", "postgres"), 1),
        "stores-at-once.svg": ("stores, 150 bytes, 50 requests at once", ("redis", "sqlite", "postgres"), 50),
    }
    overheads = {Cell(*row["cell"]): row["overhead"] for row in results["times"]}
    for file, (title, kinds, at_once) in pictures.items():
        shown = {
            f"{kind}, {case}": bars
            for kind in kinds
            for case in ("untouched", "read", "write")
            if (
                bars := {
                    cell.contestant: us for cell, us in overheads.items() if cell[1:] == (kind, case, 150, at_once)
                }
            )
        }
        if shown:
            (folder / file).write_text(svg(f"µs over the bare application: {title}", shown), encoding="utf-8")


def svg(title: str, groups: dict[str, dict[str, float]]) -> str:
    most = max(value for bars in groups.values() for value in bars.values())
    shapes, y = [f'<text x="8" y="18" font-weight="bold">{escape(title)}</text>'], 36
    for group, bars in groups.items():
        middle = y + len(bars) * BAR / 2 + 4
        shapes.append(f'<text x="{LEFT - 8}" y="{middle:g}" text-anchor="end">{escape(group)}</text>')
        for name, value in bars.items():
            width = max(value / most * WIDTH, 1)
            label = f"{name} {value:.3g}"
            shapes.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{COLOURS[name]}"/>'
                f'<text x="{LEFT + width + 4:.1f}" y="{y + 11}" font-size="11">{escape(label)}</text>'
            )
            y += BAR
        y += GAP
    size = f'width="{LEFT + WIDTH + RIGHT}" height="{y}"'
    lines = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{lines}\n</svg>\n'
    )
