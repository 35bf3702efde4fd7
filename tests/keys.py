"""Where a store has what the tests look at."""

from starsessions.core.binding import DEFAULT_BINDING, Binding, Purpose
from starsessions.core.encoding import key_under


def key_for(token: str, binding: Binding = DEFAULT_BINDING) -> str:
    """Return the key of the session with this id."""
    return key_under(binding.label(Purpose.SESSION_KEY), token)


def owner_name(user_id: str, binding: Binding = DEFAULT_BINDING, purpose: Purpose = Purpose.SESSION_LIST) -> str:
    """Return the name of this user as the owner of entries."""
    return key_under(binding.label(purpose), user_id)
