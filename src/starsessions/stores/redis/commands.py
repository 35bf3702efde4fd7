"""What all operations of the store have in common: the client of this event loop, a second attempt, a time limit."""

from asyncio import gather
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.loops import PerLoop
from starsessions.stores.redis.connection import Send, Transport, primaries_of, within
from starsessions.stores.redis.scripts import MARK, Script

P = ParamSpec("P")
T = TypeVar("T")


class Commands:
    """Send commands and scripts, and repeat those whose replies were lost.

    Args:
        clients: the clients by which to send.
        seconds: the limit of time of an operation.
        replicas: how many replicas must have a write before it is confirmed.
    """

    def __init__(self, clients: PerLoop[Transport], seconds: float, replicas: int) -> None:
        from redis import exceptions

        self._clients = clients
        self._seconds = seconds
        self.waits: bool = replicas > 0
        self._replicas = replicas
        # A third of the time: a script that the server does not know is sent again, and its reply may be lost.
        self._wait = ("WAIT", replicas, max(1, int(seconds * 1000 / 3)))
        self.failures: tuple[type[Exception], ...] = (exceptions.RedisError,)
        self._unknown_script = exceptions.NoScriptError
        # After these errors a command is retried. A read-only error means a failover: another node is the primary now.
        self._lost = (exceptions.ConnectionError, exceptions.ReadOnlyError)
        self.refusal: type[Exception] = exceptions.ResponseError
        self._is_spread = False

    @property
    def is_spread(self) -> bool:
        """Whether each script may use one key only: this is a Cluster, perhaps behind an ordinary client."""
        return self._is_spread or self._clients.get().is_cluster

    def has_found_slots(self, refusal: Exception) -> bool:
        """Return whether a script was refused because it used several keys, and remember that."""
        # The driver removes the word CROSSSLOT, by which Redis begins this message.
        self._is_spread = self._is_spread or "slot" in str(refusal)
        return self._is_spread

    async def finish(self, operation: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Begin an operation, wait for it, and return its result.

        Raises:
            BackendUnavailable: Redis failed, or did not answer in time.
            ImproperlyConfigured: there is no event loop in which a client can work.
        """
        self._clients.get()
        return await within(self._seconds, operation(*args, **kwargs), self.failures)

    async def read(self, name: bytes) -> bytes | None:
        """Return the value of a key; None if it is missing or no string."""
        read = self._clients.get().read
        try:
            try:
                stored: bytes | None = await read(name)
            except self._lost:
                stored = await read(name)
        except self.refusal as refusal:
            if not str(refusal).startswith("WRONGTYPE"):
                raise
            return None
        return stored

    async def ask(self, *command: Any) -> Any:
        """Return the reply to a command that changes nothing."""
        send = self._clients.get().send
        try:
            return await send(*command)
        except self._lost:
            return await send(*command)

    async def servers(self, *, anew: bool) -> Mapping[str, Send]:
        """Return how to reach each server that has entries, by name.

        Args:
            anew: ask a Cluster which servers these are.
        """
        transport = self._clients.get()
        return await primaries_of(transport.client, anew=anew) if transport.is_cluster else {"": transport.send}

    async def run(
        self, script: Script, keys: Sequence[bytes], *arguments: Any, send: Send | None = None
    ) -> tuple[Any, bool]:
        """Return the reply to a script, and whether it was sent twice. `send`: to one server of a Cluster."""
        try:
            return await self._run_once(script, keys, arguments, send), False
        except self._lost:
            return await self._run_once(script, keys, arguments, send), True

    async def run_durably(self, script: Script, keys: Sequence[bytes], *arguments: Any) -> tuple[Any, bool]:
        """As `run`, and wait until enough replicas have what the script has written, if they are to be waited for.

        Raises:
            BackendUnavailable: they have not said so in time.
        """
        if not self.waits:
            return await self.run(script, keys, *arguments)
        command = (len(keys), *keys, *arguments)
        try:
            return await self._confirmed(keys[0], script, command), False
        except self._lost:
            return await self._confirmed(keys[0], script, command), True

    async def confirm(self, *keys: bytes) -> None:
        """Wait until enough replicas have what was written to the servers of these keys, by anyone.

        Raises:
            BackendUnavailable: they have not said so in time.
        """
        if self.waits:
            await gather(*(self.run_durably(MARK, [key]) for key in keys))

    async def _confirmed(self, key: bytes, script: Script, command: tuple[Any, ...]) -> Any:
        """Run a script, and wait for replicas on the same connection: WAIT is about what that has written."""
        together, mark = self._clients.get().together, ("EVAL", MARK.source, 1, key)
        try:
            _, reply, count = await together(key, mark, ("EVALSHA", script.sha, *command), self._wait)
        except self._unknown_script:
            _, reply, count = await together(key, mark, ("EVAL", script.source, *command), self._wait)
        if count < self._replicas:
            raise BackendUnavailable(
                f"The write was carried out, but only {count} of {self._replicas} replicas have confirmed it in time. "
                "A failover may lose it: try again, and check the replicas."
            )
        return reply

    async def _run_once(
        self, script: Script, keys: Sequence[bytes], arguments: tuple[Any, ...], send: Send | None
    ) -> Any:
        send = send or self._clients.get().send
        try:
            return await send("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except self._unknown_script:
            return await send("EVAL", script.source, len(keys), *keys, *arguments)
