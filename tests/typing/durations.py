"""Read by mypy, pyright and ty, never run: a duration is seconds or a `timedelta`, wherever one is asked for."""

from datetime import timedelta

from starlette.applications import Starlette

from starsessions import CookieBackend, EncryptedCookieBackend, Session, SessionMiddleware, set_expiry
from starsessions.backends.redis import RedisBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.fastapi import SessionCookie, fresh
from starsessions.testing import Clock
from starsessions.timeouts import AAL2, Timeouts
from starsessions.users import is_fresh
from starsessions.watch import move_on_when_ended

KEY = "a secret key of 32 random bytes or more"
HOUR = timedelta(hours=1)
OURS: Timeouts = {**AAL2, "max_age": timedelta(minutes=30)}

app = Starlette()
app.add_middleware(SessionMiddleware, secret_key=KEY, **OURS)
app.add_middleware(
    SessionMiddleware, KEY, max_age=HOUR, absolute_timeout=HOUR, rolling=True, renew_every=HOUR, rotate_every=HOUR
)
app.add_middleware(SessionMiddleware, KEY, max_age=3600, absolute_timeout=3600, renew_every=60, rotate_every=3600)

cookies = [CookieBackend(KEY, max_age=HOUR), EncryptedCookieBackend(KEY, max_age=3600)]
redis = RedisBackend("redis://localhost", timeout=HOUR)
sql = SQLAlchemyBackend("sqlite+aiosqlite://", timeout=HOUR, sweep_every=HOUR)
dependencies = [fresh(HOUR), fresh(within=600), SessionCookie().fresh(HOUR)]
Clock().advance(HOUR)


async def handler(session: Session) -> None:
    is_fresh(session, HOUR)
    set_expiry(session, HOUR)
    await session.regenerate_id(grace=HOUR)
    async with move_on_when_ended(session, HOUR):
        pass
