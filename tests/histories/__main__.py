"""Run clients by hand, and print what was counted and what was violated.

python -m tests.histories --store redis --seconds 60 --faults kill,proxy --seed 1
python -m tests.histories --table --seconds 60       # all conditions, as a table of Markdown
python -m tests.histories --judge kept/redis-1.run   # a run that --keep has written
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.histories.checker import Violation, check
from tests.histories.conditions import CONDITIONS
from tests.histories.faults import FAULTS
from tests.histories.kept import Kept, keep, kept
from tests.histories.run import SETTINGS, Condition, Run, run
from tests.histories.stores import STORES


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.histories", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--servers", default=",".join(Condition.servers), help="as tests/wide/asgi.py calls them")
    parser.add_argument("--faults", default="", help=f"some of {', '.join(FAULTS)}")
    parser.add_argument("--settings", default="", help=f"some of {', '.join(sorted(SETTINGS))}")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--leave", type=float, default=0.0, help="the share of requests whose client leaves")
    parser.add_argument("--skew", type=float, default=0.0, help="how far the clocks are ahead and behind, in seconds")
    parser.add_argument("--maximum", type=int, default=Condition.maximum, help="max_sessions_per_user")
    parser.add_argument("--show", type=int, default=5, help="how many violations of each promise to show")
    parser.add_argument("--table", action="store_true", help="run all conditions of the documents")
    parser.add_argument("--only", default="", help="with --table: the conditions that have this in their name")
    parser.add_argument("--keep", type=Path, help="a directory for the run and for what touched each violation")
    parser.add_argument("--judge", type=Path, help="a file from --keep, to be judged again in place of a run")
    given = parser.parse_args()
    if given.judge is not None:
        return judge(given.judge, given.show)
    common = {"servers": tuple(given.servers.split(",")), "seconds": given.seconds, "seed": given.seed}
    if given.table:
        chosen = [name for name in CONDITIONS if given.only in name]
        return table({name: replace(CONDITIONS[name], **common) for name in chosen}, given.show)
    condition = Condition(
        store=given.store,
        faults=tuple(filter(None, given.faults.split(","))),
        leave=given.leave,
        skew=given.skew,
        maximum=given.maximum,
        ends_with_kill="kill" in given.faults,
        settings=frozenset(filter(None, given.settings.split(","))),
        **common,
    )
    done = run(condition)
    violations = check(done.history, condition.rules)
    if given.keep is not None:
        keep(given.keep, f"{given.store}-{given.seed}", Kept(condition.rules, done.history), violations)
    counted = ", ".join(f"{name}: {number}" for name, number in sorted(done.counts.items()))
    say(str(condition), counted, f"violations: {summed(violations)}", *excerpts(violations, given.show))
    return bool(violations)


def judge(file: Path, show: int) -> int:
    """Judge a run again that was kept."""
    violations = kept(file).judge()
    say(f"violations: {summed(violations)}", *excerpts(violations, show))
    return bool(violations)


def table(conditions: dict[str, Condition], show: int) -> int:
    """Print a row for each condition, and below the table what was violated that the condition does not excuse."""
    say("| condition | requests | answered | faults | violations |", "|---|---|---|---|---|")
    unexcused: list[str] = []
    for name, condition in conditions.items():
        done = run(condition)
        violations = check(done.history, condition.rules)
        say(row(name, done, violations))
        wrong = [one for one in violations if one.promise not in condition.costs]
        unexcused += [f"\n{name}:", *excerpts(wrong, show)] if wrong else []
    say(*unexcused)
    return bool(unexcused)


def row(name: str, done: Run, violations: Sequence[Violation]) -> str:
    asked, answered, faults = (done.counts[what] for what in ("asked", "answered 200", "faults"))
    return f"| {name} | {asked:,} | {answered:,} | {faults or ''} | {summed(violations)} |"


def summed(violations: Sequence[Violation]) -> str:
    by_promise = Counter(one.promise for one in violations)
    return ", ".join(f"{number}: {promise}" for promise, number in by_promise.items()) or "0"


def excerpts(violations: Sequence[Violation], show: int) -> Iterator[str]:
    for promise in {one.promise: None for one in violations}:
        yield from [str(one) for one in violations if one.promise == promise][:show]


def say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
