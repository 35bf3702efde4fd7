"""The response headers of a session: `Set-Cookie`, `Vary`, `Cache-Control`, `Clear-Site-Data`; and the 503 response.

HTTP and WebSocket responses share this code.
"""

import logging
import re
from collections.abc import Iterator

from starlette.types import Message

from starsessions.core.caching import RawHeaders, make_private
from starsessions.core.chunking import MIN_ROOM, cookies_for, room_for, split
from starsessions.core.cookies import MAX_COOKIE
from starsessions.core.decision import Cookie
from starsessions.core.record import MissReason, cookie_max_age
from starsessions.core.sizes import heaviest
from starsessions.exceptions import ImproperlyConfigured, SessionTooLarge
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.tracked_dict import TrackedDict

_log = logging.getLogger("starsessions")

_COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")  # cookie-octets: RFC 6265bis, 4.1.1
_NOTHING_REFUSED = (None, MissReason.NO_COOKIE)

RETRY_AFTER = 5
"""The `Retry-After` of a 503 response, in seconds."""


def with_session(message: Message, session: TrackedDict, scheme: str) -> Message:
    """Return the start of an HTTP response with the headers of the session added.

    The message and its list of headers are copied: an application may send the same objects in every response.
    """
    state = session.__starsessions__
    cookies = set_cookies(session, scheme) if state.cookie is not Cookie.LEAVE else []
    headers, invited = make_private(message.get("headers", ()), cookies)
    if invited:
        _log.warning("A response that sets the session cookie had Cache-Control: public; it is now sent with no-store.")
    if cookies and state.clears_site_data:
        # If a new session began after the sign-out (a flash message), its cookie is in this response and must survive.
        what = b'"cookies", ' if state.found is None else b""
        headers.append((b"clear-site-data", b'"cache", ' + what + b'"storage"'))
    return {**message, "headers": headers}


def with_session_cookie(message: Message, session: TrackedDict, scheme: str) -> Message:
    """Return the response to a WebSocket handshake with the headers of the session added."""
    if message["type"] != "websocket.accept":  # rejected with an HTTP response
        return with_session(message, session, scheme)
    if session.__starsessions__.cookie is Cookie.LEAVE:
        return message
    return {**message, "headers": [*message.get("headers", ()), *set_cookies(session, scheme)]}


def set_cookies(session: TrackedDict, scheme: str) -> RawHeaders:
    """Return the `Set-Cookie` headers that store the session's token in the browser, or delete it."""
    state = session.__starsessions__
    config, found = state.config, state.found
    if found is None:
        return _spelled([], 0, state, scheme)
    token = found.token
    if not config.is_client_side and _COOKIE_VALUE.fullmatch(token) is None:
        raise ImproperlyConfigured(
            "The backend returned a session id that cannot be the value of a cookie: let generate_id() and write() use "
            "only the characters A-Z a-z 0-9 - _."
        )
    max_age = cookie_max_age(found.record, config.policy, int(config.clock()))
    # A rejected cookie may be the first of several, written when max_cookies was higher: the others must be deleted.
    if len(token) <= config.room_in_one and state.miss_reason in _NOTHING_REFUSED:  # nearly always
        return [(b"set-cookie", f"{config.cookie.name}={token}{config.attributes(scheme, max_age)}".encode())]
    return _spelled(_parts(session, token, max_age, scheme), max_age, state, scheme)


def _spelled(parts: list[str], max_age: int | None, state: RequestState, scheme: str) -> RawHeaders:
    config, spec = state.config, state.config.cookie
    return cookies_for(spec, parts, max_age, spec.is_secure(scheme), config.backend.max_cookies, state.headers)


def _parts(session: TrackedDict, token: str, max_age: int | None, scheme: str) -> list[str]:
    """Return the token, split over as many cookies as it needs. Raises `SessionTooLarge` if these are too many."""
    state = session.__starsessions__
    spec, most = state.config.cookie, state.config.backend.max_cookies
    room = room_for(spec, most, max_age, spec.is_secure(scheme))
    parts = split(token, max(room, 1))
    if len(parts) > most or room < MIN_ROOM:
        raise SessionTooLarge(len(spec.name) + len(token), most * MAX_COOKIE, heaviest(session))
    return parts


def unavailable(scope_type: str, can_send_response: bool) -> Iterator[Message]:
    """Yield the 503 response to a request whose store failed. An outage signs no one in or out: it sets no cookie."""
    if scope_type == "websocket" and not can_send_response:
        yield {"type": "websocket.close", "code": 1013}  # try again later
        return
    kind = "http.response" if scope_type == "http" else "websocket.http.response"
    body = b"Service Unavailable"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"retry-after", b"%d" % RETRY_AFTER),
    ]
    yield {"type": f"{kind}.start", "status": 503, "headers": headers}
    yield {"type": f"{kind}.body", "body": body}
