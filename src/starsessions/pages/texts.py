"""What the pages say, in English. Each text is a key for a translator."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from starlette.requests import Request

from starsessions.core.history import What
from starsessions.exceptions import ImproperlyConfigured
from starsessions.pages.html import Html, element

Say = Callable[[str], str]
"""Translates one text, as `gettext` does."""

Translate = Mapping[str, str] | Callable[[Request], Say]
"""The texts of one language, or a function that returns what translates for a request."""

LANGUAGE = "en"
"""The language of the texts, for `<html lang>`. A translation of it is the code of its own language."""

DIRECTION = "ltr"
"""The direction of the texts, for `<html dir>`: "rtl" for Arabic and Hebrew."""

TIME = "%Y-%m-%d %H:%M UTC"
"""How a time is written, as `strftime` takes it."""

WHAT = {
    What.SIGNED_IN: "Signed in",
    What.FAILED: "Failed attempt to sign in",
    What.SIGNED_OUT: "Signed out",
    What.REVOKED: "Signed out from elsewhere",
    What.BY_OPERATOR: "Signed out by an operator",
}

SHARED = (
    LANGUAGE,
    DIRECTION,
    TIME,
    *WHAT.values(),
    "just now",
    "{count} min ago",
    "{count} h ago",
    "{count} d ago",
    "{browser} on {system}",
    "Unknown browser",
    "Signed in {time}",
    "Last used {time}",
    "This device",
    "Sign out",
    "Sign out {device}",
    "Older",
    "Back",
    "Pages",
    "Sign-in history",
    "Nothing yet.",
    "This page is out of date",
    "You have signed in or out since you opened it, or your session has ended. What you sent was not done.",
    "Open it again",
)
FOR_PEOPLE = (
    "Your devices",
    "Devices",
    "You are signed in on these devices. If you do not recognise one of them, sign it out.",
    "Sign out all other devices",
    "You are signed in on this device only.",
    "That device is signed out.",
    "That device was not signed in any more.",
    "All other devices are signed out: {count}",
    "Sign-ins, failed attempts and sign-outs of your account, the latest first.",
    "Download as CSV",
)
FOR_OPERATORS = (
    "Sessions of users",
    "User id",
    "Search",
    "Sessions of {user}",
    "Live sessions: {count}",
    "More than {count}",
    "This user is not signed in.",
    "End all sessions …",
    "This signs the user out everywhere.",
    "End all sessions",
    "End",
    "End {device}",
    "That session has ended.",
    "That session had ended before.",
    "Sessions that have ended: {count}",
    "by {operator}",
)

MESSAGES: tuple[str, ...] = (*SHARED, *FOR_PEOPLE, *FOR_OPERATORS)
"""Every text of the pages, for a catalogue of translations. Names in braces stay as they are."""


def checked(translate: Translate | None) -> Callable[[Request], Say]:
    """Return the function that returns what translates for a request."""
    if translate is None:
        return lambda request: str
    if isinstance(translate, Mapping):
        texts = dict(translate)
        return lambda request: lambda text: texts.get(text, text)
    if not callable(translate):
        raise ImproperlyConfigured(
            "translate must be a dict of texts, or a function of the request that returns a function: "
            "lambda request: translations[language_of(request)].gettext."
        )
    return translate


def time_of(say: Say, moment: datetime, now: float) -> Html:
    """Return how long ago something was; the exact time is shown by the pointer, and read by machines."""
    minutes = max(0, int(now - moment.timestamp())) // 60
    hours, days = minutes // 60, minutes // (24 * 60)
    if not minutes:
        text = say("just now")
    elif not hours:
        text = say("{count} min ago").format(count=minutes)
    elif not days:
        text = say("{count} h ago").format(count=hours)
    else:
        text = say("{count} d ago").format(count=days)
    return element("time", text, datetime=moment.isoformat(), title=moment.astimezone(UTC).strftime(say(TIME)))


def exact_time(say: Say, moment: datetime) -> Html:
    """Return a time of the history."""
    return element("time", moment.astimezone(UTC).strftime(say(TIME)), datetime=moment.isoformat())


def device_name(say: Say, agent: str) -> str:
    """Return the browser and system in words."""
    browser, on, system = agent.partition(" on ")
    if on:
        return say("{browser} on {system}").format(browser=browser, system=system)
    return agent or say("Unknown browser")
