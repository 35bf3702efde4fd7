"""A worker process in one environment. It gets its tasks over a pipe, so that contestants of several take turns.

python -m benchmarks.worker        # reads one JSON object per line, and writes one in response
"""

import asyncio
import gc
import json
import logging
import sys
from contextlib import AsyncExitStack
from typing import Any

from benchmarks import facts
from benchmarks.cases import CASES, SIZES, Stage, data_of, handled_by, timed
from benchmarks.contestants import CONTESTANTS, Bare


class Work:
    """`ask(do=…, …)` runs one of the methods below. The event loop is idle in between."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.stages: dict[str, Stage] = {}
        self.stack = AsyncExitStack()

    def ask(self, do: str, **arguments: Any) -> Any:
        return self.runner.run(getattr(self, f"do_{do}")(**arguments))

    def close(self) -> None:
        self.ask("close")
        self.runner.close()

    async def do_open(self, contestant: str, kind: str, size: int, urls: dict[str, str]) -> None:
        """Set up a contestant. Any number can be open; `close` closes each."""
        [chosen] = [each for each in CONTESTANTS if each.name == contestant]
        one = chosen(kind, urls)
        await self.stack.enter_async_context(one.opened())
        stage = self.stages[contestant] = Stage(one, size)
        await stage.prepare()

    async def do_close(self) -> None:
        self.stages.clear()
        await self.stack.aclose()

    async def do_time(self, contestant: str, case: str, at_once: int, times: int) -> tuple[float, float]:
        """Return seconds per request: of the bare application, and with the contestant."""
        stage = self.stages[contestant]
        bare = Bare(stage.contestant.kind, {})
        bare.data = data_of(150)
        act = CASES[case].act
        requests = list(await stage.requests(CASES[case], times))
        by_hand = stage.contestant.kind in (*SIZES, "memory")
        without, whole = handled_by(bare, act), stage.contestant.wrap(handled_by(stage.contestant, act))
        gc.collect()
        gc.disable()
        took = [await timed(app, requests, at_once, by_hand) / times for app in (without, whole)]
        gc.enable()
        return took[0], took[1]

    async def do_facts(self, contestant: str) -> dict[str, Any]:
        return await facts.of(self.stages[contestant])


def main() -> None:
    logging.disable(logging.WARNING)  # of what a cookie cannot promise
    work = Work()
    for line in sys.stdin:
        try:
            answer = {"answer": work.ask(**json.loads(line))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    work.close()


if __name__ == "__main__":
    main()
