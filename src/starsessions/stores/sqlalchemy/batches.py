"""Several writes at once: one statement in PostgreSQL, which also announces, and one transaction elsewhere.

The statement for PostgreSQL consists of the writes and of a count of the rows that they have written. If these are too
few, it fails, so that nothing is written. That says the least to the server's log, and a conflict is rare.

A transaction that announces holds a lock until it is committed, for which all others that announce wait. That is no
time, unless each commit waits for a standby: then the announcement follows in a transaction of its own, which has
nothing to wait for. The statement says whether it is so, for the next time.

Writes are ordered by key, so that two batches lock rows in the same order. Deletes that share a statement may not, and
on PostgreSQL and MariaDB that can be a deadlock: then the server ends one of the two, which is carried out again.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from os import urandom
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql

from starsessions.exceptions import BackendUnavailable
from starsessions.notices import Notices
from starsessions.stores.announce import NOT_ANNOUNCED, in_parts
from starsessions.stores.base import BatchConflict, Creation, Deletion, Entry, Version, Write
from starsessions.stores.sqlalchemy.announce import MOST_TOPICS, channel_of
from starsessions.stores.sqlalchemy.connection import Database, has_code
from starsessions.stores.sqlalchemy.table import Statements

MAX_ROUNDS = 8
"""The attempts at a batch that is refused because of an entry which is then as expected."""

_NOT_WRITTEN = "starsessions: a session has changed meanwhile, so nothing was written, and it is tried again"
"""What the log of the server shows of a conflict."""

_REFUSED = frozenset({"22P02"})
"""PostgreSQL: that is no number."""

_MUTE = frozenset({"42501", "54000"})
"""PostgreSQL: it may not notify, or it cannot: the queue is full, because some listener has not read for long."""


_WAITS: sa.ColumnElement[bool] = sa.literal_column(
    "current_setting('synchronous_standby_names') <> ''"
    " AND current_setting('synchronous_commit') NOT IN ('off', 'local')",
    sa.Boolean(),
).label("waits")
"""Whether a commit waits for a standby."""


class _Step(NamedTuple):
    """One write, and the version that it gives its entry; None: it deletes."""

    write: Write
    version: int | None

    @property
    def row(self) -> dict[str, Any]:
        """The parameters of the statement."""
        write = self.write
        if isinstance(write, Deletion):
            return {"p_key": write.key, "p_expect": write.version}
        owner, since = write.owner or (None, None)
        row = {"p_key": write.key, "p_value": write.value, "p_expires_at": write.expires_at, "p_version": self.version}
        expect = {} if isinstance(write, Creation) else {"p_expect": write.version}
        return row | expect | {"p_owner": owner, "p_since": since}

    def is_refused(self, current: Entry | None) -> bool:
        """Return whether the write is refused if this is stored."""
        if isinstance(self.write, Creation):
            return current is not None
        return current is None or current.version != self.write.version


class Batches:
    """Carry out several writes at once.

    Args:
        database: executes the statements.
        table: the table of the sessions.
        statements: the statements on it.
    """

    def __init__(self, database: Database, table: sa.Table, statements: Statements) -> None:
        self._database, self._table, self._statements = database, table, statements
        self._channel = channel_of(table.fullname)
        self.notices: Notices = Notices()
        self._together: dict[tuple[Any, ...], sa.Executable] = {}
        self._is_postgres = database.name == "postgresql"
        self.announces: bool = self._is_postgres
        """Whether it announces the topics. It may change with each batch."""

    async def carry_out(self, writes: Sequence[Write], now: int, topics: Sequence[str]) -> list[Version | None]:
        """Carry out the writes, and return their versions.

        Raises:
            BatchConflict: an entry does not have the expected version.
            BackendUnavailable: the database failed, or it is unknown whether the writes were carried out.
        """
        steps = [_Step(one, None if isinstance(one, Deletion) else int.from_bytes(urandom(8)) >> 1) for one in writes]
        for _ in range(MAX_ROUNDS):
            written, in_doubt = await self._database.call(self._attempt(steps, now, topics))
            if written or await self._were_written(steps, now, in_doubt):
                return [step.version for step in steps]
        raise BackendUnavailable(f"The store gave contradictory answers {MAX_ROUNDS} times.")

    def _attempt(self, steps: list[_Step], now: int, topics: Sequence[str]) -> Callable[[sa.Connection], bool]:
        steps = sorted(steps, key=lambda step: step.write.key)
        if not self._is_postgres:
            return lambda connection: _in_transaction(connection, lambda: self._one_by_one(connection, steps, now))
        messages = [*in_parts(topics, MOST_TOPICS)]
        parameters: dict[str, Any] = {"p_now": now, "p_channel": self._channel}
        parameters |= {f"p_message_{n}": message for n, message in enumerate(messages)}
        parameters |= {f"{name}_{n}": value for n, step in enumerate(steps) for name, value in step.row.items()}
        kinds = [type(step.write) for step in steps]
        statement, silent = [self._statement(kinds, count) for count in (len(messages), 0)]

        def attempt(connection: sa.Connection) -> bool:
            try:
                return self._at_once(connection, statement, parameters)
            except exc.DBAPIError as error:
                if not has_code(error.orig, _MUTE):
                    raise
            is_written = self._at_once(connection, silent, parameters)
            self.notices.warn("announce", NOT_ANNOUNCED, "PostgreSQL refused it.", every=600)
            return is_written

        return attempt

    def _at_once(self, connection: sa.Connection, statement: sa.Executable, parameters: dict[str, Any]) -> bool:
        """Return whether the statement has written all rows. Otherwise it has written none."""
        try:
            row = connection.execute(statement, parameters).one()
        except exc.DBAPIError as error:
            if not has_code(error.orig, _REFUSED):
                raise
            return False
        self.announces = not row.waits
        return True

    async def _were_written(self, steps: list[_Step], now: int, in_doubt: bool) -> bool:
        """Return whether a batch that was refused was carried out by an earlier attempt. False: try again.

        Raises:
            BatchConflict: it was not.
            BackendUnavailable: it is unknown.
        """
        parameters = {"p_keys": [step.write.key for step in steps], "p_now": now}
        rows = (await self._database.execute(self._statements.get_together, parameters)).rows
        stored = {row.key: Entry(row.value, row.expires_at, row.version) for row in rows}
        found = [stored.get(step.write.key) for step in steps]
        if any(entry is not None and entry.version == step.version for step, entry in zip(steps, found, strict=True)):
            return True
        for index, (step, entry) in enumerate(zip(steps, found, strict=True)):
            if step.is_refused(entry):
                if not in_doubt:
                    raise BatchConflict(index, entry)
                if entry is None and step.version is None and len(steps) == 1:
                    return True  # it was to be deleted, and it is
                raise BackendUnavailable("The store failed during a write, and its result is unknown.")
        return False

    def _one_by_one(self, connection: sa.Connection, steps: list[_Step], now: int) -> bool:
        return all(self._write(connection, step, now) for step in steps)

    def _write(self, connection: sa.Connection, step: _Step, now: int) -> bool:
        statements, row = self._statements, step.row
        if not isinstance(step.write, Creation):
            statement = statements.delete_expected if isinstance(step.write, Deletion) else statements.replace
            return connection.execute(statement, {**row, "p_now": now}).rowcount > 0
        try:
            connection.execute(statements.insert, row)
        except exc.IntegrityError:
            return connection.execute(statements.take_over, {**row, "p_now": now}).rowcount > 0
        return True

    def _statement(self, kinds: list[type[Write]], messages: int) -> sa.Executable:
        shape = (*kinds, messages)
        if shape not in self._together:
            self._together[shape] = _statement_for(self._table, kinds, messages)
        return self._together[shape]


def _statement_for(table: sa.Table, kinds: list[type[Write]], messages: int) -> sa.Executable:
    """Return the statement of PostgreSQL for writes of these kinds, and this number of messages."""
    written = [_written(table, kind, n).cte(f"write_{n}") for n, kind in enumerate(kinds)]
    counts = [sa.select(sa.func.count()).select_from(one).scalar_subquery() for one in written]
    total: sa.ColumnElement[int] = sa.literal(0)
    for count in counts:  # in the order of the keys, by which the rows are locked
        total = total + count
    # A constant that is no number would be found out while the statement is planned.
    is_complete = sa.cast(sa.case((total == len(kinds), "1"), else_=_NOT_WRITTEN), sa.Integer)
    channel = sa.bindparam("p_channel", type_=sa.String)
    said = [
        sa.func.pg_notify(channel, sa.bindparam(f"p_message_{n}", type_=sa.String)).label(f"said_{n}")
        for n in range(messages)
    ]
    return sa.select(is_complete.label("is_complete"), _WAITS, *said)


def _written(table: sa.Table, kind: type[Write], n: int) -> Any:
    """Return the write of one row, which returns it."""
    columns, key, expires_at = table.columns, table.columns["key"], table.columns["expires_at"]
    now = sa.bindparam("p_now", type_=expires_at.type)
    here = key == sa.bindparam(f"p_key_{n}", type_=key.type)
    as_expected = columns["version"] == sa.bindparam(f"p_expect_{n}", type_=columns["version"].type)
    if kind is Deletion:
        return sa.delete(table).where(here, as_expected, expires_at > now).returning(key)
    names = ("value", "expires_at", "version", "owner", "since")
    content: dict[str, Any] = {name: sa.bindparam(f"p_{name}_{n}", type_=columns[name].type) for name in names}
    if kind is Creation:
        insert = postgresql.insert(table).values(key=sa.bindparam(f"p_key_{n}", type_=key.type), **content)
        return insert.on_conflict_do_update(
            index_elements=[key], set_={name: insert.excluded[name] for name in names}, where=expires_at <= now
        ).returning(key)
    return sa.update(table).where(here, as_expected, expires_at > now).values(content).returning(key)


def _in_transaction(connection: sa.Connection, write: Callable[[], bool]) -> bool:
    """Write in a transaction, and return whether that is committed: `write` returns whether it is to be."""
    driver: Any = connection.connection.dbapi_connection
    if not connection.dialect.detect_autocommit_setting(driver):
        is_written = write()  # and the caller commits
        if not is_written:
            connection.rollback()
        return is_written
    try:
        connection.exec_driver_sql("BEGIN")
        is_written = write()
        connection.exec_driver_sql("COMMIT" if is_written else "ROLLBACK")
    except Exception:
        with suppress(Exception):  # the server may have done so, or the connection is lost
            connection.exec_driver_sql("ROLLBACK")
        raise
    return is_written
