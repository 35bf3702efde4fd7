"""A store in a SQL database, using SQLAlchemy's asyncio extension.

`store.py` implements the contract, `table.py` defines the table and the statements, and `connection.py` executes them.
"""

from importlib import import_module

from starsessions.exceptions import ImproperlyConfigured

try:
    import_module("sqlalchemy.ext.asyncio")
    import_module("greenlet")  # without it, SQLAlchemy's asyncio fails only on the first connection
except ImportError as _missing:
    raise ImproperlyConfigured(
        "Sessions in a SQL database need SQLAlchemy with its asyncio extension: "
        "install the extra starsessions[sqlalchemy], and a driver such as asyncpg, psycopg, asyncmy or aiosqlite."
    ) from _missing
