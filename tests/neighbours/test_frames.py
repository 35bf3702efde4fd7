"""What an error tracker sees: Sentry, for one, sends the local variables of each frame of a traceback."""

from collections.abc import Callable, Iterator
from types import TracebackType

import pytest

from starsessions import SessionBackend, UnsupportedValue
from starsessions.session import Session
from tests.kinds import each_store_backend
from tests.site import Site

pytestmark = pytest.mark.anyio

FILTERED = ("session", "scope")
"""Trackers leave out variables with the first name; the frames of the server and the framework have the second."""


def our_variables(traceback: TracebackType | None) -> Iterator[tuple[str, str, str]]:
    while traceback:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        if "/src/starsessions/" in frame.f_code.co_filename:
            for name, value in frame.f_locals.items():
                if name not in FILTERED:
                    yield frame.f_code.co_qualname, name, f"{value!r} {getattr(value, '__dict__', '')}"


@each_store_backend
async def test_the_traceback_of_a_value_that_cannot_be_stored_holds_no_data(
    store_backend: SessionBackend, site_of: Callable[..., Site]
) -> None:
    def change(session: Session) -> None:
        session["name"] = "a-name-in-the-session"
        session["what"] = object()

    with pytest.raises(UnsupportedValue) as raised:
        await site_of(backend=store_backend).visit(change)
    variables = list(our_variables(raised.value.__traceback__))
    assert len(variables) > 5
    assert [(function, name) for function, name, text in variables if "a-name-in-the-session" in text] == []
    assert raised.value.__suppress_context__
