"""Signed tokens: users can read but not change them.

There are two formats. Starlette's own, which versions 1.x of this package also wrote, is base64 of JSON, a timestamp
and an HMAC-SHA-1, as itsdangerous' `TimestampSigner` creates them. It is not bound to a cookie or an application.
Records that need more (other types, a lifetime of their own) are `s1.` and base64url of an envelope and its
HMAC-SHA-256, bound to the application and the cookie's name. The keys of the two formats are unrelated, so that neither
can be passed off as the other.
"""

import hashlib
from binascii import a2b_base64, b2a_base64
from functools import lru_cache
from hmac import compare_digest

from msgspec import DecodeError

from starsessions.core.binding import UNBOUND, Binding, Purpose
from starsessions.core.encoding import FROM_URL, TO_URL, decode_quoted, from_base64url, to_base64url
from starsessions.core.record import MissReason, Record
from starsessions.sealing.envelope import packer, unpack
from starsessions.sealing.keys import derive, hmac_with

PREFIX = "s1."

_MAC = 32


class StarletteSigner:
    """Sign and verify cookies in the format of Starlette's `SessionMiddleware` and of starsessions 1.x (JSON only)."""

    def __init__(self, keys: list[bytes]) -> None:
        # The key derivation of itsdangerous for a TimestampSigner with default arguments.
        derived = [hashlib.sha1(b"itsdangerous.Signer" + b"signer" + key).digest() for key in keys]  # noqa: S324
        self._macs = [hmac_with(key, hashlib.sha1) for key in derived]
        self._mac = self._macs[0]
        self.key_digests: frozenset[bytes] = frozenset(
            derive(key, UNBOUND.label(Purpose.STARLETTE_KEY)) for key in keys
        )
        """Digests that are equal for two signers which read each other's cookies."""

    def seal(self, record: Record) -> str:
        signed = b2a_base64(record.payload, newline=False) + _stamp(record.renewed_at)
        return str(signed + b"." + b2a_base64(self._mac(signed), newline=False).translate(TO_URL).rstrip(b"="), "ascii")

    def open(self, token: str) -> Record | MissReason:
        try:
            signed, _, mac = token.encode("ascii").rpartition(b".")
        except UnicodeEncodeError:
            return MissReason.MALFORMED
        payload, _, stamp = signed.rpartition(b".")
        if not payload:
            return MissReason.MALFORMED
        for compute in self._macs:
            if compare_digest(b2a_base64(compute(signed), newline=False).translate(TO_URL).rstrip(b"="), mac):
                break
        else:
            return MissReason.BAD_SIGNATURE
        try:
            at = int.from_bytes(a2b_base64(stamp.translate(FROM_URL) + b"=="), "big")
            data = decode_quoted(b'"%b"' % payload)
        except (ValueError, DecodeError):
            return MissReason.UNDECODABLE
        # The application may sign other text with the same key. Only a JSON object can be a session.
        return Record(data, at, at) if data.startswith(b"{") else MissReason.UNDECODABLE


@lru_cache(maxsize=1)  # many tokens are signed in the same second
def _stamp(at: int) -> bytes:
    raw = at.to_bytes((at.bit_length() + 7) // 8, "big")
    return b"." + b2a_base64(raw, newline=False).translate(TO_URL).rstrip(b"=")


class Signer:
    """Sign and verify `s1.` tokens, which are valid for one binding only."""

    def __init__(self, keys: list[bytes], binding: Binding, compress: bool = False) -> None:
        label = binding.label(Purpose.SIGNED_COOKIE)
        self._macs = [hmac_with(derive(key, label), hashlib.sha256) for key in keys]
        self._pack = packer(compress)

    def seal(self, record: Record) -> str:
        raw = self._pack(record)
        return PREFIX + to_base64url(self._macs[0](raw) + raw)

    def open(self, token: str) -> Record | MissReason:
        try:
            sealed = from_base64url(token[len(PREFIX) :])
        except ValueError:
            return MissReason.MALFORMED
        mac, raw = sealed[:_MAC], sealed[_MAC:]
        if not raw:
            return MissReason.MALFORMED
        if not any(compare_digest(compute(raw), mac) for compute in self._macs):
            return MissReason.BAD_SIGNATURE
        try:
            return unpack(raw)
        except Exception:  # a token of another release is never an error
            return MissReason.UNDECODABLE
