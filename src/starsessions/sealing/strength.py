"""What can be said about a key without showing it: whether others know it, can guess it, or it is used elsewhere."""

import re
from hashlib import blake2b
from os import urandom

from msgspec import Struct

from starsessions.sealing.keys import is_weak

_COMMON = """
abc abc123 admin dev development foo key letmein notsecret password password1 qwerty secret session sessionkey shhh test
testing topsecret verysecret 12345678 123456789 1234567890
thekeyofthesignedcookies thepreviouskeywhichstilldecrypts thesamekeyasbefore
"""
"""Keys without anything but letters and digits, in lower case. The last line is from the documentation of this library.
"""

_PUBLISHED = frozenset(
    {
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",  # FastAPI's tutorial
        "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",  # Flask's tutorial
        "43n080musdfjt54t09sdgr",  # Starlette's documentation
        "5y2lf4q8z",  # Flask's quick start
        *_COMMON.split(),
    }
)

_REPLACED = """
changeme changethis djangoinsecure donotuse examplekey fixme insecurekey mysecret notasecret placeholder randombytes
replaceme replacethis samplekey secretkey somerandomstring supersecret thisisasecret yourkey yoursecret
"""
_WORDS = _REPLACED.split()
"""What a key contains that was to be replaced. No random key of 32 bytes contains one of these by chance."""

_SALT = urandom(32)


class KeyFact(Struct, frozen=True):
    """A key, as far as others may see it."""

    setting: str
    """The keyword that it was passed under."""
    mark: bytes
    """Equal for equal keys in this process, and useless elsewhere."""
    is_public: bool
    is_weak: bool


def fact_of(setting: str, key: bytes) -> KeyFact:
    """Return what can be said about a key.

    >>> fact_of("secret_key", b"change-me").is_public
    True
    """
    mark = blake2b(key, key=_SALT, digest_size=16).digest()
    return KeyFact(setting, mark, is_published(key), is_weak(key))


def is_published(key: bytes) -> bool:
    """Return whether a key is in the documentation of this library or of others, or says that it is to be replaced."""
    plain = re.sub(r"[^a-z0-9]", "", key.decode("utf-8", "replace").lower())
    return plain in _PUBLISHED or any(word in plain for word in _WORDS)
