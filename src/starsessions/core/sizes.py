"""How large the parts of a session are: for the message that says that it is too large."""

from typing import Any

from starsessions.core.serializer import Msgpack
from starsessions.exceptions import UnsupportedValue


def heaviest(data: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the three largest keys, and the approximate size of each in bytes, before signing or encryption.

    >>> heaviest({"cart": [1] * 90, "user": "ann"})
    [('cart', 95), ('user', 6)]
    """
    weights = [(str(key), _weight(value)) for key, value in dict.items(data)]
    return sorted(weights, key=lambda weight: weight[1], reverse=True)[:3]


def _weight(value: object) -> int:
    try:
        return len(Msgpack().dumps({"": value}))
    except UnsupportedValue:  # the application's serializer or backend may accept more types than the built-in one
        return 0
