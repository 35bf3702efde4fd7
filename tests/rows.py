"""Tables in tests: one test that goes through all rows and reports every row that fails.

`@rows("text, answer", TABLE)` is spelled like `pytest.mark.parametrize`, and several of them multiply in the same way.
The difference: the table is one test, not one for each row. That is right where a row is only data. All rows share the
fixtures, so a test that needs a fresh fixture for each row (a backend, a moved clock) stays with `parametrize`.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

Test = Callable[..., Any]


class RowsFailed(ExceptionGroup[Exception]):
    """The failures of a table. Each has a note that names its row."""

    def derive(self, errors: Sequence[Exception], /) -> "RowsFailed":  # type: ignore[override]
        return RowsFailed(self.message, errors)


def rows(names: str | Sequence[str], table: Iterable[Any], *, ids: Any = None) -> Callable[[Test], Test]:
    """Run the test once for each row of the table, all in one test.

    Args:
        names: The parameters that a row fills: one text with commas, or a list.
        table: The rows. With one name a row is the value itself.
        ids: A name for each row: a sequence, or a function of a value. Without it a row is named by its values.
    """
    named = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    filled = [dict(zip(named, (row,) if len(named) == 1 else row, strict=True)) for row in table]
    titles = filled if ids is None or callable(ids) else list(ids)
    table = list(zip(titles, filled, strict=True))
    assert table, "a table without rows tests nothing"
    spell = ids if callable(ids) else repr

    def decorate(test: Test) -> Test:
        def run(*self: Any, **fixtures: Any) -> None:
            with collected(spell) as failed:
                for title, row in table:
                    with failed(title):
                        test(*self, **fixtures, **row)

        async def run_async(*self: Any, **fixtures: Any) -> None:
            with collected(spell) as failed:
                for title, row in table:
                    with failed(title):
                        await test(*self, **fixtures, **row)

        wrapped: Any = functools.wraps(test)(run_async if inspect.iscoroutinefunction(test) else run)
        signature = inspect.signature(test)
        assert set(named) <= set(signature.parameters), f"{test.__name__} does not take all of {named}"
        fixtures = [parameter for name, parameter in signature.parameters.items() if name not in named]
        wrapped.__signature__ = signature.replace(parameters=fixtures)
        return cast(Test, wrapped)

    return decorate


@contextmanager
def collected(spell: Callable[[Any], object] = repr) -> Iterator[Callable[[Any], Any]]:
    """Raise the failures of all rows together, at the end, or else a skip. Each row runs in `with failed(its name)`."""
    errors: list[Exception] = []
    skips: list[BaseException] = []

    @contextmanager
    def failed(title: Any) -> Iterator[None]:
        try:
            yield
        except (Exception, pytest.fail.Exception) as error:
            for one in error.exceptions if isinstance(error, RowsFailed) else (_as_exception(error),):
                one.add_note(f"in the row {_spelled(title, spell)}")
                errors.append(one)
        except pytest.skip.Exception as skip:
            skips.append(skip)

    yield failed
    if errors:
        raise RowsFailed(f"failed in {len(errors)} rows", errors)
    if skips:
        raise skips[0]


def _as_exception(error: BaseException) -> Exception:
    """Where `pytest.raises` finds no error, it raises what is no `Exception`."""
    return error if isinstance(error, Exception) else AssertionError(str(error)).with_traceback(error.__traceback__)


def _spelled(title: Any, spell: Callable[[Any], object]) -> str:
    """Only for a row that failed: some values cannot be shown, and most need not be."""
    if not isinstance(title, dict):
        return str(title)
    return ", ".join(f"{name}={_short(value, spell)}" for name, value in title.items())


def _short(value: Any, spell: Callable[[Any], object]) -> str:
    try:
        text = str(spell(value))
    except ValueError:
        return f"a {type(value).__name__} that cannot be shown"  # an int of more than 4,300 digits
    return text if len(text) <= 80 else text[:77] + "..."
