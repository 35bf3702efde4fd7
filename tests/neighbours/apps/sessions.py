"""The middleware of an application: Starlette's, or this package's. The rest of each application is the same for both."""

import os
from functools import partial
from typing import Any

KEY = "bd6zZ0gVb6kXl4nUO2FVqd3fWv3SJmF3yWBv4Zl0T0w"
URL = os.environ["URL"]
OURS = os.environ["SESSIONS"] == "starsessions"

SessionMiddleware: Any
ON_THE_SERVER: dict[str, Any]
"""The settings for what is changed after the response has started."""
if OURS:
    from starsessions import InMemoryBackend
    from starsessions import SessionMiddleware as Ours

    SessionMiddleware = partial(Ours, autoload=True)
    ON_THE_SERVER = {"backend": InMemoryBackend()}
else:
    ON_THE_SERVER = {"secret_key": KEY}
