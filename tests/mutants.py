"""Make small mistakes in the library, one at a time, and see whether a test notices.

    python -m tests.mutants --count 300 --seed 1 src/starsessions/core src/starsessions/lifecycle

Takes a sample of all mutants of the given files, by the seed. A mutant never touches the disk: it is imported in place
of its module, in a process that is forked from one where pytest and its friends are already imported. First the tests
that are named like the module run, then those of its folder's row in TESTS. The first failure ends a mutant; one that
hangs counts as noticed, too. The survivors are printed as a diff. Each is a test that is missing, or code that changes
nothing: read it before you write a test.
"""

import argparse
import ast
import contextlib
import difflib
import importlib.util
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

MACHINE = ["tests/core/test_state.py"]
RACES = ["tests/core/test_state_races.py"]
FIRST = ["tests/shell/test_commit.py", "tests/backends/test_races.py"]
LOOKS = ["tests/shell/test_cookies.py", "tests/shell/test_caches.py", "tests/shell/test_users.py"]
_SHELL = """
    commit every_change_is_kept atomic_updates sign_in users ids cookies rotation deadlines outage events websocket
    ends_everywhere several caches watch flash timeouts nothing_for_nothing csrf
"""
ROUND_TRIPS = [f"tests/shell/test_{name}.py" for name in _SHELL.split()]
ROUND_TRIPS += ["tests/history/test_session_by_hand.py", "tests/backends/test_races.py"]
OTHERS = ["tests/shell", "tests/typed", "tests/fastapi", "tests/telemetry", "tests/backends/test_races.py"]
BACKENDS = [f"tests/backends/test_{name}.py" for name in ("server_side", "custom", "binding", "memory", "races")]
KIT = ["tests/testing/test_memory_store.py", "tests/testing/test_backends.py", "tests/testing/test_cookie_backends.py"]
HISTORY = ["tests/history"]
STREAMS = [f"tests/shell/test_{name}.py" for name in ("announced", "idle_streams", "outage")]

TESTS = {
    "core": [["tests/core"], ["tests/sealing", *OTHERS]],
    **{f"core/{name}": [["tests/oidc"]] for name in ("issued", "logout_token", "security_event")},
    "core/binding": [["tests/backends/test_binding.py"], ["tests/sealing", "tests/shell"], ["tests/core"]],
    "core/state": [MACHINE, RACES, ROUND_TRIPS, ["tests/core", *OTHERS]],
    "sealing": [["tests/sealing"], ["tests/shell", *HISTORY]],
    "stores/redis": [
        ["tests/backends/test_redis.py", "tests/backends/test_redis_owners.py", "tests/backends/test_redis_steps.py"],
        ["tests/backends/test_redis_contract.py"],
    ],
    "stores/sqlalchemy": [
        [
            "tests/backends/test_sqlalchemy.py",
            "tests/backends/test_sqlalchemy_owners.py",
            "tests/backends/test_sqlalchemy_deletes.py",
            "tests/backends/test_sqlalchemy_contract.py",
        ]
    ],
    "stores": [["tests/backends/test_memory.py"], KIT, ["tests/testing", "tests/shell"]],
    "backends": [BACKENDS, ROUND_TRIPS, ["tests/testing", *OTHERS, *HISTORY]],
    "backends/cookie": [
        ["tests/sealing", "tests/backends/test_cookie.py"],
        ROUND_TRIPS,
        [*BACKENDS, *OTHERS, *HISTORY],
    ],
    "check": [["tests/check/test_rules.py", "tests/check/test_application.py"], ["tests/check"]],
    "core/urls": [["tests/backends/test_urls.py"]],
    "backends/urls": [["tests/backends/test_urls.py"]],
    "stores/redis/urls": [["tests/backends/test_urls.py"]],
    "stores/sqlalchemy/urls": [["tests/backends/test_urls.py"]],
    "sealing/strength": [["tests/check/test_rules.py"]],
    "stores/redis/eviction": [["tests/backends/test_redis.py", "tests/check"]],
    "stores/sqlalchemy/survey": [["tests/check"]],
    "pages": [["tests/pages"], ["tests/browser/test_pages.py"]],
    "oidc": [["tests/oidc/test_logout_tokens.py", "tests/oidc/test_security_events.py"], ["tests/oidc"]],
    "cli": [["tests/cli/test_looking.py", "tests/cli/test_ending.py"], ["tests/cli"]],
    "history": [["tests/pages/test_history.py"], ["tests/pages", "tests/backends/test_erased_from_dumps.py"]],
    "core/history": [["tests/pages/test_history.py"], ["tests/pages", "tests/core"]],
    "personal": [["tests/shell/test_personal.py"], ["tests/pages", "tests/cli"]],
    "inventory": [["tests/cli", "tests/backends/test_scans.py"], ["tests/pages", "tests/shell"]],
    "health": [["tests/shell/test_health.py"], ["tests/backends/test_health_on_servers.py"]],
    "opentelemetry": [["tests/telemetry/test_metrics_and_spans.py"], ["tests/telemetry"]],
    "watch": [STREAMS, ["tests/fastapi", "tests/backends/test_announcing.py"]],
    "flash": [["tests/shell/test_flash.py", "tests/history/test_starlette_flash.py"], OTHERS],
    "csrf": [["tests/shell/test_csrf.py", "tests/shell/test_caches.py"], OTHERS],
    "testing": [["tests/testing"]],
    "fastapi": [["tests/fastapi"]],
    "typed": [["tests/typed", "tests/fastapi"], ["tests/shell"]],
    "lifecycle/sign_in": [
        ROUND_TRIPS,
        ["tests/shell/test_sign_in_races.py", "tests/backends/test_binding.py"],
        [*OTHERS, *HISTORY],
    ],
    "lifecycle/limits": [ROUND_TRIPS, ["tests/shell/test_sign_in_races.py"], [*OTHERS, *HISTORY]],
    "users": [ROUND_TRIPS, ["tests/shell/test_sign_in_races.py"], [*OTHERS, *HISTORY]],
    "lifecycle": [FIRST, ROUND_TRIPS, [*OTHERS, *HISTORY]],
    "lifecycle/response": [LOOKS, ROUND_TRIPS, [*OTHERS, *HISTORY]],
    "": [FIRST, ROUND_TRIPS, [*OTHERS, *HISTORY]],
}
"""The tests of a part of the library, the quick ones first: the longest row that matches counts."""

WARM = ("pytest", "hypothesis", "anyio.pytest_plugin", "trio", "starlette.testclient", "fastapi", "pydantic", "jinja2")

OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=1"]
OPTIONS += ["-k", "not trio"]  # nearly every mistake shows on either event loop, and one takes half the time
OPTIONS += ["-o", "faulthandler_timeout=30", "-o", "faulthandler_exit_on_timeout=true"]  # a mutant that waits forever
OPTIONS += ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]


LIMIT = 1800
"""Seconds after which a group of tests is ended. A single test that hangs ends long before: see OPTIONS."""


# --- mistakes --------------------------------------------------------------------------------------------------------

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


def mistakes(node: ast.AST) -> Iterator[ast.AST | None]:
    """What may stand in place of the node. None: nothing, so `pass`."""
    return in_statements(node) if isinstance(node, ast.stmt) else in_expressions(node)


def in_statements(node: ast.stmt) -> Iterator[ast.AST | None]:
    match node:
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise() | ast.Continue() | ast.Break() | ast.Delete():
            yield None
        case ast.AugAssign() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield None


def in_expressions(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=right) if type(op) in SWAPS:
            yield ast.Compare(left, [swapped(op)], right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(swapped(op), values)
            for at in range(len(values)):
                rest = values[:at] + values[at + 1 :]
                yield ast.BoolOp(op, rest) if len(rest) > 1 else rest[0]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SWAPS:
            yield ast.BinOp(left, swapped(op), right)
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield ast.Constant(value + 1)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Name(id=name) if name in NAMES:
            yield ast.Name(NAMES[name])


def swapped(op: ast.AST) -> Any:
    return SWAPS[type(op)]()


@dataclass(frozen=True)
class Mutant:
    file: Path
    line: int
    text: str
    """The whole module, with the mistake in it."""

    @property
    def module(self) -> str:
        parts = self.file.relative_to(SOURCE).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def diff(self) -> str:
        before, after = self.file.read_text().splitlines(), self.text.splitlines()
        lines = difflib.unified_diff(before, after, str(self.file.relative_to(ROOT)), "mutant", n=2, lineterm="")
        return "\n".join(lines)


def mutants_of(file: Path) -> Iterator[Mutant]:
    source = file.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in code_of(ast.parse(source)):
        for other in mistakes(node):
            text = "pass" if other is None else ast.unparse(ast.fix_missing_locations(other))
            if isinstance(node, ast.expr):
                text = f"({text})"
            begin = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
            end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
            changed = source[:begin] + text.encode() + source[end:]
            with contextlib.suppress(SyntaxError):  # a `(pattern)` in a `match`, say
                compile(changed, "mutant", "exec")
                yield Mutant(file, node.lineno, changed.decode())  # type: ignore[attr-defined]


def code_of(tree: ast.AST) -> Iterator[ast.AST]:
    """All that runs: no annotation, no branch for type checkers, no part of a message."""
    for child in ast.iter_child_nodes(tree):
        match child:
            case ast.If(test=test) if "TYPE_CHECKING" in ast.unparse(test):
                continue
            case ast.JoinedStr():
                continue
            case ast.AnnAssign():
                child.annotation = ast.Name("object")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                child.returns = None
            case ast.arg():
                child.annotation = None
        if hasattr(child, "lineno"):
            yield child
        yield from code_of(child)


# --- running ---------------------------------------------------------------------------------------------------------


def part_of(file: Path) -> str:
    """The part of the library whose row in TESTS counts for this file."""
    place = file.relative_to(SOURCE / "starsessions").with_suffix("").as_posix()
    return max((part for part in TESTS if f"{place}/".startswith(f"{part}/" if part else "")), key=len)


def tests_for(file: Path, quick: bool) -> list[list[str]]:
    """First those that are named like the module, then those of its part of the library, none of them twice."""
    named = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob(f"*/test_{file.stem}.py"))
    groups = [named, *([path for path in group if (ROOT / path).exists()] for group in TESTS[part_of(file)])]
    groups = groups[:-1] if quick else groups
    return [left for at, group in enumerate(groups) if (left := without(groups[:at], group))]


def without(groups: list[list[str]], group: list[str]) -> list[str]:
    """A group of tests, without those that run in the groups before it."""
    earlier = {path for other in groups for path in other}
    left = [path for path in group if path not in earlier]
    return [
        *left,
        *(f"--ignore={path}" for path in sorted(earlier) if any(path.startswith(f"{folder}/") for folder in left)),
    ]


class InPlace(MetaPathFinder, Loader):
    """Imports the mutant in place of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.mutant.module:
            return None
        package = self.mutant.file.name == "__init__.py"
        return importlib.util.spec_from_file_location(
            name,
            self.mutant.file,
            loader=self,
            submodule_search_locations=[str(self.mutant.file.parent)] if package else None,
        )

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.mutant.text, str(self.mutant.file), "exec"), module.__dict__)

    def get_source(self, name: str) -> str:
        return self.mutant.text


class Child:
    """pytest in a process of its own."""

    def __init__(self, tests: Sequence[str], mutant: Mutant | None, limit: float) -> None:
        self._until = time.monotonic() + limit
        self._pid = os.fork()
        if self._pid == 0:
            os._exit(in_child(tests, mutant))

    def answer(self) -> str | None:
        """None as long as it runs. What hangs is ended."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "noticed"
        if time.monotonic() < self._until:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        return "hung"


def in_child(tests: Sequence[str], mutant: Mutant | None) -> int:
    import pytest
    from hypothesis.configuration import set_hypothesis_home_dir

    os.setsid()
    with tempfile.TemporaryDirectory() as own:
        out = os.open(f"{own}/out", os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        set_hypothesis_home_dir(own)  # no example is handed on from one mutant to the next
        if mutant:
            sys.meta_path.insert(0, InPlace(mutant))
        options = [*OPTIONS, f"--basetemp={own}/tmp"]
        try:
            return int(pytest.main([*options, *tests]))
        except BaseException:  # the mutant broke pytest itself
            return 1


def pass_unharmed(files: Sequence[Path], quick: bool) -> bool:
    """Whether all tests of these files pass without a mistake: what fails anyway would notice each mutant."""
    paths = {path for file in files for group in tests_for(file, quick) for path in group if path.startswith("tests/")}
    child = Child(sorted(paths), None, 3600)
    while (answer := child.answer()) is None:
        time.sleep(0.1)
    return answer == "survived"


def fates(sample: Sequence[Mutant], workers: int, quick: bool) -> Iterator[tuple[Mutant, str]]:
    """What becomes of each, as it becomes known."""
    waiting = list(reversed(sample))
    running: list[tuple[Mutant, list[list[str]], Child]] = []
    while waiting or running:
        while waiting and len(running) < workers:
            mutant = waiting.pop()
            first, *others = tests_for(mutant.file, quick)
            running.append((mutant, others, Child(first, mutant, LIMIT)))
        time.sleep(0.01)
        for one in list(running):
            mutant, others, child = one
            answer = child.answer()
            if answer is None:
                continue
            running.remove(one)
            if answer == "survived" and others:
                first, *others = others
                running.append((mutant, others, Child(first, mutant, LIMIT)))
            else:
                yield mutant, answer


def files_in(paths: Sequence[str]) -> list[Path]:
    found = [Path(path).resolve() for path in paths]
    return sorted({file for path in found for file in (path.rglob("*.py") if path.is_dir() else [path])})


def main(arguments: Sequence[str] | None = None, say: Callable[..., object] = print) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--count", type=int, default=300, help="how many mutants (300)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deselect", action="append", default=[], help="for pytest: a test that fails anyway")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="leave out the last group of a module's tests")
    asked = parser.parse_args(arguments)

    OPTIONS.extend(f"--deselect={test}" for test in asked.deselect)
    os.chdir(ROOT)
    sys.path[:0] = [str(SOURCE), str(ROOT)]
    for name in WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert not any(name.startswith("starsessions") for name in sys.modules), "it must be imported in the children"

    files = files_in(asked.paths)
    every = [mutant for file in files for mutant in mutants_of(file)]
    sample = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    if not pass_unharmed(sorted({mutant.file for mutant in sample}), asked.quick):
        sys.exit("Some of the tests fail without any mistake.")
    say(f"{len(sample)} of {len(every)} mutants of {len(files)} files, seed {asked.seed}", flush=True)

    counted = {"noticed": 0, "hung": 0, "survived": 0}
    for mutant, answer in fates(sample, asked.workers, asked.quick):
        counted[answer] += 1
        if sum(counted.values()) % 20 == 0:
            say(f"... {sum(counted.values())}", flush=True)
        if answer == "survived":
            say(f"\n{mutant.file.relative_to(ROOT)}:{mutant.line} survived\n{mutant.diff}", flush=True)
    say(", ".join(f"{number} {what}" for what, number in counted.items()))
    return 1 if counted["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
