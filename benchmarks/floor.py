"""Measure how fast a signed cookie can be in Python: the same work with the same tools, and nothing else.

Do not use it in an application. It finds, verifies and decodes the cookie, and on a write encodes, signs and sets it.
It checks no deadline, trusts anything with a valid signature, expects a single cookie of that name, misses nested
changes, and ignores caches, errors and sessions that end in the meantime. What a middleware costs beyond this floor is
the price of these duties.
"""

import re
import time
from typing import Any

from msgspec.json import Decoder, Encoder

from starsessions.core.record import Record
from starsessions.sealing.keys import key_list
from starsessions.sealing.signed import StarletteSigner

_encode, _decode = Encoder().encode, Decoder().decode
_cookie = re.compile(rb"(?:^|;)[ \t]*session=([^;]*)").search


class Data(dict[str, Any]):
    __slots__ = ("headers", "modified", "record")

    signer: StarletteSigner
    record: Record | None

    def mark_accessed(self) -> None:
        for name, value in self.headers:
            if name == b"cookie" and (match := _cookie(value)):
                self.record = record = self.signer.open(match[1].decode())
                dict.update(self, _decode(record.payload))

    def __getitem__(self, key: str) -> Any:
        if self.record is None:
            self.mark_accessed()
        return dict.__getitem__(self, key)

    def mark_modified(self) -> None:
        self.modified = True

    def __setitem__(self, key: str, value: Any) -> None:
        self.modified = True
        dict.__setitem__(self, key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.modified = True
        dict.update(self, *args, **kwargs)


class Floor:
    def __init__(self, app: Any, secret_key: str) -> None:
        self.app = app
        signer = StarletteSigner(key_list(secret_key))
        self.data = type("Data", (Data,), {"__slots__": (), "signer": signer})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        session = self.data()
        session.headers, session.modified, session.record = scope["headers"], False, None
        scope["session"] = session

        def send_with_session(message: Any) -> Any:
            if message["type"] == "http.response.start" and (session.modified or session.record is not None):
                headers = [*message["headers"], (b"vary", b"Cookie")]
                if session.modified:
                    payload, now = _encode(session), int(time.time())
                    if session.record is None or payload != session.record.payload:
                        token = session.signer.seal(Record(payload, now, now))
                        cookie = f"session={token}; path=/; Max-Age=1209600; httponly; samesite=lax; secure"
                        headers += [(b"set-cookie", cookie.encode()), (b"cache-control", b"no-store")]
                message = {**message, "headers": headers}
            return send(message)

        await self.app(scope, receive, send_with_session)
