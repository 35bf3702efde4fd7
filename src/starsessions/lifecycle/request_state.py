"""One request's session state, and what it has to know of the request."""

# Annotations are not to be worked out: what they name of anyio is imported when it is asked for, which takes long.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import anyio

from starsessions.core.state import SessionState
from starsessions.events import Event
from starsessions.lifecycle.config import Config, Headers


class RequestState(SessionState, eq=False):
    """The machine, and the world that its drivers work with."""

    if TYPE_CHECKING:
        config: Config

    headers: Headers = ()
    client: tuple[str, int] | None = None
    """The peer's address. (Not the whole scope: it holds the session, and neither would be freed at once.)"""

    events: Sequence[Event] = ()
    """What the application will hear of when the response is done."""
    clears_site_data: bool = False
    """Whether the response tells the browser to forget everything."""
    save_was_cancelled: bool = False
    """Whether the last `persist()` was cancelled: whoever did that need not be told that nothing was saved."""
    lock: anyio.Lock | None = None
    """Lets one task of this request at a time save, from the first `persist()` on."""
    is_saving: bool = False
    """Whether the headers wait for the session to be saved. (The phase stays `SAVING` if that fails.)"""
    headers_saved: anyio.Event | None = None
    """Set when what the headers wait for is saved; made by the first task that waits for that, too."""

    def note(self, *events: Event) -> None:
        """Keep events for the application, if it listens."""
        if self.config.on_event is not None:
            self.events = [*self.events, *events]

    def attach(self, model: Callable[[], None]) -> None:
        """Call `model` before the data is compared or saved, so that it can write its changes into it."""
        self.models = [*self.models, model]
        self.exposed = True

    def sync_models(self) -> None:
        """Have everything in the dict that belongs there."""
        for model in self.models:
            model()

    def saving_is_over(self) -> None:
        """Let the tasks go on that wait for what the headers wait for, whether or not it was saved."""
        self.is_saving = False
        if self.headers_saved is not None:
            self.headers_saved.set()

    def save_lock(self) -> anyio.Lock:
        """Lets one task of this request at a time save: two at once would store a new session twice."""
        if self.lock is None:
            self.lock = anyio.Lock()
        return self.lock
