"""python -m starsessions.testing package.module:open_store

Checks the rules of the store contract, and prints one line for each. `open_store(name)` opens a connection to the
storage of that name: it returns a store, or an async context manager that yields one. The names begin with `place_`.
Nothing removes what is stored under them: keep files in a temporary directory. The exit code is 1 if a rule is broken.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import anyio

from starsessions.testing.conformance.broken_stores import broken_stores
from starsessions.testing.conformance.fixtures import OpenStore
from starsessions.testing.conformance.store_rules import STORE
from starsessions.testing.conformance.verdict import store_verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    capabilities = "; ".join(f"{name}: {meaning}" for name, meaning in STORE.capabilities.items())
    parser = argparse.ArgumentParser("python -m starsessions.testing", description=__doc__.partition("\n\n")[2])
    parser.add_argument("open_store", nargs="?", metavar="package.module:open_store")
    parser.add_argument("--decline", action="append", default=[], metavar="NAME=REASON", help=capabilities)
    parser.add_argument("--largest-value", type=int, metavar="BYTES", help="the size limit of values, if there is one")
    parser.add_argument("--event-loop", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--self-test", action="store_true", help="check that the rules reject broken stores")
    options = parser.parse_args(arguments)
    if options.self_test:
        return anyio.run(_self_test, backend=options.event_loop)
    if not options.open_store or ":" not in options.open_store:
        parser.error("name the function that opens your store: package.module:open_store")
    declines = dict(decline.split("=", 1) if "=" in decline else (decline, "") for decline in options.decline)
    open_store = _imported(options.open_store)
    return anyio.run(_prove, open_store, declines, options.largest_value, backend=options.event_loop)


async def _prove(open_store: OpenStore, declines: dict[str, str], largest_value: int | None) -> int:
    outcomes = {}
    async for verdict in store_verdicts(open_store, declines=declines, largest_value=largest_value):
        why = f": {verdict.why.splitlines()[0]}" if verdict.why else ""
        _say(f"{verdict.outcome:8} {verdict.rule}{why}")
        outcomes[verdict.rule] = verdict.outcome
    lacking = [name for name in STORE.capabilities if _seems_to_lack(name, outcomes)]
    if lacking:
        sys.stderr.write(
            "The store keeps no rule of some capabilities. If it is meant to lack them, decline each with a reason: "
            f"{' '.join(f'--decline {name}=REASON' for name in lacking)}\n"
        )
    return int("broken" in outcomes.values())


def _seems_to_lack(capability: str, outcomes: Mapping[str, str]) -> bool:
    seen = {outcomes[rule.__name__] for rule, needs in STORE.needs.items() if capability in needs}
    return "broken" in seen and "kept" not in seen


async def _self_test() -> int:
    wrong = 0
    for store in broken_stores():
        is_rejected = await store.failing_rules() == store.rejected_by
        _say(f"{'rejected' if is_rejected else 'MISSED'} {store.name}: {store.mistake}")
        wrong += not is_rejected
    return min(wrong, 1)


def _imported(target: str) -> OpenStore:
    module, _, name = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    found: OpenStore = getattr(import_module(module), name)
    return found


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
