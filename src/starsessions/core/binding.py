"""What belongs to one application, one cookie and one purpose, and is worth nothing elsewhere.

Everything that the library signs, encrypts or stores begins with a label: the key is derived with it, the associated
data or the hashed key of a store starts with it. Two labels are equal only if the purpose, the application and the
cookie are: a purpose contains none of the separators, and a name has its length in front.

    starsessions/v1/<purpose>/<bytes>:<application>/<bytes>:<cookie>/

Starlette's cookie format is the one exception: it has no room for a label (see `sealing.signed`).
"""

from enum import StrEnum

from msgspec import Struct


class Purpose(StrEnum):
    """What a label is for. Each new kind of artefact gets a purpose of its own (see tests/backends/test_binding.py)."""

    SIGNED_COOKIE = "signed-cookie"
    ENCRYPTED_COOKIE = "encrypted-cookie"
    KEY_ID = "key-id"
    """What tells, in front of encrypted bytes, which secret encrypted them."""
    SESSION_KEY = "session-key"
    """The key of a session in a store."""
    ENCRYPTED_RECORD = "encrypted-record"
    """A record, or the pointer that a rotation leaves, in a store."""
    SESSION_LIST = "session-list"
    """The key of a user's list of sessions in a store."""
    COOKIE_LIST = "cookie-list"
    """The key of a user's list of signed or encrypted cookies."""
    ENCRYPTED_LIST = "encrypted-list"
    STARLETTE_KEY = "starlette-key"
    """What two have in common that read the same cookies in Starlette's format."""
    CUSTOM_RECORD = "custom-record"
    """The mark on what a `SessionBackend` of the application keeps."""


class Binding(Struct, frozen=True):
    """One application and one of its cookies.

    >>> Binding("shop", "admin").label(Purpose.SESSION_KEY)
    b'starsessions/v1/session-key/4:shop/5:admin/'
    """

    app_name: str
    cookie_name: str

    def label(self, purpose: Purpose) -> bytes:
        """Return what begins everything that serves this purpose for this cookie of this application."""
        return b"starsessions/v1/%b/%b%b" % (purpose.encode(), _counted(self.app_name), _counted(self.cookie_name))


def binding_for(cookie_name: str = "session", app_name: str | None = None) -> Binding:
    """Return the binding of a middleware with these settings: an application is called like its cookie by default."""
    return Binding(cookie_name if app_name is None else app_name, cookie_name)


def _counted(name: str) -> bytes:
    raw = name.encode("utf-8", "surrogatepass")
    return b"%d:%b/" % (len(raw), raw)


DEFAULT_BINDING = binding_for()
"""Of what is done by hand before a middleware says for which cookie a backend works."""

UNBOUND = Binding("", "")
"""Of what belongs to no cookie, since no cookie is called so."""
