"""An extension of griffe, for the reference: examples in docstrings are code, and not quotations."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?:^>>> .*\n?(?:^(?!\s*$).*\n?)*)+", re.MULTILINE)


def with_code(docstring: str) -> str:
    """Put each example (`>>> …` up to the next empty line) into a block of code.

    >>> print(with_code("Add.\\n\\n>>> 1 + 1\\n2"))
    Add.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    return _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", docstring).rstrip()


class Doctests(griffe.Extension):
    """Change the docstrings when griffe has read them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            obj.docstring.value = with_code(obj.docstring.value)
