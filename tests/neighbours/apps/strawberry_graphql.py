"""Strawberry: the session in queries, mutations and subscriptions."""

from collections.abc import AsyncIterator

import strawberry
from fastapi import FastAPI
from sessions import ON_THE_SERVER, OURS, SessionMiddleware
from strawberry.fastapi import GraphQLRouter
from strawberry.types import Info


def session_of(info: Info) -> dict:
    return (info.context.get("request") or info.context["ws"]).session


@strawberry.type
class Query:
    @strawberry.field
    def cart(self, info: Info) -> list[str]:
        return session_of(info).get("cart", [])


@strawberry.type
class Mutation:
    @strawberry.mutation
    def add(self, info: Info, item: str) -> list[str]:
        cart = session_of(info).setdefault("cart", [])
        session_of(info)["cart"] = [*cart, item]
        return session_of(info)["cart"]


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def put(self, info: Info, item: str) -> AsyncIterator[list[str]]:
        session = session_of(info)
        session["cart"] = [*session.get("cart", []), item]
        if OURS:
            await session.persist()
        yield session["cart"]


app = FastAPI()
app.add_middleware(SessionMiddleware, **ON_THE_SERVER)
app.include_router(GraphQLRouter(strawberry.Schema(Query, Mutation, Subscription)), prefix="/graphql")
