"""The conditions whose figures are in docs/explanation/durability.md."""

from tests.histories.run import Condition

OTHERS = ("hypercorn-uvloop-2-workers", "granian-2-workers")
"""The servers of `scripts/test --wide`."""

GHOSTS = frozenset({"what is ended is not listed"})
"""A rotation that is interrupted may leave an entry that no cookie opens. The list shows it until it is revoked."""
LOST = frozenset({"what was not ended lives"})
LATE = LOST | {"what is dead stays dead", "what lives is listed", "what is listed lives"}
"""What clocks that are further apart than a minute may cost: sessions, and never their ends."""
TAKEN_BACK = LATE | {"a key is a register", "counters are exact", "what is ended stays closed"}
TAKEN_BACK |= {"what is ended is not listed", "no user has too many sessions"}

ALL = ("kill", "pause", "workers", "proxy")
CONDITIONS = {
    "SQLite": Condition("sqlite"),
    "SQLite, workers are killed and paused": Condition("sqlite", faults=("workers",)),
    "SQLite, 15 % of the clients leave": Condition("sqlite", leave=0.15),
    "Redis": Condition("redis"),
    "Redis, kill -9": Condition("redis", faults=("kill",), ends_with_kill=True),
    "Redis, paused": Condition("redis", faults=("pause",)),
    "Redis, a proxy that resets, half-closes, delays, and loses": Condition("redis", faults=("proxy",)),
    "Redis, workers are killed and paused": Condition("redis", faults=("workers",)),
    "Redis, 15 % of the clients leave": Condition("redis", leave=0.15),
    "Redis, all of these": Condition("redis", faults=ALL, leave=0.1, ends_with_kill=True),
    "Redis, clocks 58 s apart": Condition("redis", skew=29),
    "Redis, clocks 180 s apart": Condition("redis", skew=90, costs=LATE),
    "Redis, allkeys-lru, memory full": Condition("redis-evicting", faults=("evict",), costs=LOST),
    "Redis Cluster, slots move": Condition("redis-cluster", faults=("move",)),
    "Redis Cluster, primaries are killed": Condition("redis-cluster", faults=("failover",), costs=TAKEN_BACK),
    "Redis with Sentinel, primaries are killed": Condition("redis-sentinel", faults=("failover",), costs=TAKEN_BACK),
    "PostgreSQL": Condition("postgres"),
    "PostgreSQL, kill -9": Condition("postgres", faults=("kill",), ends_with_kill=True),
    "PostgreSQL, all of these": Condition("postgres", faults=ALL, leave=0.1, ends_with_kill=True),
    "PostgreSQL, psycopg, paused, proxy": Condition("postgres-psycopg", faults=("pause", "proxy")),
    "PostgreSQL, clocks 180 s apart": Condition("postgres", skew=90, costs=LATE),
    "MariaDB": Condition("mariadb"),
    "MariaDB, all of these": Condition("mariadb", faults=ALL, leave=0.1, ends_with_kill=True),
    "the control: Redis without persistence, kill -9": Condition(
        "redis-forgetful", ends_with_kill=True, costs=TAKEN_BACK
    ),
}
