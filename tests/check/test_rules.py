"""The numbers, the texts, and what is read from a command line."""

import re
import secrets

import msgspec

from starsessions.check import CHECKS, Finding, Severity
from starsessions.check.facts import Facts, Layer, SessionFact, StoreFact
from starsessions.check.findings import without
from starsessions.check.rules import judge
from starsessions.check.workers import workers_in
from starsessions.core.cookies import CookieSpec
from starsessions.core.record import Policy
from starsessions.sealing.strength import fact_of, is_published
from starsessions.stores.survey import Survey
from tests.docs.pages import DOCS, README, blocks, pages
from tests.rows import rows


@rows(
    "command, environ, workers",
    [
        ("uvicorn shop:app", {}, 1),
        ("", {}, 1),
        ("uvicorn --workers 4 shop:app", {}, 4),
        ("uvicorn --workers=4 shop:app", {}, 4),
        ("gunicorn -w 4 shop:app", {}, 4),
        ("gunicorn -w4 shop:app", {}, 4),
        ("hypercorn -w=2 shop:app", {}, 2),
        ("fastapi run --workers 2 shop.py", {}, 2),
        ("uvicorn --workers many", {}, 1),
        ("uvicorn --workers", {}, 1),
        ("uvicorn --workers 0", {}, 1),
        ("uvicorn -wx --workers4", {}, 1),
        ("uvicorn shop:app", {"WEB_CONCURRENCY": "3"}, 3),
        ("uvicorn shop:app", {"WEB_CONCURRENCY": ""}, 1),
        ("uvicorn --workers 1 shop:app", {"WEB_CONCURRENCY": "3"}, 1),
        ("gunicorn shop:app", {"GUNICORN_CMD_ARGS": "--bind=0.0.0.0 --workers=5"}, 5),
        ("uvicorn shop:app", {"UVICORN_WORKERS": "2"}, 2),
        ("granian shop:app", {"GRANIAN_WORKERS": "2"}, 2),
    ],
)
def test_the_number_of_workers_is_read_as_servers_read_it(command: str, environ: dict[str, str], workers: int) -> None:
    assert workers_in(command.split(), environ) == workers


@rows(
    "key",
    [
        "secret",
        "SECRET",
        "changeme",
        "change-me-in-production",
        "your-secret-key",
        "django-insecure-4%f+x)y2k!9@7_pq8^m3",
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
        "43n080musdfjt54t-09sdgr",
        "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
        '_5#y2L"F4Q8z\n\xec]/',
        "super-secret-key",
        "a key of 32 random bytes or more",
    ],
)
def test_a_key_from_a_documentation_is_known(key: str) -> None:
    assert is_published(key.encode())


def test_a_random_key_is_not_known_and_not_weak() -> None:
    for make in (secrets.token_urlsafe, secrets.token_hex):
        facts = [fact_of("secret_key", make(32).encode()) for _ in range(1000)]
        assert not [fact for fact in facts if fact.is_public or fact.is_weak]
        assert len({fact.mark for fact in facts}) == 1000
    assert not is_published(secrets.token_bytes(32))


def test_every_key_in_the_documents_is_known() -> None:
    passed = re.compile(r'(?:secret_key|encrypt_with|accept_signed|Backend)[=(]\[?"([^":/]+)"')
    code = "".join(block.code for document in [README, *pages()] for block in blocks(document))
    keys = set(passed.findall(code))
    assert len(keys) > 5
    assert [key for key in keys if not is_published(key.encode())] == []


def test_findings_are_sorted_and_said_once() -> None:
    said = ("", "one")
    found = without([*judge(Facts(said=[said, said], is_debug=True))], ["S002"])
    assert [one.number for one in found] == ["S003", "S005"]


@rows("number", CHECKS)
def test_each_check_has_a_sentence_and_a_cure(number: str) -> None:
    check = CHECKS[number]
    assert re.fullmatch(r"S[0-5][0-9]{2}", number)
    assert check.cure.endswith(".")
    assert check.sentence.endswith((".", "}"))


def test_each_check_is_seen_to_find_something() -> None:
    tests = "".join(path.read_text("utf-8") for path in (DOCS.parent / "tests" / "check").glob("test_*.py"))
    assert set(re.findall(r'"(S[0-9]{3})"', tests)) >= set(CHECKS)


def test_the_page_of_the_checks_has_a_section_for_each() -> None:
    text = (DOCS / "reference" / "checks.md").read_text("utf-8")
    sections = re.findall(r"^### (S[0-9]{3})\n\n\*\*(\w+)\.\*\* (.+)\n", text, re.MULTILINE)
    assert [(number, Severity[severity.upper()]) for number, severity, _ in sections] == [
        (number, check.severity) for number, check in CHECKS.items()
    ]


def test_a_finding_can_be_printed_as_json() -> None:
    one = Finding("S201", Severity.ERROR, "a sentence", "a cure", "session")
    assert msgspec.json.decode(msgspec.json.encode(one), type=Finding) == one


def session_with(*stores: int, name: str = "session") -> SessionFact:
    cookie = CookieSpec("__Host-" + name, https_only=True)
    return SessionFact(
        layer=len(name),
        cookie=cookie,
        scope_key=name,
        place=stores,
        backend=stores[0],
        policy=Policy(absolute_timeout=1),
        max_sessions=1,
        keys=[],
        stores=stores,
        keeps_unencrypted=False,
        clock=None,
    )


def test_a_finding_names_the_cookie_of_its_store() -> None:
    sessions = [session_with(1, name="shop"), session_with(2, name="admin"), session_with(3, name="hidden")]
    layers = [Layer(each.layer, "session", frozenset()) for each in sessions]
    survey = Survey(changes_session=True)
    stores = [StoreFact(1, False), StoreFact(2, False, survey=survey), StoreFact(3, False)]
    found = [*judge(Facts(sessions=sessions, layers=layers, stores=stores))]
    assert [(one.number, one.where) for one in found] == [("S406", "__Host-admin")]


@rows("ahead, found", [(30, []), (-30, []), (30.5, ["S405"]), (-30.5, ["S405"])])
def test_clocks_may_differ_by_half_a_minute(ahead: float, found: list[str]) -> None:
    session = session_with(1)
    facts = Facts([session], [Layer(session.layer, "session", frozenset())], stores=[StoreFact(1, False, None, ahead)])
    assert [one.number for one in judge(facts)] == found
