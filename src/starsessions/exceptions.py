"""All exceptions of this package.

    SessionError                        the root: `except SessionError` catches all of them
    ├── ImproperlyConfigured            at startup: the message says how to fix it
    ├── SessionNotLoaded                `await session.load()` is missing, or `autoload=True`
    ├── UnsupportedValue  (TypeError)   a value in the session that would not load again unchanged
    ├── SessionTooLarge   (ValueError)  larger than a browser accepts, or than `max_size`
    ├── ResponseStarted   (RuntimeError)  too late: the headers have been sent
    ├── SessionGone                     `persist()` of a session that another request has ended
    ├── SessionConflict                 two requests changed one key, with `on_conflict="raise"`
    ├── TooManySessions                 `sign_in()` of a user who has the maximum number of sessions
    ├── BackendUnavailable              the store fails or times out: a 503
    └── CsrfFailed  (HTTPException)     in `starsessions.csrf`: a forged request, or an outdated form; a 403

A cookie never causes an exception, since anyone can send one. A missing, forged, malformed or expired cookie means "no
session", and `get_miss_reason(request)` returns which. No message contains an id, a secret key or a value of the
session.
"""


class SessionError(Exception):
    """The root of all errors of this package.

    >>> issubclass(SessionNotLoaded, SessionError)
    True
    """


class ImproperlyConfigured(SessionError):
    """A setting is missing or malformed, or contradicts another one. The message says how to fix it.

    >>> from starsessions import SessionMiddleware
    >>> SessionMiddleware(app=None)
    Traceback (most recent call last):
    starsessions.exceptions.ImproperlyConfigured: SessionMiddleware needs secret_key=… or backend=…. (None counts as \
missing: is the variable that holds the key set?)
    """


class SessionNotLoaded(SessionError):
    """The session was used before `await session.load()`, and `autoload` is off.

    >>> from starsessions import InMemoryBackend, Session
    >>> Session(InMemoryBackend())["user"]
    Traceback (most recent call last):
    starsessions.exceptions.SessionNotLoaded: A `def` function cannot load the session. FastAPI passes it loaded to a \
parameter `session: CurrentSession` (starsessions.fastapi). Elsewhere call `await session.load()` in an \
`async def` function before, or pass autoload=True to SessionMiddleware.
    """


class UnsupportedValue(SessionError, TypeError):
    """A value would not load again equal and with its type, so it is not stored.

    Args:
        path: the value's place, as a Python expression.
        kind: the name of the value's type.
        hint: what to do instead.

    >>> raise UnsupportedValue('session["cart"][2]', "complex")
    Traceback (most recent call last):
    starsessions.exceptions.UnsupportedValue: session["cart"][2] is a complex, which a session cannot hold.
    """

    def __init__(self, path: str, kind: str, hint: str = "") -> None:
        article = "an" if kind[:1] in "AEIOUaeiou" else "a"
        super().__init__(f"{path} is {article} {kind}, which a session cannot hold.{' ' + hint if hint else ''}")
        self.path = path
        self.kind = kind


class SessionTooLarge(SessionError, ValueError):
    """The cookie would be larger than browsers accept (4096 bytes), or the session than `max_size`. It is not saved.

    Args:
        size: the size of the cookie or the session, in bytes.
        limit: how much a browser accepts, or `max_size`.
        largest: the largest keys of the session, each with its size in bytes.
        in_store: whether the session is kept on the server.

    >>> raise SessionTooLarge(5000, 4096, [("cart", 4100)])
    Traceback (most recent call last):
    starsessions.exceptions.SessionTooLarge: The session cookie would take 5000 bytes; browsers accept 4096. \
Largest keys: 'cart' (4100 bytes). Store less, or use a backend that keeps the data on the server.
    """

    def __init__(self, size: int, limit: int, largest: list[tuple[str, int]], *, in_store: bool = False) -> None:
        heavy = ", ".join(f"{key!r} ({weight} bytes)" for key, weight in largest)
        what, who = ("session", "max_size allows") if in_store else ("session cookie", "browsers accept")
        cure = "raise SessionMiddleware's max_size" if in_store else "use a backend that keeps the data on the server"
        super().__init__(
            f"The {what} would take {size} bytes; {who} {limit}. Largest keys: {heavy}. Store less, or {cure}."
        )
        self.size = size
        self.limit = limit
        self.largest = largest


class ResponseStarted(SessionError, RuntimeError):
    """The headers have been sent, so the change is not saved automatically any more, or cannot reach the browser.

    >>> issubclass(ResponseStarted, RuntimeError)
    True
    """


class SessionGone(SessionError):
    """Another request ended the session after this one loaded it, and `persist()` cannot save. Nothing was written.

    >>> issubclass(SessionGone, SessionError)
    True
    """


class SessionConflict(SessionError):
    """Another request changed the same key since this one loaded the session, and `on_conflict="raise"` is set.

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
    """The store failed, or did not answer in time. The middleware responds 503 if no headers have been sent.

    The message names the kind of failure, and no id, key or value. The driver's own error is its `__cause__`.

    >>> raise BackendUnavailable("The store did not answer within 5 seconds.")
    Traceback (most recent call last):
    starsessions.exceptions.BackendUnavailable: The store did not answer within 5 seconds.
    """
