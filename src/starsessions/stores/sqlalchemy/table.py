"""The table of the sessions, and the statements on it, each made once."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Executable,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import mysql

_LENGTH = 128  # of a key, as the contract says

# Two keys that differ in case only are two keys: MySQL's default collation would say otherwise. "C" is how PostgreSQL
# compares bytes, whatever the database was made with.
_KEY = (
    String(_LENGTH)
    .with_variant(String(_LENGTH, collation="C"), "postgresql")
    .with_variant(mysql.VARCHAR(_LENGTH, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
)
_VALUE = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")  # BLOB there ends at 64 KiB


def session_table(metadata: MetaData | None, name: str = "starsessions") -> Table:
    """The table, as part of `metadata`: with it, Alembic finds the table when it compares.

    What is there already under this name is returned as it is, so that a module with models and the backend may both
    ask. `MetaData(schema="…")` puts the table into a schema.

    >>> from sqlalchemy import MetaData
    >>> metadata = MetaData()
    >>> session_table(metadata).columns.keys()
    ['key', 'value', 'expires_at', 'version']
    >>> session_table(metadata) is metadata.tables["starsessions"]
    True
    """
    metadata = MetaData() if metadata is None else metadata
    full_name = f"{metadata.schema}.{name}" if metadata.schema else name
    if full_name in metadata.tables:
        return metadata.tables[full_name]
    return Table(
        name,
        metadata,
        Column("key", _KEY, primary_key=True),
        Column("value", _VALUE, nullable=False),
        Column("expires_at", BigInteger, nullable=False, index=True),
        Column("version", BigInteger, nullable=False, autoincrement=False),
        mysql_engine="InnoDB",  # others there lock the whole table, or forget at a crash
        mariadb_engine="InnoDB",
    )


class Statements:
    """What is ever said to the table. Parameters begin with `p_`: SQLAlchemy keeps the names of columns to itself."""

    def __init__(self, table: Table) -> None:
        columns = table.columns
        key, expires_at, version = columns["key"], columns["expires_at"], columns["version"]
        content: dict[str, Any] = {name: bindparam(f"p_{name}") for name in ("value", "expires_at", "version")}
        here = key == bindparam("p_key")
        live, dead = expires_at > bindparam("p_now"), expires_at <= bindparam("p_now")
        as_expected = version == bindparam("p_expect")
        some_dead = select(key).where(dead).order_by(expires_at).limit(bindparam("p_limit", type_=Integer))

        self.get: Executable = select(columns["value"], expires_at, version).where(here, live)
        self.insert: Executable = insert(table).values(key=bindparam("p_key"), **content)
        self.take_over: Executable = update(table).where(here, dead).values(content)
        self.replace: Executable = update(table).where(here, as_expected, live).values(content)
        self.delete: Executable = delete(table).where(here, live)
        self.delete_expected: Executable = delete(table).where(here, as_expected, live)

        # The rows are found by the index of deadlines, and removed by their keys: "+ 0" keeps the removal off that
        # index. There MySQL and MariaDB would lock what expires next as well, in another order than an UPDATE of it.
        still_dead = expires_at + literal_column("0") <= bindparam("p_now")

        # PostgreSQL in one statement. Rows that are locked (by another sweep) are left to them. It is a CTE
        # because PostgreSQL may run a subquery with LIMIT more than once, and then removes more than the limit.
        locked = some_dead.with_for_update(skip_locked=True).cte("dead")
        self.sweep: Executable = delete(table).where(key.in_(select(locked.columns["key"])), still_dead)

        # Elsewhere in two: for a DELETE with a subquery, MySQL and MariaDB walk over the whole table.
        self.some_dead: Executable = some_dead
        self.delete_dead: Executable = delete(table).where(key.in_(bindparam("p_keys", expanding=True)), still_dead)
