"""The documents say what is true: their examples run, what they name exists, and their tables are those of the code."""

import ast
import asyncio
import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from itsdangerous import TimestampSigner
from sqlalchemy import MetaData
from starlette.requests import Request
from starlette.testclient import TestClient

import starsessions
from starsessions import (
    BackendUnavailable,
    CookieBackend,
    EncryptedCookieBackend,
    InMemoryBackend,
    MissReason,
    Session,
    SessionMiddleware,
)
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend, session_table
from starsessions.core.state import Phase
from starsessions.events import Event
from starsessions.testing import Clock
from starsessions.testing.conformance.store_rules import STORE
from tests.site import KEY

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
STORES_PAGE = ROOT / "docs" / "stores.md"
WRITING_A_STORE = ROOT / "docs" / "writing-a-store.md"
CAPABILITIES = "| capability | what somebody can who has it |"
SIZES = ROOT / "docs" / "sizes.md"
MEASURED = "| store | payload | new | after three changes | left by a rotation |"
ON_THE_WAY = "| store | payload | does not use it | reads | begins one | changes | rotates | logs out |"
PER_MILLION = "| store | payload | round trips per second, per million sessions | traffic, per million sessions |"
SOURCE = ROOT / "src" / "starsessions"
CONTINUES = "<!-- continues -->"

REGISTRIES = re.compile(r"https?://[^\s)>\]]*(pypi|pythonhosted|anaconda|npmjs)", re.IGNORECASE)


def documents() -> list[Path]:
    """Every *.md of the checkout, but for what tools keep in hidden directories."""
    found = list(ROOT.glob("*.md"))
    for directory in ROOT.iterdir():
        if directory.is_dir() and not directory.name.startswith("."):
            found += directory.rglob("*.md")
    return sorted(found)


@dataclass(frozen=True)
class Block:
    """A fenced block: where its first line stands, under which heading, and whether it goes on where another ended."""

    document: Path
    line: int
    heading: str
    language: str
    continues: bool
    code: str

    def run(self, namespace: dict[str, Any]) -> None:
        # As many empty lines in front as there are in the document, so that a traceback shows the document's lines.
        source = "\n" * (self.line - 1) + self.code
        exec(compile(source, str(self.document), "exec", dont_inherit=True), namespace)


def blocks(document: Path) -> Iterator[Block]:
    lines = document.read_text(encoding="utf-8").splitlines()
    heading, index = "", 0
    while index < len(lines):
        line = lines[index]
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if line.startswith("```"):
            end = lines.index("```", index + 1)
            code = "\n".join(lines[index + 1 : end]) + "\n"
            yield Block(document, index + 2, heading, line[3:], index > 0 and lines[index - 1] == CONTINUES, code)
            index = end
        index += 1


def stories(document: Path) -> list[list[Block]]:
    """The Python blocks, those that continue others together with them."""
    told: list[list[Block]] = []
    for block in blocks(document):
        if block.language == "python":
            if block.continues:
                told[-1].append(block)
            else:
                told.append([block])
    return told


def tell(story: list[Block]) -> dict[str, Any]:
    """Run the blocks of a story one after the other; what they have defined."""
    namespace: dict[str, Any] = {"__name__": "document"}
    for block in story:
        block.run(namespace)
    return namespace


STORIES = [story for document in [README, *sorted((ROOT / "docs").glob("*.md"))] for story in stories(document)]


def under(heading: str, document: Path = README) -> list[list[Block]]:
    """The stories that a document, the README if none is named, tells under a heading."""
    return [story for story in STORIES if story[0].document == document and story[0].heading == heading]


# The examples


@pytest.mark.parametrize("story", STORIES, ids=lambda story: f"{story[0].document.name}:{story[0].line}")
def test_the_example_runs(story: list[Block], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some make a file
    tell(story)


@pytest.mark.parametrize("framework", ["Starlette", "FastAPI"])
def test_the_thirty_second_application_counts_visits(framework: str) -> None:
    [app] = [
        namespace["app"]
        for namespace in map(tell, under("Thirty seconds to a working session"))
        if type(namespace["app"]).__name__ == framework
    ]
    browser, stranger = TestClient(app), TestClient(app)
    assert "1" in browser.get("/").text
    assert "2" in browser.get("/").text
    assert "1" in stranger.get("/").text


def test_the_methods_of_the_session_do_what_the_readme_shows() -> None:
    [story] = under("The session")
    browser = TestClient(tell(story)["app"], follow_redirects=False)
    assert browser.post("/cart?item=tea").json() == ["tea"]
    before = browser.cookies["session"]
    assert "Max-Age=1209600" in browser.post("/sign-in?user=ann").headers["set-cookie"]
    assert browser.cookies["session"] != before
    assert "Max-Age=2592000" in browser.post("/sign-in?user=ann&remember=1").headers["set-cookie"]
    assert browser.post("/cart?item=milk").json() == ["tea", "milk"]
    copied = browser.cookies["session"]
    browser.post("/sign-out")
    assert "session" not in browser.cookies
    for dead in (before, copied):
        browser.cookies["session"] = dead
        assert browser.post("/cart?item=tea").json() == ["tea"]
        browser.cookies.clear()


def test_the_backend_of_the_readme_keeps_a_session() -> None:
    [story] = under("Writing a backend")
    namespace = tell(story)
    browser, stranger = TestClient(namespace["app"]), TestClient(namespace["app"])
    assert [browser.get("/").text for _ in range(3)] == ["Visit 1\n", "Visit 2\n", "Visit 3\n"]
    assert stranger.get("/").text == "Visit 1\n"
    assert len(browser.cookies["session"]) == 43


def test_the_backend_of_the_readme_has_twenty_lines() -> None:
    [[backend, _]] = under("Writing a backend")
    [written] = [node for node in ast.parse(backend.code).body if isinstance(node, ast.ClassDef)]
    lines = backend.code.splitlines()[written.lineno - 1 : written.end_lineno]
    assert len(list(filter(None, lines))) <= 20


def test_a_cookie_of_2_x_is_read_as_the_readme_says() -> None:
    # base64 of {"user": "ann", "__metadata__": {"lifetime": 0, "created": 1, "last_access": 2}}, as JsonSerializer and
    # CookieStore of 2.2.1 wrote it.
    data = b"eyJ1c2VyIjoiYW5uIiwiX19tZXRhZGF0YV9fIjp7ImxpZmV0aW1lIjowLCJjcmVhdGVkIjoxLCJsYXN0X2FjY2VzcyI6Mn19"
    session = asyncio.run(CookieBackend(KEY).read(TimestampSigner(KEY).sign(data).decode()))
    assert session.pop("__metadata__")
    assert session == {"user": "ann"}


# docs/stores.md


def told_in(document: Path, heading: str) -> list[dict[str, Any]]:
    return [tell(story) for story in under(heading, document)]


def test_a_handler_of_the_error_answers_when_the_store_fails() -> None:
    [namespace] = told_in(STORES_PAGE, "When the store fails")
    app = namespace["app"]

    async def fail(request: Request) -> None:
        raise BackendUnavailable("The store failed.")

    app.add_route("/", fail)
    answer = TestClient(app).get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")


def test_the_rotations_of_the_page_do_what_it_says() -> None:
    [namespace] = told_in(STORES_PAGE, "Rotation")
    app, reports = namespace["app"], namespace["reports"]
    clock = app.user_middleware[0].kwargs["clock"] = Clock()
    browser, old = TestClient(app), TestClient(app)
    browser.get("/sign-in?user=ann")
    old.cookies["session"] = browser.cookies["session"]

    browser.get("/refresh")
    assert browser.cookies["session"] != old.cookies["session"]
    assert old.get("/").json() == {"user": "ann", "miss_reason": None}
    clock.advance(30)
    assert old.get("/").json() == {"user": None, "miss_reason": "rotated away"}
    [handle] = reports
    assert len(handle) == 16

    old.cookies["session"] = browser.cookies["session"]
    browser.get("/sign-in?user=ann")
    assert old.get("/").json() == {"user": None, "miss_reason": "rotated a moment ago"}
    assert reports == [handle]

    before = browser.cookies["session"]
    clock.advance(3600)
    assert browser.get("/").json() == {"user": "ann", "miss_reason": None}
    assert browser.cookies["session"] != before


def test_the_function_of_the_page_adds_up_and_merges_the_rest() -> None:
    namespace = told_in(STORES_PAGE, "Two requests at once")[0]
    base = {"points": 10, "a": 1, "b": 1}
    theirs = {"points": 15, "a": 2, "theirs": 1}
    ours = {"points": 12, "a": 1, "b": 1, "ours": 1}
    assert namespace["add_up"](base, theirs, ours)["points"] == 17


def test_the_atomic_update_of_the_page_counts_down() -> None:
    namespace = told_in(STORES_PAGE, "Two requests at once")[1]
    browser = TestClient(namespace["app"])
    assert [browser.post("/spend").json() for _ in range(3)] == [2, 1, 0]


# docs/sizes.md


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[\d.]+", cell)]


def test_the_gibibytes_are_those_of_the_measured_sizes() -> None:
    one = {(store, size): int(bytes_) for store, size, _, bytes_, _ in rows(SIZES, MEASURED)}
    for store, size, *told in rows(SIZES, "| store | payload | 1 million | 10 million | 100 million |"):
        worked_out = [count * one[store, size] / 2**30 for count in (10**6, 10**7, 10**8)]
        assert [float(cell) for cell in told] == pytest.approx(worked_out, rel=0.05), (store, size)


def test_the_traffic_of_the_example_is_that_of_the_measured_requests() -> None:
    measured = {(row[0], row[1]): row for row in rows(SIZES, ON_THE_WAY)}
    names = [cell.strip() for cell in ON_THE_WAY.strip("|").split("|")]
    for store, size, trips, traffic in rows(SIZES, PER_MILLION):
        row = dict(zip(names, measured[store, size], strict=True))
        read, change = numbers(row["reads"]), numbers(row["changes"])
        a_day = [18 * reading + 2 * changing for reading, changing in zip(read, change, strict=True)]
        assert float(trips) == pytest.approx(a_day[0] * 10**6 / 86400, rel=0.05)
        assert numbers(traffic) == pytest.approx([(a_day[1] + a_day[2]) * 8 / 86400], rel=0.05)


def test_the_costs_of_the_example_follow_from_the_sizes() -> None:
    one = {(store, size): int(bytes_) for store, size, _, bytes_, _ in rows(SIZES, MEASURED)}
    of_a_gib = {"redis": 3 * 5, "postgres": 2.6 * 0.10 + 2.6 / 10 * 5}
    for store, size, *told in rows(SIZES, "| example | payload | 1 million | 10 million | 100 million |"):
        worked_out = [of_a_gib[store] * count * one[store, size] / 2**30 for count in (10**6, 10**7, 10**8)]
        assert [float(cell) for cell in told] == pytest.approx(worked_out, rel=0.05), (store, size)


# docs/writing-a-store.md

[STORE_STORY] = under("A whole one", WRITING_A_STORE)
_written = tell(STORE_STORY)


class TestTheStoreOfThePage(_written["TestDictStore"]):  # type: ignore[misc]
    """The suite that the page shows, with the store that it shows."""


class TestTheBackendOfThePage(_written["TestDictBackend"]):  # type: ignore[misc]
    """The same for the backend."""


def test_the_page_names_the_capabilities_that_there_are() -> None:
    told = {
        name.strip("`"): what for name, what in rows(WRITING_A_STORE, "| capability | what somebody can who has it |")
    }
    assert told == STORE.capabilities


# The tests that are named


def named_tests(text: str) -> list[tuple[str, str]]:
    """`(file, test)` for each test that stands in backticks behind a file of tests; its file is the last one."""
    pairs, file = [], ""
    for token in re.findall(r"`([^`\s]+)`", text):
        if re.fullmatch(r"tests/\S+\.py", token):
            file = token
        elif token.startswith("test_") and file:
            pairs.append((file, token))
    return pairs


def functions(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("document", documents(), ids=lambda document: str(document.relative_to(ROOT)))
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for file in re.findall(r"`(tests/[^`\s]+\.py)`", text):
        assert (ROOT / file).is_file(), file
    missing = [f"{file}: {name}" for file, name in named_tests(text) if name not in functions(ROOT / file)]
    assert missing == []


def test_each_guarantee_names_a_test() -> None:
    [guarantees] = re.findall(r"^## Guarantees$(.*?)^## ", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    parts = re.split(r"^\*\*(\d+)\. ", guarantees, flags=re.MULTILINE)[1:]
    assert parts[::2] == [str(number) for number in range(1, 21)]
    for number, text in zip(parts[::2], parts[1::2], strict=True):
        assert named_tests(text), number


# Links


@pytest.mark.parametrize("document", documents(), ids=lambda document: str(document.relative_to(ROOT)))
def test_every_link_leads_somewhere_and_none_to_a_registry(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert REGISTRIES.search(text) is None
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(document: Path) -> set[str]:
    """What the headings of a document are called in links to them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_no_command_installs_a_package_that_is_not_this_one() -> None:
    for document in documents():
        for block in blocks(document):
            for command in re.findall(r"pip install.*", block.code):
                assert re.search(r"install\b[^#]*[ '\"]starsessions", command) is None, command


# Tables


def rows(document: Path, first: str) -> list[list[str]]:
    """The body of the table whose first column is called so."""
    lines = document.read_text(encoding="utf-8").splitlines()
    [start] = [index for index, line in enumerate(lines) if line == first]
    body = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in line.strip("|").split("|")])
    return body


def test_the_table_of_settings_is_the_signature() -> None:
    told = [
        (name.strip("`"), ast.literal_eval(default.strip("`")))
        for name, default, _ in rows(README, "| keyword | default | what it does |")
    ]
    parameters = list(inspect.signature(SessionMiddleware).parameters.values())[1:]
    assert told == [(parameter.name, parameter.default) for parameter in parameters]


def test_the_table_of_settings_says_which_are_keyword_only() -> None:
    parameters = list(inspect.signature(SessionMiddleware).parameters.values())
    [first, *_] = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    assert f"`{first}` and those below\nit can be given by keyword only" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (CookieBackend, {"all", "cookies"}),
        (EncryptedCookieBackend, {"all", "cookies", "encrypted"}),
        (InMemoryBackend, {"all"}),
    ],
)
def test_the_table_of_the_backends_settings_is_their_signature(backend: type, words: set[str]) -> None:
    told = {
        name.strip("`"): default.strip("`")
        for name, default, which, _ in rows(README, "| keyword | default | for | what it does |")
        if which in words
    }
    assert told.pop("clock") == "the wall clock"
    defaults = {name: repr(parameter.default) for name, parameter in inspect.signature(backend).parameters.items()}
    assert told == {name: defaults[name] for name in defaults if name not in ("secret_key", "max_age", "clock")}


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (InMemoryBackend, {"all"}),
        (RedisBackend, {"all", "Redis"}),
        (SQLAlchemyBackend, {"all", "SQL"}),
        (StoreBackend, {"all", "a store of yours"}),
    ],
)
def test_the_table_of_the_stores_settings_is_their_signature(backend: type, words: set[str]) -> None:
    told = {
        name.strip("`"): default.strip("`")
        for name, default, which, _ in rows(STORES_PAGE, "| keyword | default | for | what it does |")
        if words & set(which.split(", "))
    }
    assert told.pop("clock") == "the wall clock"
    parameters = inspect.signature(backend).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    assert {name: ast.literal_eval(default) for name, default in told.items()} == {
        name: defaults[name] for name in defaults if name not in ("client_or_url", "engine_or_url", "store", "clock")
    }


def test_the_page_of_the_table_has_its_columns() -> None:
    told = [name.strip("`") for name, _, _ in rows(STORES_PAGE, "| column | type | |")]
    assert told == session_table(MetaData()).columns.keys()


def test_the_readme_names_what_a_session_can_do() -> None:
    told = re.findall(r"`(?:await )?(\w+)", "".join(row[0] for row in rows(README, "| | |")))
    of_starlette = {"modified", "mark_accessed", "mark_modified"}
    mine = {name for name in vars(Session) if not name.startswith("_")} - of_starlette
    assert set(told) == mine | {"miss_reason"}


def test_the_readme_names_everything_that_is_public() -> None:
    text = README.read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", text))
    assert [name for name in starsessions.__all__ if name not in words] == []
    assert [reason for reason in MissReason if f'`"{reason}"`' not in text] == []


def test_the_readme_and_the_changelog_are_about_this_version() -> None:
    assert starsessions.__version__ in README.read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)[0] == starsessions.__version__


ARCHITECTURE = ROOT / "docs" / "architecture.md"


def test_the_architecture_names_every_room_and_every_module() -> None:
    modules = {str(file.relative_to(SOURCE)) for file in SOURCE.rglob("*.py") if file.name != "__init__.py"}
    assert {module.strip("`") for module, _ in rows(ARCHITECTURE, "| module | what happens there |")} == modules


def test_the_architecture_names_every_phase_of_a_response() -> None:
    told = [phase.strip("`") for phase, _ in rows(ARCHITECTURE, "| phase | what holds |")]
    assert told == [phase.name for phase in Phase]


def test_the_architecture_shows_the_layers_that_are_checked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [layers] = [contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers"]
    assert " → ".join(layers) in " ".join(ARCHITECTURE.read_text(encoding="utf-8").split())


REQUIREMENTS = ROOT / "docs" / "requirements.md"
ASVS_7 = {1: 3, 2: 4, 3: 2, 4: 5, 5: 3, 6: 2}
"""How many requirements each section of ASVS 5.0, V7 has."""


def requirements() -> list[tuple[str, list[str]]]:
    """Each id of the page, and the rest of its row."""
    told = [line.strip("|").split("|") for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    return [(first.strip(), [cell.strip() for cell in rest]) for first, *rest in told if re.match(r" \d\.\d", first)]


def test_each_requirement_has_a_row_that_says_whether_it_is_met() -> None:
    ids = [name for name, _ in requirements()]
    chapters = [f"7.{section}.{number + 1}" for section, count in ASVS_7.items() for number in range(count)]
    assert [name for name in ids if name.startswith(("7.", "3.3."))] == [*chapters, *(f"3.3.{n}" for n in range(1, 6))]
    nist = {name for name in ids if name.startswith("5.")}
    assert nist == {
        *("5.1", "5.1.2", "5.2", "5.3"),
        *(f"5.1({number})" for number in range(1, 7)),
        *(f"5.1.1({number})" for number in range(1, 8)),
    }
    known = [name for name, _ in rows(REQUIREMENTS, "| met | means |")]
    assert {row[1] for _, row in requirements()} == set(known)


def test_each_requirement_names_a_test_unless_it_is_the_applications_alone() -> None:
    untested = [(name, row[1]) for name, row in requirements() if not named_tests(row[4])]
    # What is to be written down, and a button that can be seen.
    assert untested == [("7.1.3", "yours"), ("7.4.4", "yours"), ("5.1", "yours")]


def test_the_page_of_events_names_each_event_with_its_fields() -> None:
    told = [
        (event.strip("`"), names.replace("`", "").split(", "))
        for event, names, _ in rows(ROOT / "docs" / "events.md", "| event | fields | when |")
    ]
    assert told == [(kind.__name__, list(kind.__struct_fields__)) for kind in get_args(Event)]
