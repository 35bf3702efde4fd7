"""What a response says about the session: `Set-Cookie`, `Vary`, `Cache-Control`, `Clear-Site-Data`, and the 503.

It is spelled here once, for HTTP and for WebSockets.
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
from starsessions.core.serializer import Msgpack
from starsessions.exceptions import ImproperlyConfigured, SessionTooLarge, UnsupportedValue
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.tracked_dict import TrackedDict

_log = logging.getLogger("starsessions")

_COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")  # cookie-octets: RFC 6265bis, 4.1.1
_NOTHING_REFUSED = (None, MissReason.NO_COOKIE)

RETRY_AFTER = 5
"""Seconds after which a client may try again if the store failed."""


def with_session(message: Message, session: TrackedDict, scheme: str) -> Message:
    """Return the start of an HTTP response, with what it has to say about the session that it was made with.

    It is a new message with a new list: an application may send the same ones to everyone.
    """
    state = session.__starsessions__
    cookies = set_cookies(session, scheme) if state.cookie is not Cookie.LEAVE else []
    headers, invited = make_private(message.get("headers", ()), cookies)
    if invited:
        _log.warning("A response that sets the session cookie had Cache-Control: public; it now has no-store.")
    if cookies and state.clears_site_data:
        # A session that began since then (a message for the next page) has its cookie in this very response.
        what = b'"cookies", ' if state.found is None else b""
        headers.append((b"clear-site-data", b'"cache", ' + what + b'"storage"'))
    return {**message, "headers": headers}


def with_session_cookie(message: Message, session: TrackedDict, scheme: str) -> Message:
    """Return the answer to a WebSocket handshake, with what it has to say about the session."""
    if message["type"] != "websocket.accept":  # it is refused with an HTTP response
        return with_session(message, session, scheme)
    if session.__starsessions__.cookie is Cookie.LEAVE:
        return message
    return {**message, "headers": [*message.get("headers", ()), *set_cookies(session, scheme)]}


def set_cookies(session: TrackedDict, scheme: str) -> RawHeaders:
    """Return the `Set-Cookie` headers that give the browser the session's token, or take it away."""
    state = session.__starsessions__
    config, found = state.config, state.found
    if found is None:
        return _spelled([], 0, state, scheme)
    token = found.token
    if not config.is_client_side and _COOKIE_VALUE.fullmatch(token) is None:
        raise ImproperlyConfigured("The backend returned an id that cannot be the value of a cookie.")
    max_age = cookie_max_age(found.record, config.policy, int(config.clock()))
    # A refused cookie may be the first of several, from when max_cookies was more: the others have to go.
    if len(token) <= config.room_in_one and state.miss_reason in _NOTHING_REFUSED:  # nearly always
        return [(b"set-cookie", f"{config.cookie.name}={token}{config.attributes(scheme, max_age)}".encode())]
    return _spelled(_parts(session, token, max_age, scheme), max_age, state, scheme)


def _spelled(parts: list[str], max_age: int | None, state: RequestState, scheme: str) -> RawHeaders:
    config, spec = state.config, state.config.cookie
    return cookies_for(spec, parts, max_age, spec.is_secure(scheme), config.backend.max_cookies, state.headers)


def _parts(session: TrackedDict, token: str, max_age: int | None, scheme: str) -> list[str]:
    """The token, over as many cookies as it takes; SessionTooLarge if those are too many."""
    state = session.__starsessions__
    spec, most = state.config.cookie, state.config.backend.max_cookies
    room = room_for(spec, most, max_age, spec.is_secure(scheme))
    parts = split(token, max(room, 1))
    if len(parts) > most or room < MIN_ROOM:
        raise SessionTooLarge(len(spec.name) + len(token), most * MAX_COOKIE, _heaviest(session))
    return parts


def _heaviest(session: TrackedDict) -> list[tuple[str, int]]:
    """The three heaviest keys, and about how many bytes each of them takes before it is sealed."""
    weights = [(str(key), _weight(value)) for key, value in dict.items(session)]
    return sorted(weights, key=lambda weight: weight[1], reverse=True)[:3]


def _weight(value: object) -> int:
    try:
        return len(Msgpack().dumps({"": value}))
    except UnsupportedValue:  # another serializer, or a backend of the application, takes more types than ours
        return 0


def unavailable(scope_type: str, can_send_response: bool) -> Iterator[Message]:
    """Yield the messages that refuse a request whose store failed: nobody is signed in or out by an outage."""
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
