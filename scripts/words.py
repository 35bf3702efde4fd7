"""Refuse the words that made readers of English stop, with the word to use in their place.

    python scripts/words.py                 look through the documents, the examples and the scripts
    python scripts/words.py src tests       look through these files or directories instead

In Markdown, code is left out: blocks, and what stands in backticks. In Python, everything is read, names too.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEFAULT = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "examples"]

REFUSED = {
    "whoever": "anyone who, or the name of the actor: the browser, an attacker",
    "nobody": "no one, or: invalid, unknown, missing, unauthenticated",
    "somebody": "someone, or the name of the actor: a user, another request",
    "is over": "has expired, has ended",
    "what is over": "expired sessions",
    "(who|which|that) is there": "existing, stored",
    "stands": "is",
    "stand for": "represent, refer to",
    "from before": "previous, old",
    "but for": "except for",
    "so many (seconds|bytes|cookies|times|requests)": "the number",
    "ours": "the library's, this package's",
    "(is|are|stays?) yours": "you own it, your application's",
    "is no session": "is ignored, is invalid",
    "the one that asks": "the current one",
    "a life of its own": "startup and shutdown",
    "is nobody": "is invalid",
    "called back": "revoked",
    "sealed": "signed or encrypted",
}
"""As a regular expression, between the boundaries of words: what to write in its place."""

ALLOWED = {
    ("docs/explanation/performance.md", "ours"): "columns of the tables that benchmarks/run writes",
    ("scripts/words.py", ""): "the list itself",
}
"""By file and word: why it may stay. The word "" stands for all."""


def prose(path: Path) -> str:
    """Return the text of a file to be read; the lines keep their numbers."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".md":
        return text
    text = re.sub(
        r"^```.*?^```$",
        lambda code: "\n" * code[0].count("\n"),
        text,
        flags=re.MULTILINE | re.DOTALL,
    )
    return re.sub(r"`[^`\n]*`", "``", text)


def found(path: Path, name: str) -> Iterator[str]:
    """Yield a line for each refused word of a file."""
    if (name, "") in ALLOWED:
        return
    text = prose(path)
    for word, instead in REFUSED.items():
        pattern = rf"\b{word}\b".replace(" ", r"\s+")
        if (name, word) in ALLOWED:
            continue
        for match in re.finditer(pattern, text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{name}:{line}: {' '.join(match[0].split())!r}: write {instead}"


def files(names: list[str]) -> Iterator[Path]:
    for name in names:
        path = ROOT / name
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix in (".md", ".py", ".html"))
        else:
            yield path


def main(names: list[str]) -> int:
    lines = [line for path in files(names or DEFAULT) for line in found(path, path.relative_to(ROOT).as_posix())]
    print(*lines, sep="\n", end="\n" if lines else "")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
