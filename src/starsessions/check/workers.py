"""How many worker processes a server starts, from its command line and its environment."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

_VARIABLES = ("WEB_CONCURRENCY", "UVICORN_WORKERS", "GRANIAN_WORKERS")
_OPTION = re.compile(r"(?:--workers=|-w=?)([0-9]+)")


def workers_in(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Return the number of workers that uvicorn, gunicorn, hypercorn, granian or FastAPI's command line starts.

    >>> workers_in(["gunicorn", "-w", "4", "shop:app"], {})
    4
    >>> workers_in(["uvicorn", "shop:app"], {"WEB_CONCURRENCY": "2"})
    2
    """
    # A command line comes before the environment.
    counts = [*_in_command(argv), *_in_command(environ.get("GUNICORN_CMD_ARGS", "").split())]
    counts += [int(environ[name]) for name in _VARIABLES if environ.get(name, "").isdecimal()]
    return max([1, *counts[:1]])


def _in_command(argv: Sequence[str]) -> list[int]:
    """Return the values of the option."""
    joined = [match[1] for argument in argv if (match := _OPTION.fullmatch(argument))]
    apart = [value for option, value in pairwise(argv) if option in ("--workers", "-w")]
    return [int(value) for value in joined + apart if value.isdecimal()]
