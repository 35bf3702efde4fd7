"""A store in a SQL database, through SQLAlchemy's asyncio.

`store.py` is the contract in SQL, `table.py` the table and the statements, and `connection.py` how a statement gets to
the database and back.
"""

from importlib import import_module

from starsessions.exceptions import ImproperlyConfigured

try:
    import_module("sqlalchemy.ext.asyncio")
    import_module("greenlet")  # without it SQLAlchemy's asyncio fails as well, but only when it connects
except ImportError as _missing:
    raise ImproperlyConfigured(
        "Sessions in a SQL database need SQLAlchemy with its asyncio extension: "
        "install the extra starsessions[sqlalchemy], and a driver such as asyncpg, psycopg, asyncmy or aiosqlite."
    ) from _missing
