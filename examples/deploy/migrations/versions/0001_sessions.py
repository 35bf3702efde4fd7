"""The table of the sessions, as `alembic revision --autogenerate` wrote it on PostgreSQL, without other databases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_key = sa.String(length=128, collation="C")
_owned = sa.text("owner IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "starsessions",
        sa.Column("key", _key, primary_key=True),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("owner", _key),
        sa.Column("since", sa.BigInteger()),
    )
    op.create_index("ix_starsessions_expires_at", "starsessions", ["expires_at"])
    op.create_index("ix_starsessions_owner", "starsessions", ["owner", "since", "key"], postgresql_where=_owned)


def downgrade() -> None:
    op.drop_table("starsessions")
