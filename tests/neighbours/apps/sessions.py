"""The middleware of an application: Starlette's, or that of this package. The rest of it is the same for both."""

import os
from functools import partial
from typing import Any

import starlette.middleware.sessions

import starsessions

KEY = "bd6zZ0gVb6kXl4nUO2FVqd3fWv3SJmF3yWBv4Zl0T0w"
URL = os.environ["URL"]
OURS = os.environ["SESSIONS"] == "starsessions"

SessionMiddleware: Any = starlette.middleware.sessions.SessionMiddleware
ON_THE_SERVER: dict[str, Any] = {"secret_key": KEY}
"""The settings for a session that is changed after the response has started."""
if OURS:
    SessionMiddleware = partial(starsessions.SessionMiddleware, autoload=True)
    ON_THE_SERVER = {"backend": starsessions.InMemoryBackend()}
