"""The tree of errors: what catches what, and messages that name the cure."""

import inspect

from starsessions import exceptions
from starsessions.exceptions import (
    ImproperlyConfigured,
    ResponseStarted,
    SessionError,
    SessionGone,
    SessionNotLoaded,
    SessionTooLarge,
    UnsupportedValue,
)
from tests.rows import rows


@rows(
    ("error", "parents"),
    [
        (ImproperlyConfigured, (SessionError,)),
        (SessionNotLoaded, (SessionError,)),
        (UnsupportedValue, (SessionError, TypeError)),
        (SessionTooLarge, (SessionError, ValueError)),
        (ResponseStarted, (SessionError, RuntimeError)),
        (SessionGone, (SessionError,)),
    ],
)
def test_every_error_is_caught_as_the_tree_shows(error: type[Exception], parents: tuple[type[Exception], ...]) -> None:
    assert error.__bases__ == parents


def test_the_tree_in_the_docstring_names_every_error() -> None:
    errors = [name for name, thing in vars(exceptions).items() if inspect.isclass(thing)]

    assert len(errors) == 10
    assert all(name in (exceptions.__doc__ or "") for name in errors)


def test_an_unsupported_value_names_its_path_and_type() -> None:
    error = UnsupportedValue('session["cart"][2]["price"]', "complex", "Store a number.")

    assert (error.path, error.kind) == ('session["cart"][2]["price"]', "complex")
    assert str(error) == 'session["cart"][2]["price"] is a complex, which a session cannot hold. Store a number.'


def test_a_hint_may_be_missing() -> None:
    assert str(UnsupportedValue("session[1]", "object")) == "session[1] is an object, which a session cannot hold."


def test_a_session_that_is_too_large_names_its_size_and_largest_keys() -> None:
    error = SessionTooLarge(5000, 4096, [("cart", 4000), ("user", 20)])

    assert (error.size, error.limit, error.largest) == (5000, 4096, [("cart", 4000), ("user", 20)])
    assert "5000" in str(error)
    assert "4096" in str(error)
    assert "'cart' (4000 bytes), 'user' (20 bytes)" in str(error)
    assert "keeps the data on the server" in str(error)
