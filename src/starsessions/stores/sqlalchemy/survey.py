"""What a database says about itself and the table. All functions run on a connection of SQLAlchemy, without a loop."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from starsessions.stores.sqlalchemy.connection import own_pool
from starsessions.stores.survey import Survey

_SESSION = sa.text("SELECT pg_backend_pid()")


def survey_of(table: sa.Table, connection: sa.Connection) -> Survey:
    """Return what can be said of a database whose table works."""
    return Survey(
        is_shared=not isinstance(connection.engine.pool, sa.StaticPool),
        changes_session=connection.dialect.name == "postgresql" and _changes_session(connection),
        missing_indexes=missing_indexes(table, connection),
    )


def _changes_session(connection: sa.Connection) -> bool:
    """Return whether a second connection gets the session of PostgreSQL that the first one, still open, has just used.

    Two connections to PostgreSQL itself never have the same session. PgBouncer in transaction mode lends the session
    that was last returned.
    """
    first = connection.scalar(_SESSION)
    engine: Any = own_pool(connection.engine)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            return bool(other.scalar(_SESSION) == first)
    finally:
        engine.dispose()


def missing_indexes(table: sa.Table, connection: sa.Connection) -> Sequence[str]:
    """Return the columns of the indexes that the table of this name lacks."""
    # An inspector does not apply the schema_translate_map of the engine.
    translated = connection.get_execution_options().get("schema_translate_map") or {}
    schema = translated.get(table.schema, table.schema)
    inspector: Any = sa.inspect(connection)
    found = [tuple(index["column_names"]) for index in inspector.get_indexes(table.name, schema=schema)]
    wanted = [tuple(index.columns.keys()) for index in table.indexes]
    return [", ".join(one) for one in sorted(wanted) if not any(has[: len(one)] == one for has in found)]
