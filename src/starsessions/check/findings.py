"""What a check can find: its number, a sentence, a cure. docs/reference/checks.md has a section for each number."""

from collections.abc import Collection, Mapping
from enum import IntEnum

from msgspec import Struct


class Severity(IntEnum):
    """How bad a finding is."""

    INFO = 1
    """Right for some deployments. Decide, and silence it if this is one of them."""
    WARNING = 2
    """Something does not work as it should, or protects less than it could."""
    ERROR = 3
    """Sessions can be forged, are lost, or do not work."""


class Check(Struct, frozen=True):
    """Something that a deployment gets wrong."""

    severity: Severity
    sentence: str
    """What is wrong. Names in braces are replaced."""
    cure: str


class Finding(Struct, frozen=True):
    """Something that this deployment gets wrong.

    >>> one = found("S201", "session")
    >>> one.number, one.severity.name, one.page
    ('S201', 'ERROR', 'reference/checks.md#s201')
    """

    number: str
    """The number of the check, by which it can be silenced."""
    severity: Severity
    sentence: str
    cure: str
    where: str
    """The name of the cookie that it is about. Empty: the application."""

    @property
    def page(self) -> str:
        """The page and the section of the documentation, below `docs/`."""
        return f"reference/checks.md#{self.number.lower()}"


_INFO, _WARNING, _ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR
_NEW_KEY = "Generate one: python -c 'import secrets; print(secrets.token_urlsafe(32))'."

CHECKS: Mapping[str, Check] = {
    # The application
    "S001": Check(_ERROR, "The application cannot start: {error}", "Correct the settings that the sentence names."),
    "S002": Check(
        _ERROR,
        "There is no SessionMiddleware in this application.",
        "Check the application that the server starts, and add the middleware to it.",
    ),
    "S003": Check(
        _WARNING,
        "debug=True shows source code and local variables, sessions among them, to anyone who finds an error.",
        "Pass debug=False to the application.",
    ),
    "S004": Check(
        _ERROR,
        "The clock of the sessions is not the wall clock ({clock}), so they do not expire when they should.",
        "Remove clock=… from the backend: it is for tests.",
    ),
    "S005": Check(_WARNING, "{said}", "Do as the sentence says."),
    # Keys
    "S101": Check(
        _ERROR,
        "{setting} is an example from documentation, or a word that was to be replaced: anyone can sign in as any "
        "user.",
        _NEW_KEY,
    ),
    "S102": Check(_ERROR, "{setting} is short, or repeats a few characters: it can be guessed.", _NEW_KEY),
    "S103": Check(
        _WARNING,
        "{setting} is also {others}: anyone who learns one learns both, and they cannot be replaced one by one.",
        f"Use a key for each purpose and each middleware. {_NEW_KEY}",
    ),
    "S104": Check(_ERROR, "{said}", "Use a secret_key for each cookie."),
    # The cookie
    "S201": Check(
        _ERROR,
        "https_only=False: browsers also send the cookie over http, where anyone on the way can read it.",
        "Pass https_only=True, and serve the application over https. Chrome and Firefox accept such a cookie on "
        "http://localhost, too.",
    ),
    "S202": Check(
        _WARNING,
        "The cookie is Secure only on requests that the server believes to have come over https.",
        "Pass https_only=True.",
    ),
    "S203": Check(
        _WARNING,
        "The name of the cookie does not begin with __Host-, so other hosts of the domain can set it, and pages over "
        "http, too.",
        'Pass session_cookie="__Host-{name}". All sessions begin anew with another name.',
    ),
    "S204": Check(
        _WARNING,
        "domain={domain}: browsers send the cookie to every host below this domain, and each of them can set it.",
        "Remove domain=…, unless several hosts share these sessions and you trust all hosts of the domain.",
    ),
    "S205": Check(
        _WARNING,
        'same_site="none": pages of any site can send requests with the cookie.',
        'Use "lax", unless other sites show this application in an iframe or call it.',
    ),
    "S206": Check(_WARNING, "{said}", "Keep sessions in a store, or use max_cookies=2 at most."),
    "S207": Check(_WARNING, "{said}", 'Pass same_site="none" and https_only=True, or remove partitioned=True.'),
    # The middlewares
    "S301": Check(
        _WARNING,
        "Nothing protects against requests that other sites make browsers send (CSRF).",
        "Add CsrfMiddleware inside SessionMiddleware. Silence this if something else protects, such as a header that "
        "only your front end sends.",
    ),
    "S302": Check(
        _WARNING,
        "The protection against CSRF does not cover all routes: {paths}.",
        "Add CsrfMiddleware directly inside SessionMiddleware, so that it covers all routes.",
    ),
    "S303": Check(
        _WARNING,
        "CsrfMiddleware is outside SessionMiddleware, so that no page for a refused request can use the session.",
        "Call add_middleware(CsrfMiddleware) before add_middleware(SessionMiddleware); in a list, put it after.",
    ),
    "S304": Check(_ERROR, "{said}", "Use one SessionMiddleware around both applications, or two names."),
    "S305": Check(
        _ERROR,
        "Another SessionMiddleware, perhaps Starlette's own, {clash}.",
        "Remove one of them, or give one of them another name for its cookie, and this one another scope_key.",
    ),
    "S306": Check(_WARNING, "{said}", "Give one of them another scope_key."),
    "S307": Check(
        _ERROR,
        "AuthenticationMiddleware is outside SessionMiddleware, so its backend finds no session.",
        "Call add_middleware(SessionMiddleware) after it; in a list, put SessionMiddleware first.",
    ),
    "S308": Check(_WARNING, "{said}", "Remove the inner one."),
    # The stores
    "S401": Check(
        _ERROR,
        "Sessions are in the memory of one process, and there are {workers} workers: a request finds its session only "
        "by chance.",
        "Use one worker, or keep sessions in cookies, Redis or a database.",
    ),
    "S402": Check(
        _ERROR,
        "The store of the sessions does not work: {error}",
        "Check its address, its password and the network between them.",
    ),
    "S403": Check(_WARNING, "{said}", "Set maxmemory-policy noeviction, with memory for all sessions."),
    "S404": Check(
        _INFO,
        "Redis writes nothing to a disk: a restart ends all sessions, and revives none.",
        "Set appendonly yes, unless it does not matter that users have to sign in again.",
    ),
    "S405": Check(
        _ERROR,
        "The clock of this server and that of its store differ by {seconds} s, so sessions may count as expired.",
        "Synchronize the clocks of all servers, for instance with NTP.",
    ),
    "S406": Check(
        _WARNING,
        "Statements of one connection reach different sessions of PostgreSQL, as behind PgBouncer in transaction mode: "
        "no process hears when another one ends a session, and prepared statements may fail.",
        "Connect to PostgreSQL itself, or use pool_mode = session. See docs/guides/production/pgbouncer.md.",
    ),
    "S407": Check(_ERROR, "{error}", "Create the table before the application starts."),
    "S408": Check(_ERROR, "{error}", "Migrate the table before the application starts."),
    "S409": Check(
        _WARNING,
        "The table lacks an index on {columns}: some statements read all of it.",
        "Create the index with an Alembic migration that uses backend.metadata.",
    ),
    "S410": Check(
        _INFO,
        "What is stored is not encrypted: anyone who can read the store, or a copy of it, reads all sessions.",
        "Pass encrypt_with=… to the backend, unless sessions hold nothing personal, or the disk is encrypted.",
    ),
    # The limits
    "S501": Check(
        _ERROR,
        "{setting} is longer than the chosen level of assurance allows ({limit} s).",
        "Pass the timeouts of the level, **AAL2 for instance, to SessionMiddleware.",
    ),
    "S502": Check(
        _INFO,
        "There is no absolute_timeout: a session that is used lasts for ever, and so does a stolen one.",
        "Pass absolute_timeout=…, or **AAL1 of starsessions.timeouts.",
    ),
    "S503": Check(
        _INFO,
        "max_sessions_per_user=None: a user can have any number of sessions.",
        "Leave it out, which means 100, or pass a number.",
    ),
    "S504": Check(
        _WARNING,
        "Sessions last for more than 30 days without use.",
        "Pass a shorter max_age, or sign_in(remember=True) for users who ask for it.",
    ),
}


def found(number: str, where: str = "", **details: object) -> Finding:
    """Return the finding of a check, with the names in its texts replaced."""
    check = CHECKS[number]
    return Finding(number, check.severity, check.sentence.format(**details), check.cure.format(name=where), where)


def without(findings: Collection[Finding], silenced: Collection[str]) -> list[Finding]:
    """Return the findings that are not silenced, ordered by number.

    Raises:
        ValueError: a number is unknown.
    """
    unknown = sorted(set(silenced) - set(CHECKS))
    if isinstance(silenced, str) or unknown:
        raise ValueError(f"silence must be a collection of numbers such as S104. Unknown: {', '.join(unknown)}.")
    left = {one for one in findings if one.number not in silenced}
    return sorted(left, key=lambda one: (one.number, one.where, one.sentence))
