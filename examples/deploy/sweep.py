"""Removes the expired sessions from a SQL database: for cron, a systemd timer or a Kubernetes job.

It works for a quarter of the time, and for an hour at most. Redis needs nothing of the kind.
"""

import asyncio
import os

from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.stores import sweep_all


async def main() -> None:
    backend = SQLAlchemyBackend(os.environ["SESSIONS"], timeout=60)
    async with backend.lifespan():
        done = await sweep_all(backend.store, timeout=3600)
    more = " There are more, for the next run." if done.timed_out else ""
    print(f"{done.removed} expired sessions were removed.{more}")


if __name__ == "__main__":
    asyncio.run(main())
