"""Reject words at which readers stumble, and name a replacement.

    python scripts/words.py                 check the documents, the examples, the code, the tests and the settings
    python scripts/words.py src tests       check these files or directories only

In Markdown, code is left out: blocks, and text in backticks. In Python, comments, docstrings and strings of several
words are checked, and the names of functions and classes with their underscores as spaces. Other names are not. In
shell, comments and strings of several words are checked. Of HTML, TOML, YAML and the settings of servers, everything.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEFAULT = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    *(".ci", "benchmarks", "docs", "examples", "scripts", "src", "tests"),
    *(".gitignore", "constraints.txt", "constraints-oldest.txt", "mkdocs.yml", "pyproject.toml"),
]
READ = (".conf", ".html", ".ini", ".md", ".py", ".service", ".sh", ".timer", ".toml", ".yaml", ".yml")
"""The files of a directory that are read, besides scripts and Dockerfiles, whose names have no suffix."""

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
    # "Who asks is told", of those who ask. After a colon, some verbs begin a question: who may see the pages.
    "(as|because|but|if|may|only|or|so|than|that) who (?!is signed in)": "those who, or the name of the actor",
    "[:;] who (?!can open|is|issued|may|signed|signs in\\.|was|wins)": "anyone who, or the name of the actor",
    "(?-i:Who) (asks|can|learns|logs|needs|reads|says|signs|uses|wants|was)": "anyone who, or the name of the actor",
}
"""By regular expression, matched between word boundaries: the replacement."""

ALLOWED = {
    ("benchmarks/contestants.py", "ours"): "the class of a contestant",
    ("benchmarks/overhead.py", "ours"): "a function beside those of other libraries",
    ("docs/explanation/performance.md", "ours"): "columns of the tables that benchmarks/run writes",
    ("scripts/words.py", ""): "the list itself",
    ("src/starsessions/testing/conformance/store_rules.py", "from before"): "a rule id, which is stable",
    ("src/starsessions/testing/conformance/cookie_rules.py", "is no session"): "rule ids, which are stable",
    ("tests/benchmarks/test_compare.py", "ours"): "the name of that column",
    ("tests/history/test_cookies_of_1_0_2.py", "ours"): "a function beside `theirs`",
    ("tests/history/test_cookies_of_starlette.py", "ours"): "a function beside `theirs`",
    ("tests/docs/test_ledger.py", ""): "a page with refused words, for the test of this script",
}
"""By file and word: why it is allowed. The word "" allows all words."""


def prose(path: Path) -> str:
    """Return the text of a file that is checked. Line numbers do not change."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return prose_of_python(text)
    if path.suffix in ("", ".sh"):
        return prose_of_shell(text)
    if path.suffix != ".md":
        return text
    text = re.sub(
        r"^```.*?^```$",
        lambda code: "\n" * code[0].count("\n"),
        text,
        flags=re.MULTILINE | re.DOTALL,
    )
    return re.sub(r"`[^`\n]*`", "``", text)


def prose_of_python(source: str) -> str:
    """Return the comments, strings and names of functions and classes, on their lines."""
    lines: list[list[str]] = [[] for _ in range(source.count("\n") + 2)]
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        words = token.string
        if token.type == tokenize.NAME:
            words = words.replace("_", " ") if before in ("def", "class") else ""
        elif token.type == tokenize.OP or (token.type != tokenize.COMMENT and " " not in words):
            words = ""
        for number, line in enumerate(words.split("\n"), start=token.start[0]):
            if line:
                lines[number - 1].append(line)
        before = token.string
    return "\n".join(" ".join(line) for line in lines)


def prose_of_shell(source: str) -> str:
    """Return the comments, and the strings of several words that end on their line."""
    spoken = re.compile(r"""(?:(?<=\s)|^)#.*|"[^"]* [^"]*"|'[^']* [^']*'""")
    return "\n".join(" ".join(spoken.findall(line)) for line in source.split("\n"))


def pattern(word: str) -> "re.Pattern[str]":
    return re.compile(rf"(?:\b|(?=\W)){word}\b".replace(" ", r"\s+"), re.IGNORECASE)


def found(path: Path, name: str) -> Iterator[str]:
    """Yield a line for each refused word of a file."""
    if (name, "") in ALLOWED:
        return
    text = prose(path)
    for word, instead in REFUSED.items():
        if (name, word) in ALLOWED:
            continue
        for match in pattern(word).finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{name}:{line}: {' '.join(match[0].split())!r}: write {instead}"


def files(names: list[str]) -> Iterator[Path]:
    for name in names:
        path = ROOT / name
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if is_read(file))
        else:
            yield path


def is_read(path: Path) -> bool:
    if path.suffix or not path.is_file():
        return path.suffix in READ
    return path.name == "Dockerfile" or path.read_bytes()[:2] == b"#!"


def main(names: list[str]) -> int:
    lines = [line for path in files(names or DEFAULT) for line in found(path, path.relative_to(ROOT).as_posix())]
    print(*lines, sep="\n", end="\n" if lines else "")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
