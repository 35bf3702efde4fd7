"""What an ASGI application and its scope are, to the modules of the benchmark."""

from collections.abc import Callable, MutableMapping
from typing import Any

App = Callable[..., Any]
Scope = MutableMapping[str, Any]
