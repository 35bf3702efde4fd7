"""The sessions of an application as a receiver sees them: found by what the provider calls them."""

from starsessions.users import UserSessions


class LinkedSessions:
    """The sessions that were signed in with `sign_in(…, provider=…)`."""

    def __init__(self, sessions: UserSessions) -> None:
        self._sessions = sessions

    def now(self) -> int:
        return self._sessions.provider_links()[1]

    async def end_linked(self, issuer: str, session: str, subject: str) -> None:
        await self._sessions.revoke_linked(issuer, session=session, subject=subject)

    async def end_all(self, user_id: str) -> None:
        await self._sessions.revoke_all(user_id)

    async def was_received(self, issuer: str, number: str) -> bool:
        links, now = self._sessions.provider_links()
        return await links.was_received(issuer, number, now)

    async def received(self, issuer: str, number: str, until: int) -> None:
        links, now = self._sessions.provider_links()
        await links.received(issuer, number, until, now)
