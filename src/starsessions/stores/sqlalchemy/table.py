"""The table of the sessions and its statements, each created once."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

_LENGTH = 128  # the longest key that the contract allows

# Keys and owners are case-sensitive, which MySQL's default collation is not. "C" makes PostgreSQL compare bytes,
# whatever the collation of the database is.
_KEY = (
    sa.String(_LENGTH)
    .with_variant(sa.String(_LENGTH, collation="C"), "postgresql")
    .with_variant(mysql.VARCHAR(_LENGTH, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
)
_VALUE = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")  # their BLOB is limited to 64 KiB


LISTING = ("owner", "since", "key")
"""The columns of the index by which the entries of an owner are listed."""

_CLOCKS = {
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
    # UNIX_TIMESTAMP() of a time would be wrong for an hour when daylight saving time ends; without one it never is.
    "mysql": "SELECT UNIX_TIMESTAMP() + MICROSECOND(UTC_TIMESTAMP(6)) / 1000000",
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400",
}
_CLOCKS["mariadb"] = _CLOCKS["mysql"]


def session_table(metadata: sa.MetaData | None, name: str = "starsessions") -> sa.Table:
    """Return the table of the sessions as part of `metadata`, so that Alembic includes it in migrations.

    An existing table of this name is returned unchanged, so that your models and the backend can both call this.

    Args:
        metadata: the metadata of your models. `MetaData(schema="…")` puts the table into a schema. None: a new one.
        name: the name of the table, or `schema.table`.

    >>> from sqlalchemy import MetaData
    >>> metadata = MetaData()
    >>> session_table(metadata).columns.keys()
    ['key', 'value', 'expires_at', 'version', 'owner', 'since']
    >>> session_table(metadata) is metadata.tables["starsessions"]
    True
    """
    metadata = sa.MetaData() if metadata is None else metadata
    named, _, name = name.rpartition(".")
    schema = named or metadata.schema
    full_name = f"{schema}.{name}" if schema else name
    if full_name in metadata.tables:
        return metadata.tables[full_name]
    table = sa.Table(
        name,
        metadata,
        sa.Column("key", _KEY, primary_key=True),
        sa.Column("value", _VALUE, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False, index=True),
        sa.Column("version", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("owner", _KEY),
        sa.Column("since", sa.BigInteger),
        schema=schema,
        mysql_engine="InnoDB",  # other engines lock the whole table, or lose data in a crash
        mariadb_engine="InnoDB",
    )
    # The order of a listing. Where the database can, it leaves out the entries without an owner: they cost nothing.
    owner, since, key = (table.columns[name] for name in LISTING)
    sa.Index(None, owner, since, key, postgresql_where=owner.is_not(None), sqlite_where=owner.is_not(None))
    return table


def _a_page(table: sa.Table, dialect: sa.Dialect) -> sa.Select[Any]:
    """Return the query for a page of a listing, of any owner, which begins in the index where the page begins.

    With the other form of the condition, each database would read all the pages before this one. MariaDB also does so
    for this form, unless it is told to use the index.
    """
    since, key = table.columns["since"], table.columns["key"]
    p_since, p_key = sa.bindparam("p_since", type_=since.type), sa.bindparam("p_key", type_=key.type)
    page = sa.select(key, since, table.columns["value"], table.columns["expires_at"], table.columns["version"])
    if dialect.name in {"postgresql", "sqlite"}:
        page = page.where(sa.tuple_(since, key) < sa.tuple_(p_since, p_key))
    else:
        page = page.where(sa.or_(since < p_since, sa.and_(since == p_since, key < p_key)))
        for index in table.indexes:
            if index.columns.keys() == list(LISTING):
                hint = f"FORCE INDEX ({dialect.identifier_preparer.format_index(index)})"
                page = page.with_hint(table, hint, "mysql").with_hint(table, hint, "mariadb")
    return page.order_by(since.desc(), key.desc()).limit(sa.bindparam("p_limit", type_=sa.Integer))


def _joined(table: sa.Table) -> sa.Select[Any]:
    """Return the query for entries, each with that of its owner and with another one."""
    of_owner, other = table.alias("of_owner"), table.alias("other")
    key, owner, other_key = table.columns["key"], table.columns["owner"], other.columns["key"]
    joined = table.outerjoin(of_owner, of_owner.columns["key"] == owner)
    # Without the second condition, SQLAlchemy would warn of a join that has none, on MySQL and MariaDB.
    joined = joined.outerjoin(other, sa.and_(other_key == sa.bindparam("p_other"), other_key != key))
    content = (one.columns[name] for one in (table, of_owner, other) for name in ("value", "expires_at", "version"))
    return sa.select(owner, *content).select_from(joined)


class Statements:
    """All statements on the table. Parameters begin with `p_`, because SQLAlchemy reserves the names of columns.

    Args:
        table: the table.
        dialect: the kind of database that they are for.
    """

    def __init__(self, table: sa.Table, dialect: sa.Dialect) -> None:
        columns = table.columns
        key, expires_at, version = columns["key"], columns["expires_at"], columns["version"]
        content: dict[str, Any] = {
            name: sa.bindparam(f"p_{name}") for name in ("value", "expires_at", "version", "owner", "since")
        }
        here = key == sa.bindparam("p_key")
        live, dead = expires_at > sa.bindparam("p_now"), expires_at <= sa.bindparam("p_now")
        as_expected = version == sa.bindparam("p_expect")
        some_dead = sa.select(key).where(dead).order_by(expires_at).limit(sa.bindparam("p_limit", type_=sa.Integer))

        self.get: sa.Executable = sa.select(columns["value"], expires_at, version).where(here, live)
        self.get_joined: sa.Select[Any] = _joined(table).where(here, live)
        self.insert: sa.Executable = sa.insert(table).values(key=sa.bindparam("p_key"), **content)
        self.take_over: sa.Executable = sa.update(table).where(here, dead).values(content)
        self.replace: sa.Executable = sa.update(table).where(here, as_expected, live).values(content)
        self.delete: sa.Executable = sa.delete(table).where(here, live)
        self.delete_expected: sa.Executable = sa.delete(table).where(here, as_expected, live)
        self.time: sa.Executable = sa.text(_CLOCKS.get(dialect.name, _CLOCKS["postgresql"]))

        # The index on expires_at has most of the table after a `now`: "+ 0" keeps SQLite and others off it.
        still_live = expires_at + sa.literal_column("0") > sa.bindparam("p_now")
        owned = columns["owner"] == sa.bindparam("p_owner")
        some_owned = sa.select(key).where(owned, still_live).limit(sa.bindparam("p_limit", type_=sa.Integer)).subquery()
        self.count_owned: sa.Executable = sa.select(sa.func.count()).select_from(some_owned)
        self.list_owned: sa.Executable = _a_page(table, dialect).where(owned, still_live)

        # All rows, dead ones too: so each page reads as many as it returns.
        columns_read = (key, columns["value"], expires_at, version, columns["owner"])
        page = sa.select(*columns_read).where(key > sa.bindparam("p_key")).order_by(key)
        self.scan: sa.Executable = page.limit(sa.bindparam("p_limit", type_=sa.Integer))

        # No entry has the version of another one, which is random: the two lists need not be of pairs.
        keys = key.in_(sa.bindparam("p_keys", expanding=True))
        versions = version.in_(sa.bindparam("p_versions", expanding=True))
        self.get_together: sa.Executable = sa.select(key, columns["value"], expires_at, version).where(keys, still_live)
        self.delete_together: sa.Executable = sa.delete(table).where(keys, versions, still_live).returning(key)

        # The rows are found by the index on expires_at and deleted by key: "+ 0" keeps the DELETE off that index.
        # There, MySQL and MariaDB would also lock the next rows to expire, in another order than an UPDATE does
        # (deadlocks).
        still_dead = expires_at + sa.literal_column("0") <= sa.bindparam("p_now")

        # One statement on PostgreSQL. Rows that another sweep has locked are skipped. It is a CTE because PostgreSQL
        # may run a subquery with LIMIT more than once, and would then delete more rows than the limit.
        locked = some_dead.with_for_update(skip_locked=True).cte("dead")
        self.sweep: sa.Executable = sa.delete(table).where(key.in_(sa.select(locked.columns["key"])), still_dead)

        # Two statements elsewhere: for a DELETE with a subquery, MySQL and MariaDB scan the whole table.
        self.some_dead: sa.Executable = some_dead
        self.delete_dead: sa.Executable = sa.delete(table).where(keys, still_dead)
