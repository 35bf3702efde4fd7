"""The table of the history of sign-ins, and its statements.

An entry is inserted, and deleted by retention or with its user. Nothing changes one, except that the name of an
operator is emptied when that operator's own history is erased.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mysql

from starsessions.core.history import LONGEST, TEXTS, HistoryEntry, What

_KEY = sa.String(43).with_variant(mysql.VARCHAR(43, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
_TEXT = sa.String(LONGEST).with_variant(
    mysql.VARCHAR(LONGEST, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)

Row = dict[str, Any]


def history_table(metadata: sa.MetaData | None, name: str = "starsessions_history") -> sa.Table:
    """Return the table of the history as part of `metadata`, so that Alembic includes it in migrations.

    An existing table of this name is returned unchanged.

    Args:
        metadata: the metadata of your models. None: a new one.
        name: the name of the table, or `schema.table`.

    >>> history_table(sa.MetaData()).columns.keys()
    ['id', 'at', 'what', 'user_key', 'user_id', 'handle', 'method', 'agent', 'address', 'operator']
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
        # Two processes may number entries alike in one millisecond, but not two of the same user.
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("user_key", _KEY, primary_key=True),
        *(sa.Column(text, _TEXT, nullable=False) for text in TEXTS),
        schema=schema,
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    sa.Index(None, table.columns["user_key"], table.columns["id"])
    return table


def entry_of(row: sa.Row[Any]) -> HistoryEntry:
    """Return a row as an entry."""
    _, at, what, *texts = tuple(row)
    return HistoryEntry(datetime.fromtimestamp(at, UTC), What(what), *texts)


class HistoryStatements:
    """All statements on the table."""

    def __init__(self, table: sa.Table) -> None:
        columns = table.columns
        number, owner, operator = columns["id"], columns["user_key"], columns["operator"]
        limit = sa.bindparam("p_limit", type_=sa.Integer)
        of_user, before = owner == sa.bindparam("p_user"), number < sa.bindparam("p_before")
        shown = [one for one in columns if one is not owner]
        page = sa.select(*shown).where(before).order_by(number.desc()).limit(limit)
        failures = of_user & (columns["what"] == What.FAILED.value) & (number >= sa.bindparam("p_since"))

        self.page: sa.Executable = page
        self.page_of_user: sa.Executable = page.where(of_user)
        self.failures: sa.Executable = sa.select(sa.func.count()).where(failures)
        # Two statements for a deletion, since MySQL takes no LIMIT in a subquery.
        self.some_old: sa.Executable = sa.select(number).where(before).order_by(number).limit(limit)
        self.some_of_user: sa.Executable = sa.select(number).where(of_user).limit(limit)
        numbers = number.in_(sa.bindparam("p_numbers", expanding=True))
        self.delete_old: sa.Executable = sa.delete(table).where(numbers, before)
        self.delete_of_user: sa.Executable = sa.delete(table).where(numbers, of_user)
        forgotten = operator == sa.bindparam("p_operator")
        self.forget_operator: sa.Executable = sa.update(table).where(forgotten).values(operator="")


def insert_all(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert rows with one statement. Those that exist were written by an earlier attempt, whose answer was lost."""
    try:
        connection.execute(sa.insert(table).values(rows))
    except exc.IntegrityError:
        for row in rows:
            with suppress(exc.IntegrityError):
                connection.execute(sa.insert(table), row)
