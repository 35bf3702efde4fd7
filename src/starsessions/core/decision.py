"""The decision table: what a response does to the stored session and to the cookie.

Two cases need no decision and are handled elsewhere. `delete()` and `flush()` end a session at once and clear the
cookie. If another request has ended the session, the cookie is left alone.

`live`: the request's cookie names a valid session. `ended`: this request ended one with `delete()` or `flush()`.
`stale`: the id in the request was rotated moments ago, so the browser sent the request before it received the new id.
If the session is live all the same, the id is in its grace period. A request is `stale` as well if another site sent
it, and the browser withheld its cookie. `emptied`: the session had data when it was loaded, and has none now. `rotate`:
a new id was asked for, by `sign_in()` (`sign_in`) or by `regenerate_id()`. `due`: use alone renews the session now,
because `rolling` is on, or because it confirms a sign-in.

| live | ended | stale | empty | emptied | rotate | sign_in | changed | due | outcome | because                        |
|------|-------|-------|-------|---------|--------|---------|---------|-----|---------|--------------------------------|
| no   | no    |       | yes   |         |        |         |         |     | leave   | bots get no session; a         |
|      |       |       |       |         |        |         |         |     |         | response to a dead id must not |
|      |       |       |       |         |        |         |         |     |         | clear a newer cookie           |
| no   | yes   |       | yes   |         |        |         |         |     | clear   | sign-out                       |
| no   |       | yes   | no    |         | no     |         |         |     | discard | a new session would replace    |
|      |       |       |       |         |        |         |         |     |         | the rotated one in the browser |
| no   |       | yes   | no    |         | yes    |         |         |     | create  | the handler asked for an id    |
| no   |       | no    | no    |         |        |         |         |     | create  | a new id, never the one the    |
|      |       |       |       |         |        |         |         |     |         | browser sent                   |
| yes  |       |       | yes   | yes     |        |         |         |     | delete  | an empty session is never kept |
| yes  |       | no    |       | no      | yes    |         |         |     | rotate  | changed or not                 |
| yes  |       | yes   |       | no      | yes    | yes     |         |     | create  | a sign-in is kept, and signs   |
|      |       |       |       |         |        |         |         |     |         | out none                       |
| yes  |       | yes   |       | no      | yes    | no      |         |     | discard | the holder of the old id must  |
|      |       |       |       |         |        |         |         |     |         | not get the session to keep    |
| yes  |       |       |       | no      | no     |         | yes     |     | replace | a write renews                 |
| yes  |       |       |       | no      | no     |         | no      | yes | replace | use renews                     |
| yes  |       |       |       | no      | no     |         | no      | no  | leave   |                                |

A blank cell matches yes and no. What the outcome does to the cookie, the state machine records once it is carried out:
`create` and `rotate` set it, `delete` and `clear` remove it, `replace` sets it if its value or lifetime differs from
what the browser has, and the others leave it alone. `Vary: Cookie` depends on access to the session and is not decided
here.
"""

from enum import Enum, auto


class Cookie(Enum):
    """What the response does to the cookie."""

    LEAVE = auto()
    SET = auto()
    CLEAR = auto()


class Decision(Enum):
    """The outcome of the table."""

    LEAVE = auto()
    CLEAR = auto()
    DISCARD = auto()
    CREATE = auto()
    DELETE = auto()
    ROTATE = auto()
    REPLACE = auto()


LEAVE, CLEAR, DISCARD, CREATE = Decision.LEAVE, Decision.CLEAR, Decision.DISCARD, Decision.CREATE
DELETE, ROTATE, REPLACE = Decision.DELETE, Decision.ROTATE, Decision.REPLACE


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
    return REPLACE if changed or due else LEAVE
