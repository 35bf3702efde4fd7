"""A store in Redis or Valkey."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass  # with a `__getattr__`, a type checker would accept any name
else:

    def __getattr__(name: str) -> object:
        from starsessions.moved import missing  # nearly no one asks

        raise missing(__name__, name)
