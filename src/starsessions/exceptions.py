"""Everything that this package raises.

    SessionError                        the root: `except SessionError` catches all of it
    ├── ImproperlyConfigured            at start: the message names the cure
    ├── SessionNotLoaded                `await session.load()` is missing, or `autoload=True`
    ├── UnsupportedValue  (TypeError)   a value in the session that would not read back as itself
    ├── SessionTooLarge   (ValueError)  the cookie would be over what a browser keeps
    ├── ResponseStarted   (RuntimeError)  too late: the headers have left
    ├── SessionGone                     `persist()` of a session that was ended meanwhile
    ├── SessionConflict                 two requests changed one key, and `on_conflict="raise"` was asked for
    ├── TooManySessions                 `sign_in()` of somebody who has as many sessions as are allowed
    ├── BackendUnavailable              the store fails, or does not answer in time: a 503
    └── CsrfFailed  (HTTPException)     in `starsessions.csrf`: the request was not meant, or its form is stale; a 403

What a stranger can send as a cookie is never an exception: one that is missing, forged, malformed or
expired is "no session", and `session.miss_reason` says which. No message carries an id, a secret key
or a value of the session.
"""


class SessionError(Exception):
    """The root of all errors of this package.

    >>> issubclass(SessionNotLoaded, SessionError)
    True
    """


class ImproperlyConfigured(SessionError):
    """A setting is missing, malformed or contradicts another one; the message names the cure.

    >>> from starsessions import SessionMiddleware
    >>> SessionMiddleware(app=None)
    Traceback (most recent call last):
    starsessions.exceptions.ImproperlyConfigured: SessionMiddleware needs secret_key=… or backend=….
    """


class SessionNotLoaded(SessionError):
    """The session was used before `await session.load()`, and `autoload` is off.

    >>> from starsessions import InMemoryBackend, Session
    >>> Session(InMemoryBackend())["user"]
    Traceback (most recent call last):
    starsessions.exceptions.SessionNotLoaded: Call `await session.load()` first, or pass autoload=True to \
SessionMiddleware.
    """


class UnsupportedValue(SessionError, TypeError):
    """A value would not come back equal and of its type, so it is not stored.

    `path` is where it stands, as one would write it in Python; `kind` is its type's name.

    >>> raise UnsupportedValue('session["cart"][2]', "complex")
    Traceback (most recent call last):
    starsessions.exceptions.UnsupportedValue: session["cart"][2] is a complex, which a session cannot hold.
    """

    def __init__(self, path: str, kind: str, hint: str = "") -> None:
        super().__init__(f"{path} is a {kind}, which a session cannot hold.{' ' + hint if hint else ''}")
        self.path = path
        self.kind = kind


class SessionTooLarge(SessionError, ValueError):
    """The cookie is larger than browsers keep (4096 bytes), so it is not sent.

    `size` and `limit` are bytes; `largest` are the heaviest keys of the session with their bytes.

    >>> raise SessionTooLarge(5000, 4096, [("cart", 4100)])
    Traceback (most recent call last):
    starsessions.exceptions.SessionTooLarge: The session cookie would take 5000 bytes; browsers keep 4096. \
Largest keys: 'cart' (4100 bytes). Store less, or use a backend that keeps the data on the server.
    """

    def __init__(self, size: int, limit: int, largest: list[tuple[str, int]]) -> None:
        heavy = ", ".join(f"{key!r} ({weight} bytes)" for key, weight in largest)
        super().__init__(
            f"The session cookie would take {size} bytes; browsers keep {limit}. Largest keys: {heavy}. "
            "Store less, or use a backend that keeps the data on the server."
        )
        self.size = size
        self.limit = limit
        self.largest = largest


class ResponseStarted(SessionError, RuntimeError):
    """The headers have left, so what was asked for can no longer reach the store or the browser by itself.

    >>> issubclass(ResponseStarted, RuntimeError)
    True
    """


class SessionGone(SessionError):
    """`persist()` found that the session was ended by somebody else since it was loaded: nothing was written.

    >>> issubclass(SessionGone, SessionError)
    True
    """


class SessionConflict(SessionError):
    """Another request has changed the same key since this one loaded the session, and `on_conflict="raise"` is set.

    Nothing was written.

    >>> issubclass(SessionConflict, SessionError)
    True
    """


class TooManySessions(SessionError):
    """The user has as many sessions as `max_sessions_per_user` allows, and `on_too_many="refuse"` is set.

    >>> issubclass(TooManySessions, SessionError)
    True
    """


class BackendUnavailable(SessionError):
    """The store fails, or does not answer in time. The middleware answers 503 if no header has left.

    The message names the kind of the failure, and no id, key or value; the cause has what the driver said.

    >>> raise BackendUnavailable("The store did not answer within 5 seconds.")
    Traceback (most recent call last):
    starsessions.exceptions.BackendUnavailable: The store did not answer within 5 seconds.
    """
