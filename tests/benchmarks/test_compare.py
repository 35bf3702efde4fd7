"""The benchmark works, and says what it measured. No time is asserted: that would be another benchmark."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.cases import CASES, data_of
from benchmarks.compare import about, compare, write
from benchmarks.marks import judged
from benchmarks.report import draw, publish, tables
from benchmarks.worker import Work
from tests.rows import rows

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
CONTESTANTS = {"signed": ["ours", "Starlette"], "memory": ["ours"]}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One tiny round in this process, as if only its environment were there."""
    left_out: list[str] = []
    with closing(Work()) as here:
        found = compare(list(CONTESTANTS), {}, {"ours": here}, left_out, rounds=1, seconds=0.0001, quick=True)
    found |= {"rows": [], "end to end": [], "import": None, "memory": None, "left out": left_out, "about": about(0)}
    found["marks"] = list(judged(found))
    file = tmp_path_factory.mktemp("results") / "results.json"
    write(found, file)
    return json.loads(file.read_text(encoding="utf-8"))


def test_every_case_is_measured_for_every_contestant(results: dict[str, Any]) -> None:
    measured = {tuple(row["cell"]) for row in results["times"]}
    assert measured == {
        (name, kind, case, 150, at_once)
        for kind, names in CONTESTANTS.items()
        for name in names
        for case in CASES
        for at_once in (1, 50)
    }


def test_what_needs_no_stopwatch_is_what_we_promise(results: dict[str, Any]) -> None:
    facts = {(row["kind"], row["contestant"]): row["facts"] for row in results["facts"]}
    memory, signed, theirs = facts["memory", "ours"], facts["signed", "ours"], facts["signed", "Starlette"]
    assert memory["lost of 1,000 updates"] == 0
    assert not memory["a slow request undoes a logout"]
    assert not memory["adopts an id of a stranger"]
    assert signed["keeps a nested write"]
    assert not theirs["keeps a nested write"]
    assert signed["set-cookie per 1,000 reads"] == 0
    assert signed["per request"]["untouched"]["bytes"] == 0 < signed["per request"]["write"]["bytes"]


def test_a_mark_is_judged_where_both_sides_were_measured(results: dict[str, Any]) -> None:
    names = [mark["name"] for mark in results["marks"]]
    assert "signed cookie, read, over Starlette" in names
    assert not any("Redis" in name or "starsessions 2.2.1" in name for name in names)
    assert all(mark["met"] == (mark["figure"] <= float(mark["mark"][1:])) for mark in results["marks"])


def test_the_tables_say_it_in_words(results: dict[str, Any]) -> None:
    said = tables(results)
    assert "| mark | figure | wanted | met |" in said
    assert "| case | bytes | at once | ours | Starlette |" in said
    assert "In memory, µs over the bare application:" in said


def test_the_tables_take_their_places_in_a_page(results: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- marks -->\nold\n<!-- end -->\n\nAfter.\n", encoding="utf-8")
    publish(results, page)
    before, table, after = page.read_text(encoding="utf-8").split("\n\n")
    assert (before, after) == ("Before.", "After.\n")
    assert table.startswith("<!-- marks -->\n| mark | figure |")
    assert "old" not in table


def test_the_pictures_are_svg(results: dict[str, Any], tmp_path: Path) -> None:
    draw(results, tmp_path)
    [picture] = tmp_path.iterdir()  # no store was measured
    root = ET.fromstring(picture.read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "Starlette" in picture.read_text(encoding="utf-8")


@rows("size", [150, 2048, 4096, 65536])
def test_the_data_has_about_the_size_that_it_is_called_by(size: int) -> None:
    assert size - 45 <= len(json.dumps(data_of(size), separators=(",", ":"))) <= size + 10


def test_the_page_shows_the_reference_results(tmp_path: Path) -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "reference.json").read_text(encoding="utf-8"))
    page = ROOT / "docs" / "explanation" / "performance.md"
    copy = tmp_path / page.name
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    publish(results, copy)
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
    draw(results, tmp_path)
    for picture in tmp_path.glob("*.svg"):
        assert picture.read_bytes() == (ROOT / "docs" / "images" / picture.name).read_bytes()
