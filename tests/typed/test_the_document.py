"""The examples of docs/typed.md work as described."""

import pytest
from starlette.testclient import TestClient

from tests.docs.test_docs import ROOT, stories, tell

FASTAPI, STARLETTE, MIGRATION = stories(ROOT / "docs" / "typed.md")


@pytest.mark.parametrize("story", [FASTAPI, STARLETTE], ids=["FastAPI", "Starlette"])
def test_the_applications_keep_a_cart(story: object) -> None:
    browser, stranger = TestClient(tell(story)["app"]), TestClient(tell(story)["app"])  # type: ignore[arg-type]
    assert browser.post("/cart/tea").json() == ["tea"]
    assert browser.post("/cart/milk").json() == ["tea", "milk"]
    assert stranger.post("/cart/milk").json() == ["milk"]


def test_the_migration_makes_a_cart_out_of_a_basket() -> None:
    migrate = tell(MIGRATION)["migrate"]
    assert migrate(1, {"basket": ["tea"], "theme": "dark"}) == {"cart": {"items": ["tea"]}, "theme": "dark"}
    assert migrate(1, {}) == {"cart": {"items": []}}
