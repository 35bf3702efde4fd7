"""fastapi-users: a login by password with a cookie of its own, beside a cart in the session."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi_users import BaseUserManager, FastAPIUsers, IntegerIDMixin, schemas
from fastapi_users.authentication import AuthenticationBackend, CookieTransport, JWTStrategy
from fastapi_users.db import SQLAlchemyBaseUserTable, SQLAlchemyUserDatabase
from sessions import KEY, SessionMiddleware
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine("sqlite+aiosqlite:///users.sqlite")
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class User(SQLAlchemyBaseUserTable[int], Base):
    id: Mapped[int] = mapped_column(primary_key=True)


class Manager(IntegerIDMixin, BaseUserManager[User, int]):
    async def on_after_login(self, user: User, request: Request | None = None, response: Any = None) -> None:
        assert request is not None
        request.session["last_login_of"] = user.email


async def manager() -> AsyncIterator[Manager]:
    async with new_session() as session:
        yield Manager(SQLAlchemyUserDatabase(session, User))


def strategy() -> JWTStrategy[User, int]:
    return JWTStrategy(secret=KEY, lifetime_seconds=3600)


backend = AuthenticationBackend(name="cookie", transport=CookieTransport(cookie_secure=False), get_strategy=strategy)
users = FastAPIUsers[User, int](manager, [backend])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(SessionMiddleware, secret_key=KEY)
app.include_router(users.get_register_router(schemas.BaseUser[int], schemas.BaseUserCreate))
app.include_router(users.get_auth_router(backend))


@app.post("/add")
async def add(request: Request) -> Any:
    request.session.setdefault("cart", []).append("tea")
    return request.session["cart"]


@app.get("/")
async def home(request: Request, user: User | None = Depends(users.current_user(optional=True))) -> Any:  # noqa: B008
    return {"user": user and user.email, **request.session}
