"""The response headers of a session: `Set-Cookie`, `Vary`, `Cache-Control`, `Clear-Site-Data`; and the 503 response.

HTTP and WebSocket responses share this code.
"""

import re
from collections.abc import Iterator

from starlette.types import Message, Scope

from starsessions.core.caching import RawHeaders, invites_shared_caches, make_private
from starsessions.core.chunking import MIN_ROOM, cookies_for, part_names, room_for, split
from starsessions.core.cookies import MAX_COOKIE, Headers, count, find
from starsessions.core.csrf import header_of
from starsessions.core.decision import Cookie
from starsessions.core.duplicates import Destination, removals
from starsessions.core.record import MissReason, cookie_max_age
from starsessions.core.sizes import heaviest
from starsessions.exceptions import ImproperlyConfigured, SessionTooLarge
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.tracked_dict import TrackedDict

_LEAVE = Cookie.LEAVE
_COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")  # cookie-octets: RFC 6265bis, 4.1.1
_is_removal = re.compile(rb"; *max-age=0 *(;|\Z)", re.IGNORECASE).search  # `response.delete_cookie()` of a sign-out
_NOTHING_REFUSED = (None, MissReason.NO_COOKIE)

RETRY_AFTER = 5
"""The `Retry-After` of a 503 response, in seconds."""


def with_session(message: Message, session: TrackedDict, scope: Scope) -> Message:
    """Return the start of an HTTP response with the headers of the session added.

    The message and its list of headers are copied: an application may send the same objects in every response.
    """
    state = session.__starsessions__
    if state.cookie is _LEAVE:
        # Even without a cookie: the page may show a message that this request took, and must not come from a cache.
        forbids = state.wrote or (state.config.no_store and state.found is not None)
        headers, notable = make_private(message.get("headers", ()), [], forbids)
    else:
        forbids = True
        headers, notable = make_private(message.get("headers", ()), set_cookies(session, scope), forbids)
        if state.clears_site_data:
            # If a new session began after the sign-out (a flash message), its cookie is in this response and must stay.
            what = b'"cookies", ' if state.found is None else b""
            headers.append((b"clear-site-data", b'"cache", ' + what + b'"storage"'))
    if notable:
        look_closer(notable, forbids, state, scope)
    return {**message, "headers": headers}


def look_closer(headers: RawHeaders, forbids: bool, state: RequestState, scope: Scope) -> None:
    """Report what the application's own headers do to the session."""
    advice, mine = state.config.advice, state.config.cookie.name.encode() + b"="
    if invites_shared_caches(headers):
        advice.on_shared_cache(scope.get("path", ""), forbids)
    written = [value for name, value in headers if name.lower() == b"set-cookie" and value.startswith(mine)]
    if not all(map(_is_removal, written)):
        advice.on_second_writer()
    elif written and state.found is not None and not state.has_ended:
        advice.on_removed(written)


def with_session_cookie(message: Message, session: TrackedDict, scope: Scope) -> Message:
    """Return the response to a WebSocket handshake with the headers of the session added."""
    if message["type"] != "websocket.accept":  # rejected with an HTTP response
        return with_session(message, session, scope)
    if session.__starsessions__.cookie is _LEAVE:
        return message
    return {**message, "headers": [*message.get("headers", ()), *set_cookies(session, scope)]}


def set_cookies(session: TrackedDict, scope: Scope) -> RawHeaders:
    """Return the `Set-Cookie` headers that store the session's token in the browser, or delete it."""
    state = session.__starsessions__
    config, found, scheme = state.config, state.found, scope.get("scheme", "http")
    if found is None:
        return _spelled([], 0, state, scope)
    token, record = found.token, found.record
    if not config.is_client_side and _COOKIE_VALUE.fullmatch(token) is None:
        raise ImproperlyConfigured(
            "The backend returned a session id that cannot be the value of a cookie: let generate_id() and write() use "
            "only the characters A-Z a-z 0-9 - _."
        )
    if scheme != "https" or config.cookie.domain is not None:
        config.advice.on_cookie(scope, scheme)
    max_age = cookie_max_age(record, config.policy, int(config.clock()))
    if (
        len(token) <= config.room_in_one
        # A rejected cookie may be the first of several, written when max_cookies was higher, or there are duplicates.
        and state.miss_reason in _NOTHING_REFUSED
        and record.rotated_at != record.renewed_at
        and not state.has_ended
    ):  # nearly always
        return [(b"set-cookie", f"{config.cookie.name}={token}{config.attributes(scheme, max_age)}".encode())]
    return _spelled(_parts(session, token, max_age, scheme), max_age, state, scope)


def _spelled(parts: list[str], max_age: int | None, state: RequestState, scope: Scope) -> RawHeaders:
    config, spec = state.config, state.config.cookie
    secure = spec.is_secure(scope.get("scheme", "http"))
    cookies = cookies_for(spec, parts, max_age, secure, config.backend.max_cookies, state.headers)
    return [*_removed_duplicates(state, scope, secure), *cookies]


def _removed_duplicates(state: RequestState, scope: Scope, secure: bool) -> Headers:
    """Return the headers that remove this session's other cookies, which another `domain` or `path` has left.

    A signed or encrypted one would stay valid, and make the next request ambiguous. A response that only renews the
    cookie removes nothing, and a cookie that may be another application's is left alone.
    """
    config, found, why = state.config, state.found, state.miss_reason
    name, many = config.cookie.name, config.backend.max_cookies
    is_renewal = found is not None and found.record.rotated_at != found.record.renewed_at and not state.has_ended
    number = count(state.headers, name)
    if why is not MissReason.SEVERAL and (why is not None or is_renewal or (number != 1 and _has_foreign(state))):
        return ()
    is_certain = why is MissReason.SEVERAL or number > 1
    parts = [one for one in part_names(name, many)[1:] if find(state.headers, one) is not MissReason.NO_COOKIE]
    destination = Destination(
        header_of(state.headers, b"host"), scope.get("path", ""), scope.get("root_path", ""), secure
    )
    return removals(config.cookie, (name, *parts), destination, is_certain)


def _has_foreign(state: RequestState) -> bool:
    """Return whether the request may have another application's cookie of this name beside the session's."""
    values, tokens = find(state.headers, state.config.cookie.name), state.config.tokens_in(state.headers)
    return state.brings_foreign or not isinstance(tokens, list) or len(values) > len(tokens)


def _parts(session: TrackedDict, token: str, max_age: int | None, scheme: str) -> list[str]:
    """Return the token, split over as many cookies as it needs. Raises `SessionTooLarge` if these are too many."""
    state = session.__starsessions__
    spec, most = state.config.cookie, state.config.backend.max_cookies
    room = room_for(spec, most, max_age, spec.is_secure(scheme))
    parts = split(token, max(room, 1))
    if len(parts) > most or room < MIN_ROOM:
        state.config.observer.refused("cookie size")
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
