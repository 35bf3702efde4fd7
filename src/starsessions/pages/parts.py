"""The parts that people and operators both see: devices, and lines of a history."""

from collections.abc import Callable, Iterable
from itertools import chain

from starsessions.core.history import HistoryEntry, What
from starsessions.pages.html import Html, element, filled
from starsessions.pages.texts import WHAT, Say, device_name, exact_time, time_of
from starsessions.users import UserSession


def device_list(
    devices: Iterable[UserSession], say: Say, now: float, action: Callable[[UserSession, str], Html | None]
) -> Html:
    """Return the devices as a list, each with what can be done to it."""
    return element("ul", *(_device(one, say, now, action) for one in devices), class_="ss-list")


def _device(one: UserSession, say: Say, now: float, action: Callable[[UserSession, str], Html | None]) -> Html:
    name = device_name(say, one.agent)
    badge = element("span", say("This device"), class_="ss-badge") if one.is_current else None
    facts = [
        filled(say("Signed in {time}"), time=time_of(say, one.signed_in_at, now)),
        say(one.method) if one.method else None,
        one.address or None,
    ]
    used = filled(say("Last used {time}"), time=time_of(say, one.last_used_at, now))
    told = element("div", element("h2", name, " ", badge), _facts(facts), _facts([used]))
    return element("li", told, action(one, name), class_="ss-current" if one.is_current else None)


def history_list(entries: Iterable[HistoryEntry], say: Say, *, names_operators: bool = False) -> Html:
    """Return lines of a history. Operators see which of them it was."""
    return element("ol", *(_line(one, say, names_operators) for one in entries), class_="ss-lines")


def _line(one: HistoryEntry, say: Say, names_operators: bool) -> Html:
    facts = [
        device_name(say, one.agent) if one.agent or one.what is What.SIGNED_IN else None,
        say(one.method) if one.method else None,
        one.address or None,
        filled(say("by {operator}"), operator=one.operator) if names_operators and one.operator else None,
    ]
    told = element("div", element("strong", say(WHAT[one.what])), _facts(facts))
    return element("li", told, exact_time(say, one.at), class_="ss-failed" if one.what is What.FAILED else None)


def _facts(facts: Iterable[str | None]) -> Html | None:
    shown = [(element("span", fact), " ") for fact in facts if fact is not None]
    return element("p", *chain.from_iterable(shown), class_="ss-quiet") if shown else None
