"""The tables in the documents are those of the code."""

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from sqlalchemy import MetaData

import starsessions
from starsessions import (
    CookieBackend,
    EncryptedCookieBackend,
    InMemoryBackend,
    MissReason,
    Session,
    SessionMiddleware,
    exceptions,
)
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend, session_table
from starsessions.core.durations import Duration
from starsessions.core.state import Phase
from starsessions.events import Event
from starsessions.fastapi import SessionCookie
from starsessions.testing.conformance.store_rules import STORE
from tests.docs.pages import DOCS, README, ROOT, public_modules, rows

pytestmark = pytest.mark.once

SOURCE = ROOT / "src" / "starsessions"
REFERENCE = DOCS / "reference"
ARCHITECTURE = DOCS / "explanation" / "architecture.md"
SIZES = DOCS / "guides" / "production" / "sizes.md"
MEASURED = "| store | payload | new | after three changes | left by a rotation |"
ON_THE_WAY = "| store | payload | does not use it | reads | begins one | changes | rotates | logs out |"
PER_MILLION = "| store | payload | round trips per second, per million sessions | traffic, per million sessions |"


def test_the_settings_are_those_of_the_middleware() -> None:
    told = [
        (name.strip("`"), ast.literal_eval(default.strip("`")))
        for name, default, _, _ in rows(REFERENCE / "middleware.md", "| keyword | default | example | what it does |")
    ]
    parameters = list(inspect.signature(SessionMiddleware).parameters.values())[1:]
    assert sorted(told, key=str) == sorted(((each.name, each.default) for each in parameters), key=str)


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (CookieBackend, {"all", "cookies", "signed"}),
        (EncryptedCookieBackend, {"all", "cookies", "encrypted"}),
        (InMemoryBackend, {"all"}),
    ],
)
def test_the_options_of_cookies_and_memory_are_their_signature(backend: type, words: set[str]) -> None:
    told = options("secret_key", words)
    assert told.pop("clock") == "the wall clock"
    told.pop("secret_key", None)
    defaults = {name: repr(parameter.default) for name, parameter in inspect.signature(backend).parameters.items()}
    assert told == {name: defaults[name] for name in defaults if name not in ("secret_key", "clock")}


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (RedisBackend, {"all", "Redis"}),
        (SQLAlchemyBackend, {"all", "SQL"}),
        (StoreBackend, {"all", "a store"}),
    ],
)
def test_the_options_of_stores_are_their_signature(backend: type, words: set[str]) -> None:
    told = options("prefix", words)
    assert told.pop("clock") == "the wall clock"
    defaults = {name: parameter.default for name, parameter in inspect.signature(backend).parameters.items()}
    ignored = ("client_or_url", "engine_or_url", "store", "clock")
    assert {name: ast.literal_eval(default) for name, default in told.items()} == {
        name: defaults[name] for name in defaults if name not in ignored
    }


def options(first: str, words: set[str]) -> dict[str, str]:
    """Return the options of a table of backends, by the one that comes first."""
    lines = (
        (REFERENCE / "backends.md").read_text(encoding="utf-8").split("| keyword | default | for | what it does |\n")
    )
    [table] = [part for part in lines[1:] if part.splitlines()[1].startswith(f"| `{first}`")]
    told = {}
    for line in table.splitlines()[1:]:
        if not line.startswith("|"):
            break
        name, default, which = [cell.strip() for cell in line.strip("|").split("|")][:3]
        if words & set(which.split(", ")):
            told[name.strip("`")] = default.strip("`")
    return told


def test_the_keywords_of_the_session_cookie_are_its_signature() -> None:
    told = [
        (name.strip("`"), ast.literal_eval(default.strip("`")))
        for name, default, _ in rows(REFERENCE / "fastapi.md", "| keyword of `SessionCookie` | default | what it is |")
    ]
    parameters = inspect.signature(SessionCookie).parameters.values()
    assert told == [(parameter.name, parameter.default) for parameter in parameters]


def test_the_page_of_the_table_has_its_columns() -> None:
    page = DOCS / "guides" / "production" / "alembic.md"
    told = [name.strip("`") for name, _, _ in rows(page, "| column | type | |")]
    assert told == session_table(MetaData()).columns.keys()


def test_the_page_of_the_session_names_its_attributes() -> None:
    cells = "".join(row[0] for row in rows(REFERENCE / "session.md", "| attribute | what it is |"))
    told = re.findall(r"`(?:await )?(\w+)", cells)
    mine = {name for name in vars(Session) if not name.startswith("_")} | {"accessed", "modified"}
    assert set(told) - set(vars(dict)) == mine - set(vars(dict))


def test_the_page_for_those_who_come_from_starlette_names_the_attributes_that_hide_a_key() -> None:
    [told] = [
        re.findall(r"`(\w+)`", row[2])
        for row in rows(DOCS / "guides" / "migrate" / "from-starlette.md", "| | Starlette | starsessions |")
        if row[0].startswith("attributes of")
    ]
    of_starlette = {"accessed", "modified", "mark_accessed", "mark_modified"}
    public = {name for name in dir(Session) if not name.startswith("_")}
    assert told == sorted(public - set(dir(dict)) - of_starlette)


def test_everything_that_is_public_is_named_in_the_reference() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    words = set(re.findall(r"\w+", text))
    assert [name for name in starsessions.__all__ if name not in words] == []
    session = (REFERENCE / "session.md").read_text(encoding="utf-8")
    assert [reason for reason in MissReason if f'`"{reason}"`' not in session] == []


def test_troubleshooting_has_a_line_for_each_reason_and_each_error() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert [reason for reason in MissReason if f'`"{reason}"`' not in text] == []
    errors = [name for name, value in vars(exceptions).items() if isinstance(value, type) and name != "SessionError"]
    assert [name for name in errors if name not in text] == []


def test_the_errors_are_those_of_the_package() -> None:
    told = {row[0].split("`")[1] for row in rows(REFERENCE / "errors.md", "| error | when |")}
    errors = {name for name, value in vars(exceptions).items() if isinstance(value, type)}
    assert told == errors | {"starsessions.csrf.CsrfFailed"}


def test_the_events_are_those_of_the_package_with_their_fields() -> None:
    told = [
        (event.strip("`"), names.replace("`", "").split(", "))
        for event, names, _ in rows(REFERENCE / "events.md", "| event | fields | when |")
    ]
    assert told == [(kind.__name__, list(kind.__struct_fields__)) for kind in Event.__subclasses__()]


def test_the_capabilities_are_those_of_the_contract() -> None:
    page = DOCS / "guides" / "extend" / "test-a-store.md"
    told = [name.strip("`") for name, _ in rows(page, "| capability | what it means |")]
    assert told == list(STORE.capabilities)


def test_the_public_modules_exist() -> None:
    names = public_modules()
    assert names == PUBLIC_NAMES.keys()
    assert [name for name in sorted(names) if not hasattr(importlib.import_module(name), "__all__")] == []


# How many names each public module has. Each is a promise: add one only if an application cannot do without it.
PUBLIC_NAMES = {
    "starsessions": 25,
    "starsessions.backends.redis": 1,
    "starsessions.backends.sqlalchemy": 2,
    "starsessions.backends.urls": 1,
    "starsessions.check": 5,
    "starsessions.csrf": 7,
    "starsessions.events": 17,
    "starsessions.fastapi": 11,
    "starsessions.flash": 5,
    "starsessions.health": 2,
    "starsessions.history": 5,
    "starsessions.inventory": 5,
    "starsessions.oidc": 2,
    "starsessions.opentelemetry": 2,
    "starsessions.pages": 4,
    "starsessions.personal": 7,
    "starsessions.stores": 26,
    "starsessions.testing": 18,
    "starsessions.timeouts": 4,
    "starsessions.typed": 1,
    "starsessions.users": 10,
    "starsessions.watch": 5,
}


def test_no_public_name_is_added_unnoticed() -> None:
    assert {module: len(importlib.import_module(module).__all__) for module in PUBLIC_NAMES} == PUBLIC_NAMES


A_DURATION = re.compile(r"(.*_)?(age|delay|grace|lifetime|pause|period|timeout|ttl|window|within)|.+_(after|every|for)")
FRACTIONS = {"timeout": "the time limit of a store, which may be a fraction of a second"}


def public_parameters() -> Iterator[tuple[str, str, Any]]:
    """Yield the parameters of all public callables: the function, the name, and the type without None."""
    for module in PUBLIC_NAMES:
        for name in importlib.import_module(module).__all__:
            value = getattr(importlib.import_module(module), name)
            methods = inspect.getmembers(value, inspect.isroutine) if isinstance(value, type) else []
            public = [(f"{name}.{method}", each) for method, each in methods if not method.startswith("_")]
            for told, each in [(name, value), *public]:
                if not callable(each) or getattr(each, "__module__", None) == "builtins":
                    continue
                with suppress(ValueError):  # a method of dict, or an alias of a type
                    for parameter in inspect.signature(each).parameters.values():
                        yield f"{module}.{told}", parameter.name, without_none(parameter.annotation)


def without_none(annotation: Any) -> Any:
    if isinstance(annotation, str):  # of the middleware, whose annotations are not evaluated
        return Duration if annotation.removesuffix(" | None") == "Duration" else annotation
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    parts = [part for part in get_args(kind) if part is not NoneType]
    return Union[tuple(parts)] if get_origin(kind) in (Union, UnionType) else kind  # noqa: UP007


def test_every_public_duration_is_an_int_or_a_timedelta() -> None:
    found = list(public_parameters())
    durations = [each for each in found if A_DURATION.fullmatch(each[1])]
    assert {name for _, name, _ in durations} >= {"max_age", "renew_every", "grace", "keep_for", "timeout", "within"}
    assert [each for each in durations if each[2] != (float | timedelta if each[1] in FRACTIONS else Duration)] == []
    assert {name for _, name, _ in found} >= set(FRACTIONS)


def test_every_public_parameter_that_is_a_duration_is_named_like_one() -> None:
    assert [each for each in public_parameters() if each[2] == Duration and not A_DURATION.fullmatch(each[1])] == []


def test_no_keyword_of_the_middleware_is_added_unnoticed() -> None:
    _, app, *keywords = inspect.signature(SessionMiddleware.__init__).parameters
    why = rows(DOCS / "explanation" / "architecture.md", "| keyword | why the middleware has it |")
    assert (app, len(keywords)) == ("app", 19 + len(why))
    assert {row[0].strip("`") for row in why} < set(keywords)


def test_readme_and_changelog_are_about_this_version() -> None:
    assert starsessions.__version__ in README.read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE) == [starsessions.__version__]


# The architecture


def test_the_architecture_names_every_module() -> None:
    modules = {file.relative_to(SOURCE).as_posix() for file in SOURCE.rglob("*.py") if file.name != "__init__.py"}
    told = {module.strip("`") for module, _ in rows(ARCHITECTURE, "| module | what happens there |")}
    assert told == modules


def test_the_architecture_names_every_phase_of_a_response() -> None:
    told = [phase.strip("`") for phase, _ in rows(ARCHITECTURE, "| phase | what holds |")]
    assert told == [phase.name for phase in Phase]


def test_the_architecture_shows_the_layers_that_are_checked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [layers] = [contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers"]
    assert " → ".join(layers) in " ".join(ARCHITECTURE.read_text(encoding="utf-8").split())


# Sizes


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


# The standards


ASVS_7 = {1: 3, 2: 4, 3: 2, 4: 5, 5: 3, 6: 2}
"""How many requirements each section of ASVS 5.0, V7 has."""


def test_each_requirement_has_a_row_that_says_whether_it_is_met() -> None:
    standards = DOCS / "explanation" / "standards.md"
    told = [line.strip("|").split("|") for line in standards.read_text(encoding="utf-8").splitlines()]
    table = [(first.strip(), rest[1].strip()) for first, *rest in told if re.match(r" \d", first) and len(rest) == 4]
    ids = [name for name, _ in table]
    chapters = [f"7.{section}.{number + 1}" for section, count in ASVS_7.items() for number in range(count)]
    assert [name for name in ids if name.startswith(("7.", "3.3."))] == [*chapters, *(f"3.3.{n}" for n in range(1, 6))]
    nist = {name for name in ids if name.startswith("5.")}
    assert nist == {
        *("5.1", "5.1.2", "5.2", "5.3"),
        *(f"5.1({number})" for number in range(1, 7)),
        *(f"5.1.1({number})" for number in range(1, 8)),
    }
    assert {met for _, met in table} == {name for name, _ in rows(standards, "| met | means |")}
