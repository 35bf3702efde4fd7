"""Labels that bind keys, cookies and stored records to one application, one cookie and one purpose.

Everything that the library signs, encrypts or stores is bound to a label: keys are derived with it, and associated data
and hashed store keys begin with it. So a token or record of one binding is invalid in any other. Labels are
unambiguous: a purpose contains no separator, and each name is preceded by its length.

    starsessions/v1/<purpose>/<bytes>:<application>/<bytes>:<cookie>/

Starlette's cookie format is the one exception: it has no room for a label (see `sealing.signed`).
"""

from enum import StrEnum

from msgspec import Struct


class Purpose(StrEnum):
    """The purpose of a label. Each new kind of artefact needs its own (see tests/backends/test_binding.py)."""

    SIGNED_COOKIE = "signed-cookie"
    ENCRYPTED_COOKIE = "encrypted-cookie"
    KEY_ID = "key-id"
    """The prefix of encrypted bytes that names the secret which encrypted them."""
    SESSION_KEY = "session-key"
    """The key of a session in a store."""
    ENCRYPTED_RECORD = "encrypted-record"
    """An encrypted record in a store, or the encrypted pointer that a rotation leaves there."""
    BEFORE_SIGN_IN = "before-sign-in"
    """The key of the data that a session had before a sign-in."""
    SESSION_LIST = "session-list"
    """The user as the owner of sessions in a store, and the key of the user's epoch: see `backends/user_index.py`."""
    COOKIE_LIST = "cookie-list"
    """The user as the owner of sign-ins with signed or encrypted cookies, and the key of the user's epoch there."""
    COOKIE_KEY = "cookie-key"
    """The key of the sign-in of a signed or encrypted cookie in a store."""
    ENCRYPTED_SIGN_IN = "encrypted-sign-in"
    """The encrypted entry of such a sign-in."""
    OWNER_LIST = "owner-list"
    """The key of the list of an owner, where the library keeps it: see `stores/listed.py`."""
    EPOCH_OF_ALL = "epoch-of-all"
    """The key of the epoch of all users."""
    STAMP = "stamp"
    """The fingerprint of the credentials that a user has signed in with."""
    PROVIDER_SESSION = "provider-session"
    """An identity provider's session as the owner of links: see `backends/provider_links.py`."""
    PROVIDER_SUBJECT = "provider-subject"
    """A provider's subject as the owner of links."""
    PROVIDER_LINK = "provider-link"
    """The key of a link."""
    PROVIDER_SIGN_OUT = "provider-sign-out"
    """The key by which it is known that a provider's session has ended."""
    PROVIDER_NUMBER = "provider-number"
    """The key by which it is known that a token of this number was received."""
    STARLETTE_KEY = "starlette-key"
    """The digest that is equal for two backends which read each other's cookies in Starlette's format."""
    CUSTOM_RECORD = "custom-record"
    """The mark on the data in a `SessionBackend` of the application."""


class Binding(Struct, frozen=True):
    """One application and one of its cookies.

    >>> Binding("shop", "admin").label(Purpose.SESSION_KEY)
    b'starsessions/v1/session-key/4:shop/5:admin/'
    """

    app_name: str
    cookie_name: str

    def label(self, purpose: Purpose) -> bytes:
        """Return the label of this purpose for this cookie and application."""
        return b"starsessions/v1/%b/%b%b" % (purpose.encode(), _counted(self.app_name), _counted(self.cookie_name))


def binding_for(cookie_name: str = "session", app_name: str | None = None) -> Binding:
    """Return the binding of a middleware with these settings. The name of the application defaults to the cookie's."""
    return Binding(cookie_name if app_name is None else app_name, cookie_name)


def _counted(name: str) -> bytes:
    raw = name.encode("utf-8", "surrogatepass")
    return b"%d:%b/" % (len(raw), raw)


DEFAULT_BINDING = binding_for()
"""The binding of a backend that is used by hand, before a middleware binds it."""

UNBOUND = Binding("", "")
"""The binding of artefacts that belong to no cookie: no cookie has an empty name."""
