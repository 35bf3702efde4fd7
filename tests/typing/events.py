"""Read by mypy, pyright and ty, never run: what is done about each event."""

from typing import assert_type

from starlette.applications import Starlette

from starsessions import InMemoryBackend, MissReason, SessionMiddleware
from starsessions.events import (
    ConflictResolved,
    Created,
    EndedByOperator,
    Event,
    Expired,
    InvalidCookie,
    OnEvent,
    Planted,
    Renewed,
    Revoked,
    Rotated,
    RotatedIdReused,
    SchemaMismatch,
    SignedIn,
    SignedOut,
    StoreFailed,
    UnknownId,
)
from starsessions.users import UserSessions


def line_for(event: Event) -> str | None:
    match event:
        case Created(handle) | Renewed(handle) | ConflictResolved(handle):
            return f"{handle} was written"
        case Rotated(handle, before):
            return f"{before} is {handle}"
        case SignedIn(handle, user_id, method, agent, address):
            return f"{handle}: {user_id} signed in with {method} on {agent} at {address}"
        case SignedOut(_, user_id, agent) | Revoked(_, user_id, agent):
            return f"{user_id} is signed out on {agent}"
        case EndedByOperator(operator=operator, ended=ended):
            assert_type(ended, int | None)
            return f"{operator} has ended {'some' if ended is None else ended}"
        case _:
            return None


async def alarm(event: Event) -> None:
    match event:
        case Expired(handle=str(handle), why=why) | InvalidCookie(handle=str(handle), why=why):
            assert_type(why, MissReason)
            print(f"{handle} is not valid: {why}")  # noqa: T201
        case InvalidCookie():
            assert_type(event.handle, str | None)
        case UnknownId(handle=handle) | RotatedIdReused(handle=handle):
            assert_type(handle, str)
        case Planted(handles):
            assert_type(handles, tuple[str, ...])
        case SchemaMismatch(handle, model, version, why):
            assert_type((handle, model, version, why), tuple[str | None, str, int, str])
        case StoreFailed(why):
            assert_type(why, str)
        case _:
            pass


hear: OnEvent = alarm
log: OnEvent = line_for
app = Starlette()
app.add_middleware(SessionMiddleware, secret_key="a key of 32 random bytes or more", on_event=hear)
users = UserSessions(InMemoryBackend(), on_event=log)
