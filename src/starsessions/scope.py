"""The session of a request, for the functions that are given the request."""

from starlette.requests import HTTPConnection

from starsessions.exceptions import ImproperlyConfigured
from starsessions.session import Session


def get_session(connection: HTTPConnection, scope_key: str = "session") -> Session:
    """The session that handlers see as `request.session`, as what it is; or that of another `scope_key`.

    >>> get_session(HTTPConnection({"type": "http", "session": {}}))
    Traceback (most recent call last):
    starsessions.exceptions.ImproperlyConfigured: This request has no session of ours: put \
starsessions.SessionMiddleware around the application.
    """
    session = connection.scope.get(scope_key)
    if not isinstance(session, Session):
        raise ImproperlyConfigured(
            "This request has no session of ours: put starsessions.SessionMiddleware around the application."
        )
    return session
