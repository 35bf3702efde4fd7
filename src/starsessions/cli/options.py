"""The options that commands have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

WHERE = Group("Where the sessions are", sort_key=1)
RESULT = Group("Result", sort_key=2)

APP, STORE = "STARSESSIONS_APP", "STARSESSIONS_STORE"

Flag: Parameter = Parameter(negative="", show_default=False)
"""An option without a value, and without a --no-…"""


Named: Parameter = Parameter(allow_leading_hyphen=True)
"""A handle or an id of a user, which may begin with a hyphen."""


@Parameter(name="*", group=WHERE)
@dataclass(frozen=True, kw_only=True)
class Where:
    """Where the sessions are."""

    app: Annotated[str | None, Parameter(env_var=APP, metavar="MODULE:APP")] = None
    """The application that has the SessionMiddleware: module:app, or module:create_app()."""

    store: Annotated[str | None, Parameter(env_var=STORE, metavar="URL")] = None
    """Without an application: the URL of the store, such as redis://localhost or postgresql://…. A URL with a password
    belongs into the environment variable."""

    cookie: Annotated[str | None, Parameter(env_var="STARSESSIONS_COOKIE", metavar="NAME")] = None
    """The session_cookie of the middleware. With --store it is "session" if it is left out. With --app it chooses one
    of several middlewares."""

    app_name: Annotated[str | None, Parameter(env_var="STARSESSIONS_APP_NAME", metavar="NAME")] = None
    """The app_name of the middleware, if it has one."""

    revocations: Annotated[bool, Flag] = False
    """The store is what a backend of cookies has as its revocations."""

    key_file: Annotated[Path | None, Parameter(env_var="STARSESSIONS_KEY_FILE", metavar="FILE")] = None
    """With --store: a file with the keys of encrypt_with, one a line. They can be in the environment variable
    STARSESSIONS_ENCRYPT_WITH instead."""

    history: Annotated[str | None, Parameter(metavar="MODULE:NAME")] = None
    """The history of sign-ins: module:history. That of the application is found if its record() is the on_event."""


@Parameter(name="*", group=RESULT)
@dataclass(frozen=True, kw_only=True)
class Result:
    """How the result is shown."""

    json: Annotated[bool, Flag] = False
    """Print the result as JSON."""


@Parameter(name="*", group=RESULT)
@dataclass(frozen=True, kw_only=True)
class Change(Result):
    """How something is ended, and how the result is shown."""

    dry_run: Annotated[bool, Flag] = False
    """Change nothing, and say what would end."""

    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="", show_default=False)] = False
    """Do not ask. It is asked on a terminal only."""
