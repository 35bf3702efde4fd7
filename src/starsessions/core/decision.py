"""The decision table: what a response does to the stored session and to the cookie.

Two cases need no decision and are handled elsewhere. `delete()` and `flush()` end a session at once and clear the
cookie. If another request has ended the session, the cookie is left alone.

`live`: the request's cookie names a valid session. `ended`: this request ended one with `delete()` or `flush()`.
`stale`: the id in the request was rotated moments ago, so the browser sent the request before it received the new id.
If the session is live all the same, the id is in its grace period. A request is `stale` as well if another site sent
it, and the browser kept its cookie at home. `emptied`: the session had data when it was loaded,
and has none now. `rotate`: a new id was asked for, by `sign_in()` (`sign_in`) or by `regenerate_id()`. `due`: use
alone renews the session now, because `rolling` is on, or because it confirms a sign-in.

| live | ended | stale | empty | emptied | rotate | sign_in | changed | due | action  | cookie         | because       |
|------|-------|-------|-------|---------|--------|---------|---------|-----|---------|----------------|---------------|
| no   | no    |       | yes   |         |        |         |         |     | nothing | leave          | bots get no   |
|      |       |       |       |         |        |         |         |     |         |                | session; a    |
|      |       |       |       |         |        |         |         |     |         |                | response to a |
|      |       |       |       |         |        |         |         |     |         |                | dead id must  |
|      |       |       |       |         |        |         |         |     |         |                | not clear a   |
|      |       |       |       |         |        |         |         |     |         |                | newer cookie  |
| no   | yes   |       | yes   |         |        |         |         |     | nothing | clear          | sign-out      |
| no   |       | yes   | no    |         | no     |         |         |     | discard | leave          | a new session |
|      |       |       |       |         |        |         |         |     |         |                | would replace |
|      |       |       |       |         |        |         |         |     |         |                | the rotated   |
|      |       |       |       |         |        |         |         |     |         |                | one in the    |
|      |       |       |       |         |        |         |         |     |         |                | browser       |
| no   |       | yes   | no    |         | yes    |         |         |     | create  | set            | the handler   |
|      |       |       |       |         |        |         |         |     |         |                | asked for an  |
|      |       |       |       |         |        |         |         |     |         |                | id            |
| no   |       | no    | no    |         |        |         |         |     | create  | set            | a new id,     |
|      |       |       |       |         |        |         |         |     |         |                | never the one |
|      |       |       |       |         |        |         |         |     |         |                | the browser   |
|      |       |       |       |         |        |         |         |     |         |                | sent          |
| yes  |       |       | yes   | yes     |        |         |         |     | delete  | clear          | an empty      |
|      |       |       |       |         |        |         |         |     |         |                | session is    |
|      |       |       |       |         |        |         |         |     |         |                | never kept    |
| yes  |       | no    |       | no      | yes    |         |         |     | rotate  | set            | changed or    |
|      |       |       |       |         |        |         |         |     |         |                | not           |
| yes  |       | yes   |       | no      | yes    | yes     |         |     | create  | set            | a sign-in is  |
|      |       |       |       |         |        |         |         |     |         |                | kept, and     |
|      |       |       |       |         |        |         |         |     |         |                | signs out     |
|      |       |       |       |         |        |         |         |     |         |                | none          |
| yes  |       | yes   |       | no      | yes    | no      |         |     | discard | leave          | the holder of |
|      |       |       |       |         |        |         |         |     |         |                | the old id    |
|      |       |       |       |         |        |         |         |     |         |                | must not get  |
|      |       |       |       |         |        |         |         |     |         |                | the session   |
|      |       |       |       |         |        |         |         |     |         |                | to keep       |
| yes  |       |       |       | no      | no     |         | yes     |     | replace | set_if_changed | a write       |
|      |       |       |       |         |        |         |         |     |         |                | renews        |
| yes  |       |       |       | no      | no     |         | no      | yes | touch   | set_if_changed | use renews    |
| yes  |       |       |       | no      | no     |         | no      | no  | nothing | leave          |               |

A blank cell matches yes and no. `set_if_changed`: set the cookie if its value or lifetime differs from what the browser
has. `Vary: Cookie` depends on access to the session and is not decided here.
"""

from enum import Enum, auto
from typing import NamedTuple


class Action(Enum):
    """What happens to the stored session."""

    NOTHING = auto()
    DISCARD = auto()
    CREATE = auto()
    DELETE = auto()
    ROTATE = auto()
    REPLACE = auto()
    TOUCH = auto()


class Cookie(Enum):
    """What the response does to the cookie."""

    LEAVE = auto()
    SET = auto()
    CLEAR = auto()
    SET_IF_CHANGED = auto()


class Decision(NamedTuple):
    """The outcome of the table: a value that can be tested, logged and traced."""

    action: Action
    cookie: Cookie


LEAVE = Decision(Action.NOTHING, Cookie.LEAVE)
CLEAR = Decision(Action.NOTHING, Cookie.CLEAR)
DISCARD = Decision(Action.DISCARD, Cookie.LEAVE)
CREATE = Decision(Action.CREATE, Cookie.SET)
DELETE = Decision(Action.DELETE, Cookie.CLEAR)
ROTATE = Decision(Action.ROTATE, Cookie.SET)
REPLACE = Decision(Action.REPLACE, Cookie.SET_IF_CHANGED)
TOUCH = Decision(Action.TOUCH, Cookie.SET_IF_CHANGED)


def decide_new(ended: bool, stale: bool, empty: bool, rotate: bool) -> Decision:
    """Decide for a request whose cookie names no valid session."""
    if empty:
        return CLEAR if ended else LEAVE
    return DISCARD if stale and not rotate else CREATE


def decide_live(emptied: bool, rotate: bool, changed: bool, due: bool, stale: bool, sign_in: bool) -> Decision:
    """Decide for a request whose cookie names a valid session."""
    if emptied:
        return DELETE
    if rotate:
        if stale:
            return CREATE if sign_in else DISCARD
        return ROTATE
    if changed:
        return REPLACE
    return TOUCH if due else LEAVE
