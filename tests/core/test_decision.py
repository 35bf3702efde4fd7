"""The decision table, read from the docstring of `core/decision.py`, so that code and table agree."""

from itertools import product
from typing import NamedTuple

from starsessions.core import decision
from starsessions.core.decision import Decision, decide_live, decide_new
from tests.rows import rows

FACTS = ("live", "ended", "stale", "empty", "emptied", "rotate", "sign_in", "changed", "due")

Facts = dict[str, bool]


class Row(NamedTuple):
    """One row of the table. A fact whose cell is blank is not among its conditions."""

    conditions: Facts
    decision: Decision

    def matches(self, facts: Facts) -> bool:
        return all(facts[fact] == wanted for fact, wanted in self.conditions.items())


def read_table() -> list[Row]:
    lines = (decision.__doc__ or "").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, _, *body = cells
    assert tuple(head) == (*FACTS, "outcome", "because")
    rows = []
    for *facts, outcome, _ in body:
        if not outcome:
            continue  # the row above continues its reason on this line
        assert set(facts) <= {"yes", "no", ""}
        conditions = {fact: cell == "yes" for fact, cell in zip(FACTS, facts, strict=True) if cell}
        rows.append(Row(conditions, Decision[outcome.upper()]))
    return rows


def decide(
    *,
    live: bool,
    ended: bool,
    stale: bool,
    empty: bool,
    emptied: bool,
    rotate: bool,
    sign_in: bool,
    changed: bool,
    due: bool,
) -> Decision:
    if live:
        return decide_live(emptied, rotate, changed, due, stale, sign_in)
    return decide_new(ended, stale, empty, rotate)


TABLE = read_table()
COMBINATIONS = [dict(zip(FACTS, values, strict=True)) for values in product((False, True), repeat=len(FACTS))]


def is_reachable(facts: Facts) -> bool:
    """Whether the facts can occur together: an `emptied` session is live and empty, and a sign-in asks for an id."""
    if facts["sign_in"] and not facts["rotate"]:
        return False
    return not facts["emptied"] or (facts["live"] and facts["empty"])


REACHABLE = list(filter(is_reachable, COMBINATIONS))


def spelled(facts: Facts) -> str:
    return "+".join(fact for fact, holds in facts.items() if holds) or "none"


def test_the_table_has_twelve_rows_and_they_differ() -> None:
    assert len(TABLE) == 12
    assert len({tuple(row.conditions.items()) for row in TABLE}) == 12


def test_the_table_has_every_outcome() -> None:
    assert {row.decision for row in TABLE} == set(Decision)


@rows("facts", REACHABLE, ids=spelled)
def test_exactly_one_row_matches_and_the_code_decides_as_it_says(facts: Facts) -> None:
    matching = [row for row in TABLE if row.matches(facts)]

    assert len(matching) == 1
    assert decide(**facts) == matching[0].decision


def test_only_impossible_combinations_match_no_row() -> None:
    uncovered = [facts for facts in COMBINATIONS if not any(row.matches(facts) for row in TABLE)]

    assert uncovered == [facts for facts in COMBINATIONS if facts["live"] and facts["emptied"] and not facts["empty"]]
    assert not any(map(is_reachable, uncovered))


def test_no_combination_matches_two_rows() -> None:
    assert not [facts for facts in COMBINATIONS if sum(row.matches(facts) for row in TABLE) > 1]


# Rules that outrank the table: an edit of a row that breaks one fails here.


@rows("facts", REACHABLE, ids=spelled)
def test_no_row_breaks_a_rule(facts: Facts) -> None:
    outcome = decide(**facts)
    sets_cookie = outcome in (Decision.CREATE, Decision.ROTATE)

    if not facts["live"] and not facts["ended"]:
        assert outcome is not Decision.CLEAR, "a response to a dead id must not clear a newer cookie"
    if facts["empty"] and not facts["live"]:
        assert outcome in (Decision.LEAVE, Decision.CLEAR), "an empty session is never stored: no cookie for bots"
    if not facts["live"]:
        overwrites = (Decision.REPLACE, Decision.ROTATE, Decision.DELETE)
        assert outcome not in overwrites, "a missing session cannot be overwritten"
    if facts["live"] and facts["emptied"]:
        assert outcome is Decision.DELETE, "an empty session is never kept"
    if facts["live"] and not (facts["stale"] and facts["sign_in"]):
        assert outcome is not Decision.CREATE, "two sessions for one browser"
    if facts["live"]:
        assert outcome is not Decision.CLEAR, "the cookie is removed, and the session lives on"
    if facts["live"] and (facts["changed"] or (facts["due"] and not facts["rotate"])):
        assert outcome is not Decision.LEAVE, "a change or a renewal is lost"
    if facts["live"] and facts["rotate"] and not facts["emptied"]:
        assert outcome is not Decision.REPLACE, "the old id keeps working"
        assert (outcome is Decision.ROTATE) is not facts["stale"], "an old id takes the session from the current one"
    if facts["sign_in"] and not facts["empty"]:
        assert sets_cookie, "a sign-in is dropped in silence"
    if facts["stale"] and not facts["live"] and not facts["rotate"]:
        assert not sets_cookie, "it would replace the rotated session in the browser"
    if spelled(facts) in ("empty", "live"):
        assert outcome is Decision.LEAVE, "no work without a change"
