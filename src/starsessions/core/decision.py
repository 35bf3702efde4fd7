"""What a response does to the stored session and to the cookie: one table.

Two things need no deciding and happen elsewhere: `delete()` and `flush()` end a session at once and clear the cookie,
and a session that somebody else has ended meanwhile leaves the cookie alone.

`live`: the request's cookie stands for a session that lives. `ended`: this request ended one (`delete()`, `flush()`).
`late`: the request brought an id that was rotated a moment ago, and so was on its way when the browser got another.
`emptied`: it had data when it was loaded and has none now. `due`: with rolling, use alone renews it now.

| live | ended | late | empty | emptied | rotate | changed | due | action  | cookie | because                          |
|------|-------|------|-------|---------|--------|---------|-----|---------|--------|---------------------------------|
| no   | no    |      | yes   |         |        |         |     | nothing | leave  | bots get none, and a response to |
|      |       |      |       |         |        |         |     |         |        | a dead id must not clear a newer |
|      |       |      |       |         |        |         |     |         |        | cookie                           |
| no   | yes   |      | yes   |         |        |         |     | nothing | clear  | a logout                         |
| no   |       | yes  | no    |         | no     |         |     | drop    | leave  | a new session would push the     |
|      |       |      |       |         |        |         |     |         |        | rotated one out of the browser   |
| no   |       | yes  | no    |         | yes    |         |     | create  | set    | who asks for an id wants one     |
| no   |       | no   | no    |         |        |         |     | create  | set    | a new id, never one the browser  |
|      |       |      |       |         |        |         |     |         |        | brought                          |
| yes  |       |      | yes   | yes     |        |         |     | delete  | clear  | an empty session is never kept   |
| yes  |       |      |       | no      | yes    |         |     | rotate  | set    | whether it changed or not        |
| yes  |       |      |       | no      | no     | yes     |     | replace | moved  | a write renews                   |
| yes  |       |      |       | no      | no     | no      | yes | touch   | moved  |                                  |
| yes  |       |      |       | no      | no     | no      | no  | nothing | leave  |                                  |

A blank means: whatever it is. `moved`: set the cookie if what it says, or how long it lasts, is no longer what the
browser has. `Vary: Cookie` follows access and is no part of this.
"""

from enum import Enum, auto
from typing import NamedTuple


class Action(Enum):
    """What happens to the stored session."""

    NOTHING = auto()
    DROP = auto()
    CREATE = auto()
    DELETE = auto()
    ROTATE = auto()
    REPLACE = auto()
    TOUCH = auto()


class Cookie(Enum):
    """What the browser is told."""

    LEAVE = auto()
    SET = auto()
    CLEAR = auto()
    MOVED = auto()


class Decision(NamedTuple):
    """What to do: a value, so that it can be tested, logged and traced."""

    action: Action
    cookie: Cookie


LEAVE = Decision(Action.NOTHING, Cookie.LEAVE)
CLEAR = Decision(Action.NOTHING, Cookie.CLEAR)
DROP = Decision(Action.DROP, Cookie.LEAVE)
CREATE = Decision(Action.CREATE, Cookie.SET)
DELETE = Decision(Action.DELETE, Cookie.CLEAR)
ROTATE = Decision(Action.ROTATE, Cookie.SET)
REPLACE = Decision(Action.REPLACE, Cookie.MOVED)
TOUCH = Decision(Action.TOUCH, Cookie.MOVED)


def decide_new(ended: bool, late: bool, empty: bool, rotate: bool) -> Decision:
    """The rows of requests whose cookie stands for nothing that lives."""
    if empty:
        return CLEAR if ended else LEAVE
    return DROP if late and not rotate else CREATE


def decide_live(emptied: bool, rotate: bool, changed: bool, due: bool) -> Decision:
    """The rows of sessions that live."""
    if emptied:
        return DELETE
    if rotate:
        return ROTATE
    if changed:
        return REPLACE
    return TOUCH if due else LEAVE
