"""Run clients by hand, and print what was counted and what was violated.

python -m tests.histories --store redis --seconds 60 --faults kill,proxy --seed 1
"""

import argparse
import sys
from collections import Counter

from tests.histories.checker import check
from tests.histories.faults import FAULTS
from tests.histories.run import Condition, run
from tests.histories.stores import STORES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description=__doc__)
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--servers", default=",".join(Condition.servers), help="as tests/wide/asgi.py calls them")
    parser.add_argument("--faults", default="", help=f"some of {', '.join(FAULTS)}")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--leave", type=float, default=0.0, help="the share of requests whose client leaves")
    parser.add_argument("--skew", type=float, default=0.0, help="how far the clocks are ahead and behind, in seconds")
    parser.add_argument("--maximum", type=int, default=Condition.maximum, help="max_sessions_per_user")
    parser.add_argument("--show", type=int, default=5, help="how many violations of each promise to show")
    given = parser.parse_args()
    condition = Condition(
        store=given.store,
        servers=tuple(given.servers.split(",")),
        faults=tuple(filter(None, given.faults.split(","))),
        seconds=given.seconds,
        seed=given.seed,
        leave=given.leave,
        skew=given.skew,
        maximum=given.maximum,
        ends_with_kill="kill" in given.faults,
    )
    done = run(condition)
    violations = check(done.history, condition.rules)
    by_promise = Counter(one.promise for one in violations)
    lines = [str(condition), ", ".join(f"{name}: {number}" for name, number in sorted(done.counts.items()))]
    lines.append(f"violations: {dict(by_promise) or 'none'}")
    for promise in by_promise:
        lines += [str(one) for one in violations if one.promise == promise][: given.show]
    sys.stdout.write("\n".join([*lines, ""]))
    return bool(violations)


if __name__ == "__main__":
    sys.exit(main())
