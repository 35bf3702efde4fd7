"""Pages to mount: devices and sign-in history for people, and live sessions for operators.

    users = UserSessions(backend)
    app.mount("/devices", DevicesPages(users, sign_in_url="/login"))
    app.mount("/operators", OperatorPages(users, guard=name_of_operator))

They need Starlette and python-multipart, and no JavaScript. Every change is a form with the token of the session.
"""

from starsessions.pages.devices import DevicesPages
from starsessions.pages.layout import Page
from starsessions.pages.operators import OperatorPages
from starsessions.pages.texts import MESSAGES

__all__ = ["MESSAGES", "DevicesPages", "OperatorPages", "Page"]
