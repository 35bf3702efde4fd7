"""A run that was kept is judged as it was, and shows what a reader needs who looks for a cause."""

from math import inf
from pathlib import Path

import pytest

from tests.histories.checker import Rules, Violation
from tests.histories.history import Answer, History, Operation, Quiet, Seen
from tests.histories.kept import Kept, keep, kept, touching

pytestmark = pytest.mark.once

ANN, BOB = Seen("b0-1", "ann", "ann", "h1"), Seen("b1-1", "bob", "bob", "h2")
DATA = {"color": None, "count": 0}
SIGNED_IN = Operation("sign_in", 0, 1, Answer(None, ANN, None, "t1"), "b0", "", "", "ann", number=1)
REFUSED = Operation("get", 4, 5, Answer(None, None, DATA), "b0", "t1", "b0-1", "bob", number=5)
OPERATIONS = [
    SIGNED_IN,
    Operation("revoke", 2, inf, None, "b1", user="bob", handle="h2", number=2),
    Operation("list", 2, 3, Answer(value=("h1",)), "b1", user="ann", number=3),
    Operation("revoke_everyone", 3, 3.5, Answer(), "b1", number=4),
    REFUSED,
    Operation("get", 4, 5, Answer(BOB, BOB, DATA), "b1", "t2", "b1-1", "bob", number=6),
]


def test_a_run_that_was_kept_is_judged_as_it_was_and_each_violation_has_a_page(tmp_path: Path) -> None:
    run = Kept(Rules(maximum=2, grace=2.0), History([SIGNED_IN, REFUSED], [Quiet(4, 6)], ["500 to sign_in"]))
    found = run.judge()
    assert [one.promise for one in found] == ["answers are as documented", "what was not ended lives"]
    keep(tmp_path / "new", "redis-1", run, found)
    again = kept(tmp_path / "new" / "redis-1.run")
    assert (again.rules, again.history.quiets) == (run.rules, run.history.quiets)
    assert again.judge() == found
    assert str(SIGNED_IN) in (tmp_path / "new" / "redis-1-2.txt").read_text()


def test_what_touched_a_session_its_user_or_all_users_is_shown() -> None:
    shown = touching(History(OPERATIONS), Violation("what was not ended lives", "t1", (SIGNED_IN, REFUSED)))
    assert [one.number for one in shown] == [1, 3, 4, 5]
