"""What replaces the names of 2.x, which was another code base: for those who import one of them from where it was."""

REPLACEMENTS = {
    "CookieStore": "secret_key=… of SessionMiddleware, or CookieBackend",
    "InMemoryStore": "InMemoryBackend",
    "JsonSerializer": "no serializer: plain data is JSON in signed cookies",
    "RedisStore": "RedisBackend of starsessions.backends.redis",
    "SessionAutoloadMiddleware": "autoload=True of SessionMiddleware",
    "SessionHandler": "Session",
    "SessionStore": "a store of starsessions.stores",
    "generate_session_id": "generate_id of the backend",
    "get_session_handler": "get_session",
    "get_session_id": "get_session(request).session_id",
    "get_session_metadata": "get_created_at",
    "get_session_remaining_seconds": "get_remaining",
    "is_loaded": "get_session(request).is_loaded",
    "regenerate_session_id": "await get_session(request).regenerate_id(), or sign_in of starsessions.users",
}


def missing(module: str, name: str) -> Exception:
    """Return the error for a name that a module does not have.

    For a name of 2.x it is an `ImportError`: `from … import` would replace the message of an `AttributeError`. So
    `hasattr` raises it, too: no class can be both.
    """
    if name in REPLACEMENTS:
        return ImportError(
            f"{name} is of starsessions 2.x. In 3.0, use {REPLACEMENTS[name]} (docs/guides/migrate/from-2x.md).",
            name=module,
        )
    return AttributeError(f"module {module!r} has no attribute {name!r}")
