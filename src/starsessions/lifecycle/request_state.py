"""The session state of one request, with the parts of the request that it needs."""

# Annotations must not be evaluated: anyio imports the names in them on first use, which is slow.
from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from starsessions.backends.user_index import PendingSignIn
from starsessions.core.cookies import Headers
from starsessions.core.state import Phase, SessionState
from starsessions.events import Event
from starsessions.lifecycle.config import Config


class RequestState(SessionState, eq=False):
    """The state machine, with the data that loading and saving work on."""

    config: Config
    headers: Headers = ()
    method: str | None = None
    client: tuple[str, int] | None = None
    """The peer's address. (Storing the scope would create a reference cycle with the session, which delays freeing.)"""

    brings_foreign: bool = False
    """Whether the request has several cookies of this name, and one of them may be another application's."""
    events: Sequence[Event] = ()
    """The events to report to the application after the response."""
    clears_site_data: bool = False
    """Whether the response sends `Clear-Site-Data`."""
    save_was_cancelled: bool = False
    """Whether the last `persist()` was cancelled. If so, an unsaved change is expected and raises no error."""
    pending: PendingSignIn | None = None
    """The entry that a sign-in has stored, until the session is saved in its place."""
    tried_id: str | None = None
    """The new id under which this request last tried to store the session."""
    lock: anyio.Lock | None = None
    """Serializes the saves of this request's tasks; created by the first `persist()`."""
    is_saving: bool = False
    """Whether the headers wait for the session to be saved. (The phase stays `SAVING` if that fails.)"""
    headers_saved: anyio.Event | None = None
    """Set when the save that the headers wait for has finished; created by the first task that waits for it."""

    def note(self, *events: Event) -> None:
        """Record events for the application, if it has set `on_event`."""
        if self.config.on_event is not None:
            self.events = [*self.events, *events]

    def check_change(self) -> None:
        """Raise `ResponseStarted` for a change that could not be saved. Where that would hide an error, log it."""
        if self.phase is not Phase.LEFT:
            super().check_change()
        else:
            self.config.notices.warn(
                "left",
                "The session was changed in the error handler for Exception or 500, which runs outside of "
                "SessionMiddleware, so the change is lost. Change it in a handler for a more specific exception.",
            )

    def attach(self, model: Callable[[], None]) -> None:
        """Register `model`, which is called to write its changes into the data before that is compared or saved."""
        self.models: Sequence[Callable[[], None]] = [*self.models, model]
        self.expose()

    def sync_models(self) -> None:
        """Write the changes of all models into the data."""
        for model in self.models:
            model()

    def finish_saving(self) -> None:
        """Let the tasks go on that wait for what the headers wait for, whether or not it was saved."""
        self.is_saving = False
        if self.headers_saved is not None:
            self.headers_saved.set()

    def save_lock(self) -> anyio.Lock:
        """Return the lock that serializes saves: two concurrent ones would store a new session twice."""
        if self.lock is None:
            self.lock = anyio.Lock()
        return self.lock
