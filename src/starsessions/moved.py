"""What replaces the names of 2.x, which was another code base: for those who import one of them from the package."""

_INTERNAL = "nothing in its place: it was internal"
_ENCRYPTED = "EncryptedCookieBackend, or encrypt_with=… of the backend"
_REPLACEMENTS = {
    "AESGCMEncryptor": _ENCRYPTED,
    "CookieStore": "secret_key=… of SessionMiddleware, or CookieBackend",
    "Encryptor": _ENCRYPTED,
    "FernetEncryptor": _ENCRYPTED,
    "InMemoryStore": "InMemoryBackend",
    "JsonSerializer": "no serializer: plain data is JSON in signed cookies",
    "LoadGuard": _INTERNAL,
    "NoopEncryptor": "no encryptor",
    "Record": _INTERNAL,
    "RedisStore": "RedisBackend of starsessions.backends.redis",
    "SessionAutoloadMiddleware": "autoload=True of SessionMiddleware",
    "SessionHandler": "Session",
    "SessionMetadata": "get_created_at",
    "SessionStore": "a store of starsessions.stores",
    "generate_session_id": "generate_id of the backend",
    "get_session_handler": "get_session",
    "get_session_id": "get_session(request).session_id",
    "get_session_metadata": "get_created_at",
    "get_session_remaining_seconds": "get_remaining",
    "is_loaded": "get_session(request).is_loaded",
    "prefix_factory": _INTERNAL,
    "regenerate_session_id": "await get_session(request).regenerate_id(), or sign_in of starsessions.users",
}


def missing(name: str) -> Exception:
    """Return the error for a name that the package does not have."""
    if name in _REPLACEMENTS:
        return ImportError(
            f"{name} is of starsessions 2.x. In 3.0, use {_REPLACEMENTS[name]} (docs/guides/migrate/from-2x.md).",
            name="starsessions",
        )
    return AttributeError(f"module 'starsessions' has no attribute {name!r}")
