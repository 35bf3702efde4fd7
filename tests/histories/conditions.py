"""The conditions whose figures are in docs/explanation/durability.md."""

from tests.histories.run import Condition

OTHERS = ("hypercorn-uvloop-2-workers", "granian-2-workers")
"""The servers of `scripts/test --wide`."""

LOST = frozenset({"what was not ended lives"})
LATE = LOST | {
    "what is dead stays dead",
    "a key is a register",
    "counters are exact",
    "what lives is listed",
    "what is listed lives",
    "no user has too many sessions",
}
"""What clocks that are further apart than a minute may cost: sessions and the maximum, and never an end."""
EVICTED = LOST | {"what is ended stays closed", "what lives is listed", "no user has too many sessions"}
"""What a server may cost that evicts: sessions, the places that they have in a listing, and the epochs."""
DIRTY = LATE | {"what is ended is not listed"}
"""What a failover takes back that was not confirmed, and that others have seen: a replica did not have it yet."""
TAKEN_BACK = DIRTY | {"what is ended stays closed"}

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
    "Redis, clocks 61 s apart": Condition("redis", skew=30.5, costs=LATE),
    "Redis, clocks 90 s apart": Condition("redis", skew=45, costs=LATE),
    "Redis, clocks 180 s apart": Condition("redis", skew=90, costs=LATE),
    "Redis, `rotate_every`, all of these": Condition(
        "redis", faults=ALL, leave=0.1, settings=frozenset({"rotate_every"})
    ),
    "Redis, signed cookies with `revocations`, all of these": Condition(
        "redis", faults=ALL, leave=0.1, ends_with_kill=True, settings=frozenset({"revocations"})
    ),
    'Redis, `encrypt_with`, `on_too_many="refuse"`, kill -9': Condition(
        "redis", faults=("kill",), ends_with_kill=True, settings=frozenset({"encrypt_with", "refuse"})
    ),
    "Redis, `check_epoch`, `revoke_everyone()`, all of these": Condition(
        "redis", faults=ALL, leave=0.1, ends_with_kill=True, settings=frozenset({"check_epoch", "revoke_everyone"})
    ),
    "PostgreSQL, signed cookies, `check_epoch`, `revoke_everyone()`": Condition(
        "postgres", settings=frozenset({"revocations", "check_epoch", "revoke_everyone"})
    ),
    "PostgreSQL, `revoke_everyone()`, kill -9": Condition(
        "postgres", faults=("kill",), ends_with_kill=True, settings=frozenset({"revoke_everyone"})
    ),
    "PostgreSQL, `rotate_every`, a proxy": Condition(
        "postgres", faults=("proxy",), settings=frozenset({"rotate_every"})
    ),
    "Redis Cluster, `rotate_every`, slots move": Condition(
        "redis-cluster", faults=("move",), settings=frozenset({"rotate_every"})
    ),
    "Redis, allkeys-lru, memory full": Condition("redis-evicting", faults=("evict",), costs=EVICTED),
    "Valkey, all of these": Condition("valkey", faults=ALL, leave=0.1, ends_with_kill=True),
    "Redis Cluster, slots move": Condition("redis-cluster", faults=("move",)),
    "Redis Cluster, primaries are killed": Condition("redis-cluster", faults=("failover",), costs=TAKEN_BACK),
    "Redis with Sentinel, primaries are killed": Condition("redis-sentinel", faults=("failover",), costs=TAKEN_BACK),
    "Redis Cluster, `wait_for_replicas=1`, primaries are killed": Condition(
        "redis-cluster", faults=("failover",), settings=frozenset({"wait_for_replicas"}), costs=DIRTY
    ),
    "Redis with Sentinel, `wait_for_replicas=1`, primaries are killed": Condition(
        "redis-sentinel", faults=("failover",), settings=frozenset({"wait_for_replicas"}), costs=DIRTY
    ),
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
